"""Tokenizers: a SentencePiece model trained here or given, or a tokenizer.json; one file in one directory."""

import abc
import hashlib
import heapq
import io
import json
import os
import pathlib
import re
from collections.abc import Iterator, Sequence

import numpy as np
import sentencepiece

from tsdfm_jax.storage import atomic, places

MASK = "▒"
END = "¶"
BREAK = "\n\n"
_MODEL = "tokenizer.model"
_JSON = "tokenizer.json"
# SentencePiece writes a space as this character, and so cannot tell the two apart; this character is encoded as bytes.
_SPACE = "\u2581"
# Lines are cut at this many characters, because the trainer's cost grows with the longest line. Merges never cross a
# line end.
_LINE = 4096
# A sample of the corpus is drawn from this many times its size: a pass over terabytes would not improve it.
_READ_FACTOR = 8
_THREADS = min(8, os.cpu_count() or 1)
_END_NAMES = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[SEP]")


class Tokenizer(abc.ABC):
    """Text to tokens and back; picklable.

    Attributes:
        vocab_size: number of tokens, without a mask token; code that needs one adds it at `vocab_size`.
        eos_id: the token that ends a document; never the result of encoding text.
        content_hash: sha256 of the tokenizer's file, in hex.
        unknown_id: the token of what the vocabulary lacks, -1 if there is none.
        file: the bytes of the tokenizer's file.
        end_text: text that would be encoded as the document end, if there is any; a corpus may hold it.
        threads: threads for encoding a batch; only SentencePiece uses it.
    """

    vocab_size: int
    eos_id: int
    content_hash: str
    unknown_id: int = -1
    threads: int = _THREADS

    @abc.abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Tokens of each text, int32, no document end added; raises ValueError for half a surrogate pair."""

    @abc.abstractmethod
    def _decode_known(self, ids: list[int]) -> str:
        """Text of tokens that are in the vocabulary and are not document ends."""

    def encode(self, text: str) -> np.ndarray:
        """Tokens of one text, int32, no document end added."""
        return self.encode_batch([text])[0]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of `ids`: document ends vanish, tokens outside the vocabulary (masks) become '▒'."""
        return self._decode(ids, "")

    def decode_pretty(self, ids: Sequence[int] | np.ndarray) -> str:
        """As `decode`, but a document end becomes an empty line, so that words on its two sides stay apart."""
        return self._decode(ids, BREAK)

    def pieces(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """Each token's text by itself: '¶' for a document end, '▒' for a mask, '\ufffd' for a part of a character."""
        text_of = lambda token: self._decode_known([token]) if 0 <= token < self.vocab_size else MASK
        return [END if token == self.eos_id else text_of(token) for token in np.asarray(ids).tolist()]

    def _decode(self, ids: Sequence[int] | np.ndarray, document_break: str) -> str:
        texts, parts, run = [], [], []
        for token in np.asarray(ids).tolist():
            if token == self.eos_id:
                texts.append(self._trim("".join(parts) + self._decode_known(run)))
                parts, run = [], []
            elif 0 <= token < self.vocab_size:
                run.append(token)
            else:
                parts += [self._decode_known(run), MASK]
                run = []
        texts.append(self._trim("".join(parts) + self._decode_known(run)))
        return document_break.join(texts)

    def _trim(self, text: str) -> str:
        return text


class SentencePiece(Tokenizer):
    """A SentencePiece model; with byte fallback and no dummy prefix it decodes every text exactly."""

    def __init__(self, data: bytes):
        if not data:
            raise ValueError("the file is empty")
        self._model = sentencepiece.SentencePieceProcessor(model_proto=data)
        self.vocab_size = self._model.vocab_size()
        self.eos_id, self.unknown_id = self._model.eos_id(), self._model.unk_id()
        self.content_hash = hashlib.sha256(data).hexdigest()
        if self.eos_id < 0:
            raise ValueError("the model has no end-of-sentence token to mark document ends with")
        self._pieces = [self._bytes_of(i) for i in range(self.vocab_size)]
        self._adds_space = self._decode_known(self._model.encode("a")).startswith(" ")
        # Characters that decoding would lose, and the tokens of their bytes: '▁', and the space if the model has no piece
        # for it, because it was trained on text without spaces.
        lost_characters = _SPACE if self._model.piece_to_id(_SPACE) != self._model.unk_id() else _SPACE + " "
        self._byte_tokens = {c: [self._model.piece_to_id(f"<0x{byte:02X}>") for byte in c.encode()] for c in lost_characters}
        if self._adds_space or not all(self._model.is_byte(i) for ids in self._byte_tokens.values() for i in ids):
            self._byte_tokens = {}

    @property
    def file(self) -> bytes:
        return self._model.serialized_model_proto()

    def _bytes_of(self, token: int) -> bytes:
        piece = self._model.id_to_piece(token)
        if self._model.is_byte(token):
            return bytes([int(piece[3:5], 16)])
        if self._model.is_control(token):
            return b""
        return b"\xe2\x81\x87" if self._model.is_unknown(token) else piece.replace(_SPACE, " ").encode()

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        if not any(character in text for character in self._byte_tokens for text in texts):
            return [np.array(ids, np.int32) for ids in self._ids(texts)]
        parts = [re.split(f"([{''.join(self._byte_tokens)}])", text) for text in texts]  # text, character, text, character, …
        flat = iter(self._ids([part for row in parts for part in row[::2]]))
        joined = []
        for row in parts:
            ids = list(next(flat))
            for character in row[1::2]:
                ids += self._byte_tokens[character] + next(flat)
            joined.append(np.array(ids, np.int32))
        return joined

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        for text in texts:
            _check_unicode(text)
        return self._model.encode(list(texts), out_type=int, num_threads=self.threads)

    def _decode_known(self, ids: list[int]) -> str:
        # Not the library's decode: it turns '▁' into a space even if it was encoded as bytes.
        return b"".join([self._pieces[i] for i in ids]).decode(errors="replace")

    def _trim(self, text: str) -> str:
        return text.removeprefix(" ") if self._adds_space else text


class Json(Tokenizer):
    """A tokenizer.json of the `tokenizers` library, such as GPT-2's byte-level BPE."""

    def __init__(self, data: bytes):
        import tokenizers  # only when such a file is given

        self._model = tokenizers.Tokenizer.from_str(data.decode())
        self._model.no_padding()
        self._model.no_truncation()
        # Text that spells a special token stays text: a corpus must not be able to end its own document.
        self._model.encode_special_tokens = True
        self.vocab_size = max(self._model.get_vocab().values(), default=-1) + 1
        self.content_hash = hashlib.sha256(data).hexdigest()
        ends = [self._model.token_to_id(name) for name in _END_NAMES if self._model.token_to_id(name) is not None]
        if not ends:
            raise ValueError(f"it has none of {', '.join(_END_NAMES)} to mark document ends with")
        self.eos_id, self.file = ends[0], data
        unknown = getattr(self._model.model, "unk_token", None) or json.loads(data)["model"].get("unk_id")
        self.unknown_id = self._model.token_to_id(unknown) if isinstance(unknown, str) else -1 if unknown is None else unknown

    @property
    def end_text(self) -> str:
        """The text that is encoded as the document end, if the file does not mark that token as special; else empty."""
        end = self._model.id_to_token(self.eos_id)
        return end if self.eos_id in self.encode(end) else ""

    def __reduce__(self):
        # The library's own pickle loses the setting `encode_special_tokens`.
        return type(self), (self.file,)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        for text in texts:
            _check_unicode(text)
        rows = self._model.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(row.ids, np.int32) for row in rows]

    def _decode_known(self, ids: list[int]) -> str:
        return self._model.decode(ids, skip_special_tokens=False) if ids else ""


_KINDS = {_MODEL: SentencePiece, _JSON: Json}


def train(documents: Iterator[str], path: pathlib.Path, vocab_size: int, train_bytes: int, seed: int) -> None:
    """Train a SentencePiece BPE model on a seeded sample of lines and write `path`/tokenizer.model.

    `train_bytes` is the sample's size, drawn from the first eight times as much text. Same input, same bytes.
    Errors: ValueError if vocab_size is too small for bytes and characters, or too large for the sample.
    """
    lines = _sample(documents, train_bytes, seed)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            character_coverage=0.9995,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            user_defined_symbols=["\n"],
            unk_id=0,
            eos_id=1,
            bos_id=-1,
            pad_id=-1,
            max_sentence_length=4 * _LINE,
            num_threads=1,  # the model file holds this number, so it changes the content hash
            minloglevel=3,
        )
    except RuntimeError as error:
        raise ValueError(_training_error(str(error), vocab_size)) from None
    _store(model.getvalue(), path, _MODEL)


def adopt(file: str, path: pathlib.Path) -> Tokenizer:
    """Load a SentencePiece .model or a tokenizer.json, and copy it into the directory `path`; returns the tokenizer.

    Errors: FileNotFoundError, or ValueError for another suffix or a file that does not load.
    """
    tok, data, name = _load_file(file)
    _store(data, path, name)
    return tok


def from_file(file: str) -> Tokenizer:
    """The tokenizer in a SentencePiece .model or a tokenizer.json of any name; errors as in `adopt`."""
    return _load_file(file)[0]


def require_special_end(tok: Tokenizer, file: str) -> None:
    """Raise ValueError if the tokenizer in `file` lets the text of a corpus end its own document."""
    if tok.end_text:
        raise ValueError(f"tokenizer {file!r}: text that spells {tok.end_text} would end its document: mark it as special there")


def _load_file(file: str) -> tuple[Tokenizer, bytes, str]:
    source = places.expanded(file)
    if not os.path.lexists(source):
        raise FileNotFoundError(f"no tokenizer file at {file!r}: give a SentencePiece .model or a tokenizer.json")
    places.require_readable(source, "tokenizer")
    names = {".model": _MODEL, ".json": _JSON}
    if source.suffix not in names:
        raise ValueError(f"tokenizer {file!r} ends in {source.suffix!r}: give a SentencePiece .model or a tokenizer.json")
    data = source.read_bytes()
    return _parse(data, names[source.suffix], source), data, names[source.suffix]


def read(path: pathlib.Path) -> Tokenizer:
    """The tokenizer in a file named tokenizer.model or tokenizer.json; raises ValueError if it is damaged."""
    return _parse(path.read_bytes(), path.name, path)


def load(path: pathlib.Path) -> Tokenizer:
    """The tokenizer in directory `path`.

    Errors: FileNotFoundError if there is none, ValueError if its file is damaged.
    """
    for name in _KINDS:
        if (path / name).is_file():
            return read(path / name)
    raise FileNotFoundError(f"no tokenizer in {path}: run --stage=tokenizer first")


def _store(data: bytes, path: pathlib.Path, name: str) -> None:
    atomic.write(path / name, data)
    for other in _KINDS:
        if other != name:
            (path / other).unlink(missing_ok=True)


def _parse(data: bytes, name: str, path: pathlib.Path) -> Tokenizer:
    try:
        return _KINDS[name](data)
    except ImportError:
        raise ValueError(f"{path} needs the package 'tokenizers': pip install tokenizers") from None
    except Exception as error:  # the two libraries raise bare Exception and RuntimeError
        reason = str(error).split("\n")[0]
        raise ValueError(f"{path} cannot be read as a tokenizer ({reason}): delete it, and make or fetch it again") from None


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"text has half a surrogate pair at character {error.start}, which is no character: remove it") from None


def _sample(documents: Iterator[str], train_bytes: int, seed: int) -> list[str]:
    """A seeded, uniform sample of lines in the corpus's order; `train_bytes` limits its size, and so the memory."""
    rng, sample, size, bytes_read = np.random.default_rng(seed), [], 0, 0
    for ordinal, line in enumerate(_lines(documents)):
        bytes_read += len(line.encode())
        size += len(line.encode())
        heapq.heappush(sample, (-rng.random(), ordinal, line))
        while size > train_bytes:
            size -= len(heapq.heappop(sample)[2].encode())
        if bytes_read >= _READ_FACTOR * train_bytes:
            break
    if not sample:
        raise ValueError(f"no text to train a tokenizer on within train_bytes {train_bytes}: raise it, or check the corpus")
    return [line for _, _, line in sorted(sample, key=lambda item: item[1])]


def _lines(documents: Iterator[str]) -> Iterator[str]:
    for text in documents:
        for line in text.split("\n"):
            yield from (line[start : start + _LINE] for start in range(0, len(line), _LINE))


def _training_error(message: str, vocab_size: int) -> str:
    if small := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return f"tokenizer.vocab_size {vocab_size} is too small: bytes and this text's characters alone need {small[1]}"
    if large := re.search(r"too high \(\d+\)\. Please set it to a value <= (\d+)", message):
        return f"tokenizer.vocab_size {vocab_size} is too large for this much text: at most {large[1]}, or more text in data.files"
    return f"no tokenizer of tokenizer.vocab_size {vocab_size} could be trained: {message.splitlines()[0]}"
