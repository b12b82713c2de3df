"""Pack tokenised documents into windows and shards, and save the progress."""

import dataclasses
import hashlib
import io
import json
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from tsdfm_jax.data import shards, words as word_lists
from tsdfm_jax.storage import atomic

SPLITS = ("train", "heldout")
# A web-sized corpus never runs out of new words. This many take some 100 MB, and are far beyond any English lexicon.
_LEXICON = 1_000_000
_PROGRESS = "progress.npz"


def split_of(ordinal: int, seed: int, holdout: float) -> str:
    """The split of document `ordinal`: one of the first two is held out, later ones by a seeded hash.

    So two documents are enough to give both splits one, and no document's split depends on later documents.
    """
    digest = hashlib.blake2b(f"{seed}:{max(ordinal, 1)}".encode(), digest_size=8).digest()
    draw = int.from_bytes(digest, "little")
    is_heldout = (draw & 1) == ordinal if ordinal < 2 else draw / 2**64 < holdout
    return "heldout" if is_heldout else "train"


@dataclasses.dataclass(kw_only=True)
class _Split:
    documents: int = 0
    bytes: int = 0
    tokens: int = 0
    closed: list[shards.Entry] = dataclasses.field(default_factory=list)
    pending: list[np.ndarray] = dataclasses.field(default_factory=list)
    pending_tokens: int = 0

    def joined(self) -> np.ndarray:
        return np.concatenate(self.pending) if self.pending else np.zeros(0, np.int32)

    def take(self, count: int) -> np.ndarray:
        tokens = self.joined()
        self.pending = [tokens[count:]] if len(tokens) > count else []
        self.pending_tokens = len(tokens) - count
        return tokens[:count]


def _counts(part: _Split) -> dict[str, Any]:
    return {"documents": part.documents, "bytes": part.bytes, "tokens": part.tokens, "shards": part.closed}


class Packer:
    """Collects the windows of two splits and writes them to disk.

    The state is `documents`, `bytes`, `words`, the closed shards and the tokens that do not fill one yet. `save` writes
    all of it in one atomic file. A resumed run writes the shards that came after it again, byte for byte.
    """

    def __init__(self, directory: pathlib.Path, identity: dict[str, Any], *, length: int, windows_per_shard: int, dtype: str):
        self.directory, self.identity = directory, identity
        self.length, self.shard_tokens, self.dtype = length, windows_per_shard * length, np.dtype(dtype).newbyteorder("<")
        self.documents = self.bytes = 0
        self.words: set[str] = set()
        self.splits = {name: _Split() for name in SPLITS}

    def add(self, split: str, tokens: np.ndarray, *, size: int, documents: int) -> None:
        """Add tokens to a split; counts `documents` whole documents and `size` bytes for it."""
        part = self.splits[split]
        part.documents += documents
        part.bytes += size
        part.tokens += len(tokens)
        part.pending.append(tokens.astype(self.dtype))  # a copy: a slice would keep the whole batch's tokens
        part.pending_tokens += len(tokens)

    def add_words(self, words: Iterable[str]) -> None:
        """Add words to the lexicon, in the order of the training text, until it is full."""
        for word in words:
            if len(self.words) >= _LEXICON:
                return
            self.words.add(word)

    def flush(self) -> bool:
        """Write the full shards; returns whether there was one."""
        wrote = False
        for name, part in self.splits.items():
            while part.pending_tokens >= self.shard_tokens:
                self._write(name, part, part.take(self.shard_tokens))
                wrote = True
        return wrote

    def finish(self) -> dict[str, Any]:
        """Write the last, shorter shards, and return the manifest's entry for each split."""
        self.flush()
        entries = {}
        for name, part in self.splits.items():
            tokens = part.take(part.pending_tokens // self.length * self.length)
            if len(tokens):
                self._write(name, part, tokens)
            entries[name] = {
                **_counts(part),
                "windows": sum(entry["records"] for entry in part.closed),
                "dropped_tokens": part.pending_tokens,
            }
        return entries

    def _write(self, name: str, part: _Split, tokens: np.ndarray) -> None:
        path = self.directory / shards.name(name, len(part.closed))
        part.closed.append(shards.write(path, (row.tobytes() for row in tokens.reshape(-1, self.length))))

    @property
    def lexicon_full(self) -> bool:
        """Whether words may have been left out of the lexicon."""
        return len(self.words) >= _LEXICON

    def save(self) -> None:
        """Write the whole state in one atomic file."""
        state = {
            "identity": self.identity,
            "documents": self.documents,
            "bytes": self.bytes,
            "splits": {name: _counts(part) for name, part in self.splits.items()},
            "pattern": word_lists.LETTERS,
        }
        buffer = io.BytesIO()
        # The words are stored as plain bytes: sorting a million of them, or JSON, would take a second after every shard.
        texts = {"state": atomic.json_text(state), "words": "\n".join(self.words)}
        arrays = {name: np.frombuffer(text.encode(), np.uint8) for name, text in texts.items()}
        np.savez(buffer, **arrays, **{name: part.joined() for name, part in self.splits.items()})
        atomic.write(self.directory / _PROGRESS, buffer.getvalue())

    def restore(self) -> None:
        """Restore the state that an interrupted run of the same identity, with the same words, saved, if there is one."""
        path = self.directory / _PROGRESS
        if not path.is_file():
            return
        data = path.read_bytes()
        try:
            with np.load(io.BytesIO(data)) as file:
                state, words = json.loads(file["state"].tobytes()), file["words"].tobytes().decode().split("\n")
                pending = {name: file[name] for name in SPLITS}
        except Exception:  # a broken file makes NumPy and zipfile raise errors of many kinds; the run then starts anew
            return
        same = state["identity"] == self.identity and state.get("pattern") == word_lists.LETTERS
        if not same or not self._intact(state):
            return
        self.documents, self.bytes, self.words = state["documents"], state["bytes"], set(filter(None, words))
        for name, fields in state["splits"].items():
            tokens = pending[name].astype(self.dtype)
            self.splits[name] = _Split(closed=fields.pop("shards"), **fields, pending=[tokens], pending_tokens=len(tokens))

    def _intact(self, state: dict[str, Any]) -> bool:
        entries = [entry for part in state["splits"].values() for entry in part["shards"]]
        paths = [self.directory / entry["name"] for entry in entries]
        return all(p.is_file() and atomic.sha256(p) == e["sha256"] for p, e in zip(paths, entries, strict=True))


def sweep(directory: pathlib.Path, keep: set[str]) -> None:
    """Remove half-written files, and shards of an earlier attempt that are not in `keep`."""
    for pattern in ("*" + shards.SUFFIX, "*.tmp"):
        for path in directory.glob(pattern):
            if path.name not in keep:
                path.unlink()


def remove_progress(directory: pathlib.Path) -> None:
    """Remove the saved state of an unfinished run."""
    (directory / _PROGRESS).unlink(missing_ok=True)
