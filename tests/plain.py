"""A byte tokenizer that a worker process can import without the rest of the tests; some texts make it fail."""

import os
import signal
import sys
import time

import numpy as np

from tsdfm_jax.data import tokenizer

HEAVY = ("jax", "flax", "grain", "orbax", "tensorboardX", "pyarrow", "matplotlib", "tokenizers", "absl")


class Bytes(tokenizer.Tokenizer):
    """Tokens are bytes; the document end is 256."""

    vocab_size, eos_id, content_hash = 257, 256, "bytes"

    def encode_batch(self, texts):
        """Encode as bytes. DIE kills the process, WAIT sleeps, TELL raises with the heavy modules loaded and the thread count."""
        for text in texts:
            if text.startswith("DIE"):
                os.kill(os.getpid(), signal.SIGKILL)
            if text.startswith("WAIT"):
                time.sleep(0.02)
            if text.startswith("TELL"):
                raise ValueError(f"{[name for name in HEAVY if name in sys.modules]} {self.threads}")
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]

    def _decode_known(self, ids):
        return bytes(ids).decode(errors="replace")


def documents(count, prefix=""):
    """Documents of different lengths, each with its own number and word, and words that others share."""
    rng = np.random.default_rng(0)
    name = lambda number: "".join(chr(97 + int(digit)) for digit in str(number))
    return [f"{prefix}{i:04d} {name(i)} " + " ".join(name(w) for w in rng.integers(0, 900, 30 + i % 50)) for i in range(count)]
