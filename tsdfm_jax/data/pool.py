"""Encode batches of documents in a pool of processes, in order, with a bounded number of batches in progress."""

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

# Batches in progress per process: one being encoded, one queued, one finished that waits for its turn.
_BATCHES_PER_WORKER = 3
# Below this many bytes of text, one process with the library's own threads is faster than several.
_SMALL_BYTES = 32_000_000
# A stop signal may reach the workers a moment before it reaches this process.
_SECONDS_TO_STOP = 1.0


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processes(wanted: int, size: int) -> int:
    """The number of processes that tokenise `size` bytes of text: `wanted`, or for 0 one per core (one for small text)."""
    return wanted or (cores() if size >= _SMALL_BYTES else 1)


def most_in_progress(workers: int) -> int:
    """The largest number of batches that `encoded` has read and not yet yielded."""
    return _BATCHES_PER_WORKER * workers


@contextlib.contextmanager
def encoded(
    batches: Iterable[encoding.Batch],
    tokenizer: tokenizers.Tokenizer,
    dtype: str,
    workers: int,
    stop: Callable[[], bool] | None = None,
) -> Iterator[Iterator[tuple[encoding.Batch, encoding.Encoded]]]:
    """Yield an iterator over (batch, the encoding.Encoded of it) in the order of `batches`.

    One worker is this process, which reads and encodes a batch when the next one is asked for. More are separate
    processes; they end with the block, or when this process dies. An encoder's error is raised here. Errors: ValueError,
    one line, if a worker dies; InterruptedError if one dies and `stop` returns True.
    """
    if workers == 1:
        encode = encoding.Encoder(tokenizer, dtype)
        yield ((batch, encode(batch)) for batch in batches)
        return
    # Not forked: this process runs JAX's threads.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(tokenizer, dtype))
    try:
        yield _ordered(pool, batches, most_in_progress(workers))
    except BrokenProcessPool:
        if stop and _stop_arrived(stop):
            raise InterruptedError("stopped while tokenising: run again to go on from there") from None
        raise ValueError(
            f"one of {workers} processes that tokenise has died (killed, or out of memory): "
            "the same command goes on from the last shard, in less memory where --config.data.workers is lower"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _ordered(pool, batches, limit) -> Iterator[tuple[encoding.Batch, encoding.Encoded]]:
    in_progress = collections.deque()
    for batch in batches:
        in_progress.append((batch, _submit(pool, batch)))
        while in_progress and (len(in_progress) >= limit or in_progress[0][1].done()):
            yield _pop_result(in_progress)
    while in_progress:
        yield _pop_result(in_progress)


def _pop_result(in_progress) -> tuple[encoding.Batch, encoding.Encoded]:
    batch, future = in_progress.popleft()
    return batch, future.result()


def _submit(pool, batch: encoding.Batch) -> concurrent.futures.Future:
    # Submitting may start a process, and a process inherits blocked signals. A terminal sends Ctrl-C to all processes, and
    # only this one should handle it.
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(_encode, batch)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)


def _stop_arrived(stop: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + _SECONDS_TO_STOP
    while not stop() and time.monotonic() < deadline:
        time.sleep(0.02)
    return stop()


_ENCODERS: list[encoding.Encoder] = []  # in a worker process: its only encoder


def _start_worker(tokenizer: tokenizers.Tokenizer, dtype: str) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # as many processes as cores: threads would only compete
    tokenizer.threads = 1
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _ENCODERS.append(encoding.Encoder(tokenizer, dtype, time.process_time))


def _exit_with_parent() -> None:
    # A killed parent closes nothing: the workers would wait for the next batch forever.
    multiprocessing.parent_process().join()
    os._exit(1)


def _encode(batch: encoding.Batch) -> encoding.Encoded:
    return _ENCODERS[0](batch)
