"""Packed token windows: prepared once from a stream, then shuffled, sharded by process and resumed by grain."""

import dataclasses
import functools
import hashlib
import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import grain
import numpy as np

from tsdfm_jax.data import ingest, packer, shards, tokenizer as tokenizers, words as word_lists
from tsdfm_jax.data.window_config import WindowsConfig
from tsdfm_jax.storage import atomic

_MANIFEST = "manifest.json"
_LEXICON = "lexicon.txt"
_REMEDY = "run --stage=data, and it is made again"


def prepare(
    documents: Iterator[str],
    tokenizer: tokenizers.Tokenizer,
    directory: pathlib.Path,
    cfg: WindowsConfig,
    progress: Callable[[int], None] | None = None,
    stop: Callable[[], bool] | None = None,
    *,
    fingerprint: str = "",
    workers: int = 1,
    costs: ingest.Costs | None = None,
) -> dict[str, Any]:
    """Tokenise, split by document, pack into windows of L, write shards, lexicon and manifest; returns the manifest.

    Resumes an interrupted call and writes the same bytes as an uninterrupted one; a finished directory is not prepared
    again. `progress` receives the bytes of text packed so far; `stop` is called after every document.
    Several `workers` tokenise in separate processes and give the same bytes; `costs` receives the times.
    A corpus of one document is split by windows, and the manifest's `split_by` says so.
    Errors: InterruptedError if `stop` returns True; ValueError if L exceeds a split, a finished directory was made from
    something else, or a worker dies; OSError from the disk.
    """
    dtype = "uint16" if tokenizer.vocab_size <= 65535 else "int32"
    identity = {
        "schema": 1,
        "config": dataclasses.asdict(cfg),
        "tokenizer": tokenizer.content_hash,
        "vocab_size": tokenizer.vocab_size,
        "eos_id": tokenizer.eos_id,
        "corpus": fingerprint,
        "dtype": dtype,
    }
    if (directory / _MANIFEST).is_file():
        return _require_same(directory, identity)
    directory.mkdir(parents=True, exist_ok=True)
    pack = packer.Packer(directory, identity, length=cfg.length, windows_per_shard=cfg.windows_per_shard, dtype=dtype)
    pack.restore()
    stream = iter(documents)
    head = list(itertools.islice(stream, 2))
    split_options = dict(seed=cfg.seed, holdout=cfg.holdout)
    if len(head) == 1:
        ingest.fill_one(pack, head[0], tokenizer, length=cfg.length, **split_options)
    else:
        rest = itertools.islice(itertools.chain(head, stream), pack.documents, None)
        run_options = dict(workers=workers, progress=progress, stop=stop, costs=costs or ingest.Costs())
        ingest.fill(pack, rest, tokenizer, **split_options, **run_options)
    return _seal(pack, identity, "windows" if len(head) == 1 else "documents")


def forget(directory: pathlib.Path) -> None:
    """Let `prepare` make everything again in a directory that it had finished."""
    (directory / _MANIFEST).unlink(missing_ok=True)
    packer.remove_progress(directory)


def _require_same(directory: pathlib.Path, identity: dict[str, Any]) -> dict[str, Any]:
    meta = manifest(directory)
    for key, value in identity.items():
        if meta.get(key) != value:
            raise ValueError(
                f"{directory} was prepared with {key} {meta.get(key)}, not {value}: choose another workdir or delete it"
            )
    packer.remove_progress(directory)
    return meta


def _seal(pack: packer.Packer, identity: dict[str, Any], split_by: str) -> dict[str, Any]:
    cfg, tokens = identity["config"], {name: part.tokens for name, part in pack.splits.items()}
    for name, count in tokens.items():
        if count < cfg["length"]:
            raise ValueError(
                f"data.length {cfg['length']} is longer than the {name} split of the corpus, {count} tokens: "
                "shorten it or give more text in data.files"
            )
    splits = pack.finish()
    words = "".join(f"{word}\n" for word in sorted(pack.words)).encode()
    atomic.write(pack.directory / _LEXICON, words)
    lexicon_entry = {"words": len(pack.words), "full": pack.lexicon_full, "sha256": hashlib.sha256(words).hexdigest()}
    body = identity | {
        "documents": pack.documents,
        "bytes": pack.bytes,
        "split_by": split_by,
        "splits": splits,
        "lexicon": lexicon_entry | {"pattern": word_lists.LETTERS},
    }
    packer.sweep(pack.directory, keep={entry["name"] for part in splits.values() for entry in part["shards"]})
    written = atomic.write_sealed(pack.directory / _MANIFEST, body)
    packer.remove_progress(pack.directory)  # last, so that a kill before it costs nothing
    return written


def manifest(directory: pathlib.Path) -> dict[str, Any]:
    """The manifest that `prepare` wrote; raises FileNotFoundError if unfinished, ValueError if damaged."""
    return atomic.read_sealed(directory / _MANIFEST, missing="prepare the data first", damaged=_REMEDY)


def verify(directory: pathlib.Path) -> None:
    """Check every shard and the lexicon; ValueError names the first that is truncated, foreign, altered or missing."""
    meta = manifest(directory)
    shards.check(directory, _entries(meta, *packer.SPLITS), _REMEDY, digest=True)
    _check_lexicon(directory, meta)


def _check_lexicon(directory: pathlib.Path, meta: dict[str, Any]) -> None:
    lexicon_path = directory / _LEXICON
    if not lexicon_path.is_file() or atomic.sha256(lexicon_path) != meta["lexicon"]["sha256"]:
        raise ValueError(f"{lexicon_path} is missing or altered: {_REMEDY}")


def _entries(meta: dict[str, Any], *splits: str) -> list[shards.Entry]:
    for split in splits:
        if split not in meta["splits"]:
            raise ValueError(f"no split {split!r}: choose one of {', '.join(packer.SPLITS)}")
    return [entry for split in splits for entry in meta["splits"][split]["shards"]]


def _open_split(directory: pathlib.Path, split: str) -> tuple[dict[str, Any], list[shards.Entry]]:
    meta = manifest(directory)
    shards.check(directory, _entries(meta, *packer.SPLITS), _REMEDY, digest=False)
    return meta, _entries(meta, split)


def _decode(records: Sequence[bytes], *, dtype: str, length: int) -> np.ndarray:
    return np.frombuffer(b"".join(records), np.dtype(dtype).newbyteorder("<")).reshape(-1, length).astype(np.int32)


def _decoder(meta: dict[str, Any]) -> Callable[[Sequence[bytes]], np.ndarray]:
    return functools.partial(_decode, dtype=meta["dtype"], length=meta["config"]["length"])


def batches(
    directory: pathlib.Path,
    split: str,
    batch: int,
    seed: int,
    share: tuple[Sequence[int], int] = ((0,), 1),
    shuffle: bool = True,
    repeat: bool = True,
) -> grain.DatasetIterator:
    """An iterator over int32 [batch, L], or this share of their rows (see shards.batches), reshuffled every epoch.

    get_state and set_state resume it. Errors: ValueError if the batch does not split into such parts, or if the split has
    fewer windows than a batch.
    """
    meta, entries = _open_split(directory, split)
    return shards.batches(
        directory,
        entries,
        _decoder(meta),
        batch=batch,
        seed=seed,
        share=share,
        shuffle=shuffle,
        repeat=repeat,
        description=f"windows in the {split} split of {directory}",
        remedy=_REMEDY,
    )


def heldout(directory: pathlib.Path, count: int) -> np.ndarray:
    """The first `count` held-out windows in an order set by the data's seed, int32 [count, L]."""
    meta, entries = _open_split(directory, "heldout")
    total = meta["splits"]["heldout"]["windows"]
    if count > total:
        raise ValueError(f"{count} held-out windows are asked for and {directory} has {total}: ask for fewer or raise holdout")
    order = np.random.default_rng(meta["config"]["seed"]).permutation(total)[:count]
    records = shards.Source(directory, entries, _REMEDY)
    with records:
        return _decoder(meta)([records[int(i)] for i in order])


def ordered(directory: pathlib.Path, split: str, seed: int) -> Callable[[Sequence[int]], np.ndarray]:
    """A function `numbers -> int32 [len(numbers), L]` over a split in a seeded random order, wrapping at the end.

    The window of a number depends only on the split and the seed, not on the process or the batch.
    """
    meta, entries = _open_split(directory, split)
    order = np.random.default_rng(seed).permutation(meta["splits"][split]["windows"])
    records, decode = shards.Source(directory, entries, _REMEDY), _decoder(meta)
    return lambda numbers: decode([records[int(order[i % len(order)])] for i in numbers])


def texts(directory: pathlib.Path, split: str, tokenizer: tokenizers.Tokenizer) -> Iterator[str]:
    """The text of every window of a split, in order; a document's end becomes an empty line."""
    meta, entries = _open_split(directory, split)
    decode, records = _decoder(meta), shards.Source(directory, entries, _REMEDY)
    with records:
        for record in records:
            yield tokenizer.decode_pretty(decode([record])[0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lexicon:
    """Known words, and the name of the pattern that told them from the rest of the text; see words.py."""

    words: frozenset[str]
    pattern: str = word_lists.LETTERS


def lexicon(texts: Iterable[str]) -> Lexicon:
    """The words of all texts."""
    return Lexicon(words=frozenset(word for text in texts for word in word_lists.words(text)))


def stored_lexicon(directory: pathlib.Path) -> Lexicon:
    """The words of the training split, as `prepare` wrote them; raises ValueError if the file is missing or altered.

    A manifest that names no pattern is of a version that knew the letters a to z alone.
    """
    meta = manifest(directory)
    _check_lexicon(directory, meta)
    words = frozenset((directory / _LEXICON).read_text(encoding="utf-8").split())
    return Lexicon(words=words, pattern=meta["lexicon"].get("pattern", word_lists.ASCII))


def lexical_share(texts: Iterable[str], lexicon: Lexicon) -> float | None:
    """The share of words found in `lexicon`, in [0, 1]; None without words.

    Each text is a window: its first and last word may be cut and are not counted.
    """
    known = [word in lexicon.words for text in texts for word in word_lists.whole_words(text, lexicon.pattern)]
    return sum(known) / len(known) if known else None
