"""Graceful stopping: SIGINT and SIGTERM set a flag that long loops check between two steps."""

import contextlib
import signal
import threading

import jax

from tsdfm_jax.runtime import hosts

HANDLED = (signal.SIGINT, signal.SIGTERM)

# A signal is for the whole process, so its state is global: the signal received, and how many blocks wait for one.
_received = None
_depth = 0


class Interrupted(Exception):
    """A stage stopped on request, with its state saved; `signum` is the signal, for the exit code."""

    def __init__(self, message, signum=None):
        super().__init__(message)
        self.signum = signum or _received or signal.SIGTERM


@contextlib.contextmanager
def stopping():
    """Turn SIGINT and SIGTERM into a flag while the block runs; SIGINT after either raises KeyboardInterrupt at once.

    May be nested: the outermost block installs the handlers and restores the old ones. Outside the main thread, where
    Python allows no handlers, it installs none.
    """
    global _received, _depth
    outermost = _depth == 0 and threading.current_thread() is threading.main_thread()
    old_handlers = {}
    if outermost:
        _received = None
        old_handlers = {number: signal.signal(number, _receive) for number in HANDLED}
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        for number, handler in old_handlers.items():
            signal.signal(number, handler)


def _receive(signum, frame):
    global _received
    if signum == signal.SIGINT and _received is not None:
        raise KeyboardInterrupt
    _received = signum


def stop_requested():
    """Whether this process was asked to stop since `stopping()` was entered; False outside such a block."""
    return _depth > 0 and _received is not None


def stop_agreed(step=0, every=1):
    """Whether any process was asked to stop: the same answer in each. Several processes check only every `every` steps.

    Every process must call it at the same steps.
    """
    if jax.process_count() == 1:
        return stop_requested()
    # A signal reaches the processes at different steps; a process that left the loop alone would leave the others waiting
    # in the next collective. The check waits for all devices, so a training loop does not make it after each update.
    return step % every == 0 and hosts.any_of(stop_requested())


class DelayedStop:
    """`stop_agreed` for a loop that keeps work queued: across processes it returns the answer to the call before.

    So it waits only for work dispatched before that call. Every process must call it at the same points.
    """

    def __init__(self):
        self._latest = None

    def __call__(self):
        if jax.process_count() == 1:
            return stop_requested()
        earlier, self._latest = self._latest, hosts.start_any_of(stop_requested())
        return earlier is not None and hosts.finish_any_of(earlier)
