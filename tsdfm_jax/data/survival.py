"""Whether text survives a tokenizer: what decode(encode(text)) loses of a sample of the corpus, and which part of it is to blame."""

import collections
import copy
import itertools
import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tsdfm_jax.data import tokenizer as tokenizers

DOCUMENTS = 200  # documents of a sample
PIECES = 8  # pieces of a document
CHARACTERS = 1000  # characters of a piece
BLAMED = 20  # changed pieces that the search for the cause looks at


def survival(tok: tokenizers.Tokenizer, texts: Iterable[str]) -> dict[str, Any]:
    """What a tokenizer loses of the first DOCUMENTS texts: {"bytes", "lost_bytes", "tokens", "unknown_tokens", "cause"}.

    A lost byte is one of a character that the decoded piece has less often than the piece, at least one in a piece that comes
    back changed. `cause` names the part of the tokenizer that changes the text, None where nothing is lost.
    """
    sample = [piece for text in itertools.islice(texts, DOCUMENTS) for piece in _pieces(text)]
    rows = tok.encode_batch(sample)
    lost = {piece: _lost_bytes(piece, tok.decode(ids)) for piece, ids in zip(sample, rows, strict=True)}
    changed = [piece for piece, count in lost.items() if count]
    unknown = sum(int((ids == tok.unknown_id).sum()) for ids in rows)
    return {
        "bytes": sum(len(piece.encode()) for piece in sample),
        "lost_bytes": sum(lost[piece] for piece in sample),
        "tokens": sum(map(len, rows)),
        "unknown_tokens": unknown,
        "cause": cause(tok, changed[:BLAMED]) if changed else None,
    }


def check(found: dict[str, Any], limit: float, file: str) -> None:
    """Raise ValueError, one line, if a tokenizer loses a larger share of the text's bytes than `limit`, data.text_loss."""
    share = found["lost_bytes"] / max(found["bytes"], 1)
    if share > limit:
        unit = 10.0 ** (math.floor(math.log10(share)) - 1)
        accepted = min(1.0, math.ceil(share / unit + 0.1) * unit)
        raise ValueError(
            f"tokenizer {file} loses {100 * share:.2g} % of the text's bytes ({found['cause']}): take another, or accept it with "
            f"--config.data.text_loss={accepted:.2g}"
        )


def cause(tok: tokenizers.Tokenizer, texts: Sequence[str]) -> str:
    """The part of a tokenizer that changes these texts, in words."""
    if isinstance(tok, tokenizers.SentencePiece):
        return _cause_of_model(tok, texts)
    return _cause_of_json(tok, texts) if isinstance(tok, tokenizers.Json) else _cause_of_tokens(tok, texts)


def _pieces(text: str) -> list[str]:
    """PIECES pieces of a text at even distances; they begin and end inside words, where no normaliser trims."""
    if len(text) <= CHARACTERS:
        return [text] if text else []
    number = min(PIECES, -(-len(text) // CHARACTERS))
    starts = [(len(text) - CHARACTERS) * i // (number - 1) for i in range(number)]
    pieces = [text[_inside(text, start) : _inside(text, start + CHARACTERS)] for start in starts]
    return [piece for piece in pieces if piece]


def _inside(text: str, at: int) -> int:
    """The nearest place before `at` between two letters or digits, within 100 characters; `at` itself if there is none."""
    if at in (0, len(text)):
        return at
    near = range(at, max(at - 100, 0), -1)
    return next((i for i in near if text[i - 1 : i + 1].isalnum() and text[i - 1 : i + 1].isascii()), at)


def _lost_bytes(text: str, decoded: str) -> int:
    if text == decoded:
        return 0
    missing = collections.Counter(text) - collections.Counter(decoded)
    return max(1, sum(len(character.encode()) * count for character, count in missing.items()))


def _loss(tok: tokenizers.Tokenizer, texts: Sequence[str]) -> int:
    return sum(_lost_bytes(text, tok.decode(ids)) for text, ids in zip(texts, tok.encode_batch(texts), strict=True))


def _cause_of_model(tok: tokenizers.SentencePiece, texts: Sequence[str]) -> str:
    from sentencepiece import sentencepiece_model_pb2  # only when text is lost

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(tok.file)
    spec = model.normalizer_spec
    if spec.precompiled_charsmap:
        model.normalizer_spec.precompiled_charsmap = b""
        if _loss(tokenizers.SentencePiece(model.SerializeToString()), texts) < _loss(tok, texts):
            return f"its normaliser {spec.name}"
    if spec.remove_extra_whitespaces:
        model.normalizer_spec.remove_extra_whitespaces = False
        if _loss(tokenizers.SentencePiece(model.SerializeToString()), texts) < _loss(tok, texts):
            return "its normaliser's remove_extra_whitespaces"
    return _cause_of_tokens(tok, texts)


def _cause_of_json(tok: tokenizers.Json, texts: Sequence[str]) -> str:
    """The first normaliser without which less is lost, else the first pre-tokenizer that leaves characters out, or the rest."""
    body, before = json.loads(tok.file), _loss(tok, texts)
    for part in _parts(body["normalizer"], "normalizers"):
        without = copy.deepcopy(body)
        others = [other for other in _parts(body["normalizer"], "normalizers") if other is not part]
        without["normalizer"] = {"type": "Sequence", "normalizers": others} if others else None
        if _loss(tokenizers.Json(json.dumps(without).encode()), texts) < before:
            return f"its normaliser {part['type']}"
    for part in _parts(body["pre_tokenizer"], "pretokenizers"):
        if _leaves_out(body | {"pre_tokenizer": part}, texts):
            return f"its pre-tokenizer {part['type']}"
    return _cause_of_tokens(tok, texts, (body["decoder"] or {"type": "that joins tokens with spaces"})["type"])


def _parts(section: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    if section is None:
        return []
    return section[name] if section["type"] == "Sequence" else [section]


def _leaves_out(body: dict[str, Any], texts: Sequence[str]) -> bool:
    """Whether the body's pre-tokenizer drops characters of one of the texts."""
    import tokenizers as library

    split: Callable[[str], Any] = library.Tokenizer.from_str(json.dumps(body)).pre_tokenizer.pre_tokenize_str
    return any(sum(end - start for _, (start, end) in split(text)) < len(text) for text in texts)


def _cause_of_tokens(tok: tokenizers.Tokenizer, texts: Sequence[str], decoder: str = "") -> str:
    if any((ids == tok.unknown_id).any() for ids in tok.encode_batch(texts)):
        return "characters that its vocabulary lacks"
    return f"its decoder {decoder}" if decoder else "its decoding"
