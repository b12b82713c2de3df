"""Feed documents into a packer, batch by batch, and record what that costs."""

import dataclasses
import time
from collections.abc import Callable, Iterator

import numpy as np

from tsdfm_jax.data import encoding, packer, pool, tokenizer as tokenizers, words as word_lists

# Documents are tokenised in batches up to this size: enough to keep a process busy, small compared with memory.
_BATCH_CHARACTERS = 1 << 20
_BATCH_DOCUMENTS = 512


@dataclasses.dataclass(kw_only=True)
class Costs:
    """What a call of `fill` packed, and the seconds it spent.

    Attributes:
        workers: processes that tokenised; 1 means that the main process does everything.
        bytes, tokens: text packed, and its tokens.
        reading: seconds of the main process for documents.
        tokenising: seconds of all workers together (CPU time if they are separate processes).
        packing: seconds of the main process for windows, shards and the lexicon.
        elapsed: seconds from the first document to the last.
    """

    workers: int = 1
    bytes: int = 0
    tokens: int = 0
    reading: float = 0.0
    tokenising: float = 0.0
    packing: float = 0.0
    elapsed: float = 0.0

    def slowest(self) -> tuple[str, float, int]:
        """The busiest part: its name, how many processes it kept busy on average, and how many it had."""
        parts = {"reading": (self.reading, 1), "tokenising": (self.tokenising, self.workers), "packing": (self.packing, 1)}
        name = max(parts, key=lambda part: parts[part][0] / parts[part][1])
        return name, parts[name][0] / max(self.elapsed, 1e-9), parts[name][1]


def fill(
    pack: packer.Packer,
    documents: Iterator[str],
    tokenizer: tokenizers.Tokenizer,
    *,
    seed: int,
    holdout: float,
    workers: int,
    progress: Callable[[int], None] | None,
    stop: Callable[[], bool] | None,
    costs: Costs,
) -> None:
    """Pack `documents`, the first of which has number `pack.documents`; only they, seed and holdout decide the result.

    `progress` receives the bytes packed so far; `stop` is called after every document.
    Errors: InterruptedError if `stop` returns True, after saving everything; see pool.encoded for the others.
    """
    started, costs.workers = time.perf_counter(), workers
    splits_of = lambda first, number: [packer.split_of(first + i, seed, holdout) for i in range(number)]
    batches = _timed(_batched(documents, pack.documents, splits_of), costs)
    try:
        with pool.encoded(batches, tokenizer, pack.dtype.str, workers, stop) as stream:
            for batch, encoded in stream:
                costs.tokenising += encoded.seconds
                pack_started = time.perf_counter()
                _pack(pack, encoded, splits_of(pack.documents, len(batch.texts)), progress, stop, costs)
                costs.packing += time.perf_counter() - pack_started
    except InterruptedError:
        pack.save()
        raise
    finally:
        costs.elapsed += time.perf_counter() - started


def _pack(pack: packer.Packer, encoded: encoding.Encoded, splits: list[str], progress, stop, costs: Costs) -> None:
    words, token_start, word_start = encoded.words.split("\n"), 0, 0
    for split, length, size, count in zip(
        splits, encoded.lengths_N.tolist(), encoded.sizes_N.tolist(), encoded.words_N.tolist(), strict=True
    ):
        pack.add(split, encoded.ids_T[token_start : token_start + length], size=size, documents=1)
        pack.add_words(words[word_start : word_start + count])
        token_start, word_start = token_start + length, word_start + count
        pack.documents += 1
        pack.bytes += size
        costs.bytes += size
        costs.tokens += length
        if pack.flush():
            pack.save()
        if progress:
            progress(pack.bytes)
        if stop and stop():
            raise InterruptedError(f"stopped after {pack.documents} documents: run again to go on from there")


def _batched(documents: Iterator[str], first: int, splits_of) -> Iterator[encoding.Batch]:
    texts, size = [], 0
    for text in documents:
        texts.append(text)
        size += len(text)
        if size >= _BATCH_CHARACTERS or len(texts) >= _BATCH_DOCUMENTS:
            yield _batch(texts, splits_of(first, len(texts)))
            first, texts, size = first + len(texts), [], 0
    if texts:
        yield _batch(texts, splits_of(first, len(texts)))


def _batch(texts: list[str], splits: list[str]) -> encoding.Batch:
    return encoding.Batch(texts=texts, counted=[split == "train" for split in splits])


def _timed(batches: Iterator[encoding.Batch], costs: Costs) -> Iterator[encoding.Batch]:
    while True:
        started = time.perf_counter()
        batch = next(batches, None)
        costs.reading += time.perf_counter() - started
        if batch is None:
            return
        yield batch


def fill_one(pack: packer.Packer, text: str, tokenizer: tokenizers.Tokenizer, *, length: int, seed: int, holdout: float) -> None:
    """Pack a corpus of one document by dividing its windows between the splits.

    Errors: ValueError if it has fewer than two windows.
    """
    ids = np.append(tokenizer.encode(text), np.int32(tokenizer.eos_id))
    count = len(ids) // length
    if count < 2:
        raise ValueError(
            f"data.length {length} is too long for a corpus of one document with {len(ids)} tokens, where both splits need a window: "
            "shorten it or give more text in data.files"
        )
    heldout_count = max(1, round(count * holdout))
    heldout = set(np.random.default_rng(seed).permutation(count)[:heldout_count].tolist())
    for number in range(count):
        window = ids[number * length : (number + 1) * length]
        window_text = tokenizer.decode_pretty(window)
        split = "heldout" if number in heldout else "train"
        pack.add(split, window, size=len(window_text.encode()), documents=0)
        if split == "train":
            pack.add_words(word_lists.whole_words(window_text))
    pack.add("train", ids[count * length :], size=0, documents=0)
    pack.documents, pack.bytes = 1, len(text.encode())
