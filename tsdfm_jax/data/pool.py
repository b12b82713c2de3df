"""Batches of documents through a pool of processes, in order, with a bounded number of them under way."""

import collections
import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool

from tsdfm_jax.data import encoding, tokenizer as tokenizers

# Batches under way, a process: one in work, one that waits for it, and room for those that wait for their turn.
_AHEAD = 3
# Below this much text one process, with the library's own threads, is done before several have begun to pay.
_SMALL = 32_000_000
# A stop may be told to the workers a moment before this process hears of it.
_SECONDS_TO_HEAR = 1.0


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processes(wanted: int, size: int) -> int:
    """How many processes to tokenise `size` bytes of text in: `wanted`, or for 0 one a core, unless the text is small."""
    return wanted or (cores() if size >= _SMALL else 1)


def ahead(workers: int) -> int:
    """At most so many batches are read and not yet given out by `encoded`."""
    return _AHEAD * workers


@contextlib.contextmanager
def encoded(
    batches: Iterable[encoding.Batch],
    tokenizer: tokenizers.Tokenizer,
    dtype: str,
    workers: int,
    stop: Callable[[], bool] | None = None,
) -> Iterator[Iterator[tuple[encoding.Batch, encoding.Encoded]]]:
    """Lends an iterator over (batch, what an encoding.Encoder makes of it) in the order of `batches`.

    One worker is this process, which reads a batch, encodes it and waits; more are processes of their own, gone when
    the block ends, whatever ends it, or when this process dies. What an encoder raises is raised here. Errors:
    ValueError, one line, where a worker dies; InterruptedError where it does and `stop` says that all were to.
    """
    if workers == 1:
        encode = encoding.Encoder(tokenizer, dtype)
        yield ((batch, encode(batch)) for batch in batches)
        return
    # Not forked: JAX's threads are in this process.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(tokenizer, dtype))
    try:
        yield _ordered(pool, batches, ahead(workers))
    except BrokenProcessPool:
        if stop and _heard(stop):
            raise InterruptedError("stopped while tokenising: run again to go on from there") from None
        raise ValueError(
            f"one of {workers} processes that tokenise has died (killed, or out of memory): "
            "the same command goes on from the last shard, in less memory where --config.data.workers is lower"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _ordered(pool, batches, most) -> Iterator[tuple[encoding.Batch, encoding.Encoded]]:
    waiting = collections.deque()
    for batch in batches:
        waiting.append((batch, _submit(pool, batch)))
        while waiting and (len(waiting) >= most or waiting[0][1].done()):
            yield _first(waiting)
    while waiting:
        yield _first(waiting)


def _first(waiting) -> tuple[encoding.Batch, encoding.Encoded]:
    batch, future = waiting.popleft()
    return batch, future.result()


def _submit(pool, batch: encoding.Batch) -> concurrent.futures.Future:
    # Submitting starts a process where one is missing, and a process inherits what is blocked: Ctrl-C, which a terminal
    # sends to all of them, is for this one alone.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(_encode, batch)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _heard(stop: Callable[[], bool]) -> bool:
    until = time.monotonic() + _SECONDS_TO_HEAR
    while not stop() and time.monotonic() < until:
        time.sleep(0.02)
    return stop()


_ENCODERS: list[encoding.Encoder] = []  # of a worker process: its one


def _begin(tokenizer: tokenizers.Tokenizer, dtype: str) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # as many processes as cores: threads would only fight
    tokenizer.threads = 1
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _ENCODERS.append(encoding.Encoder(tokenizer, dtype, time.process_time))


def _leave_with_parent() -> None:
    # A parent that is killed closes nothing: the workers would wait for the next batch for ever.
    multiprocessing.parent_process().join()
    os._exit(1)


def _encode(batch: encoding.Batch) -> encoding.Encoded:
    return _ENCODERS[0](batch)
