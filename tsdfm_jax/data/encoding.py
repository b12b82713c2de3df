"""Encode a batch of documents, in this process or in a worker: tokens, sizes, words.

A worker process imports this module and the tokenizer, and nothing heavier: no JAX, no grain.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np

from tsdfm_jax.data import tokenizer as tokenizers, words as word_lists

# An encoder reports each word once. It forgets the reported words when there are more than this (some 20 MB).
_MOST_REPORTED = 200_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """Consecutive documents of the corpus.

    Attributes:
        texts: the documents.
        counted: which of them give words to the lexicon.
    """

    texts: Sequence[str]
    counted: Sequence[bool]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoded:
    """A batch as tokens: N documents, T tokens together, in as few objects as possible.

    Attributes:
        ids_T: the tokens of all documents in order, each with its document end.
        lengths_N: tokens of each document.
        sizes_N: bytes of each document.
        words: words of the counted documents in order, one per line, without those that this encoder has reported before.
        words_N: the number of these words from each document.
        seconds: time spent, by the encoder's clock.
    """

    ids_T: np.ndarray
    lengths_N: np.ndarray
    sizes_N: np.ndarray
    words: str
    words_N: np.ndarray
    seconds: float


class Encoder:
    """Turns batches into `Encoded`; remembers the words that it has reported.

    A word that it leaves out comes from an earlier batch, which is also packed earlier, whichever process encodes which
    batch. So the lexicon fills in the corpus's order.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, dtype: str, clock: Callable[[], float] = time.perf_counter):
        self._tokenizer, self._dtype, self._clock = tokenizer, dtype, clock
        self._reported: set[str] = set()

    def __call__(self, batch: Batch) -> Encoded:
        """Encode a batch; raises ValueError, one line, for half a surrogate pair."""
        started = self._clock()
        rows = self._tokenizer.encode_batch(batch.texts)
        end = np.array([self._tokenizer.eos_id], self._dtype)
        words_by_text = [self._words(text) if counted else [] for text, counted in zip(batch.texts, batch.counted, strict=True)]
        return Encoded(
            ids_T=np.concatenate([part for row in rows for part in (row.astype(self._dtype), end)]),
            lengths_N=np.array([len(row) + 1 for row in rows]),
            sizes_N=np.array([len(text.encode()) for text in batch.texts]),
            words="\n".join(word for new_words in words_by_text for word in new_words),
            words_N=np.array([len(new_words) for new_words in words_by_text]),
            seconds=self._clock() - started,
        )

    def _words(self, text: str) -> list[str]:
        if len(self._reported) > _MOST_REPORTED:
            self._reported.clear()
        words = dict.fromkeys(word_lists.words(text))  # in the text's order: a full lexicon must not vary
        new = [word for word in words if word not in self._reported]
        self._reported.update(new)
        return new
