"""Graceful stopping: SIGINT and SIGTERM set a flag that long loops check between two steps. Importing this costs nothing."""

import contextlib
import signal
import threading

from tsdfm_jax.runtime import watchdog
from tsdfm_jax.runtime.watchdog import HANDLED, said, saving  # noqa: F401  for those who import this module

# A signal is for the whole process, so its state is global: the signal received, how many blocks wait for one, and whether
# there are handlers.
_received = None
_depth = 0
_installed = False
_command = None  # the watchdog of a command; a program that imports this package has none
_begun = False  # whether a command has anything to save


class Interrupted(Exception):
    """A stage stopped on request, with its state saved; `signum` is the signal, for the exit code."""

    def __init__(self, message, signum=None):
        super().__init__(message)
        self.signum = signum or _received or signal.SIGTERM


def begin():
    """Handle signals for the rest of this process, a command: the first ends it in one line, and within some seconds.

    Before the first `stopping()` block it ends at once. From there on it has `watchdog.SECONDS`, and saves are waited for.
    """
    global _command, _installed, _received
    if _command is None:
        _received, _installed = None, True
        for number in HANDLED:
            signal.signal(number, _receive)
        _command = watchdog.Watchdog()


def one_of_several():
    """Give the processes of one run the time to agree on the step at which they stop."""
    if _command is not None:
        _command.seconds = watchdog.SECONDS_OF_SEVERAL


@contextlib.contextmanager
def stopping():
    """Turn SIGINT and SIGTERM into a flag while the block runs; SIGINT after either raises KeyboardInterrupt at once.

    May be nested: the outermost block installs the handlers and restores the old ones, unless `begin` has installed them for
    good. Outside the main thread, where Python allows no handlers, it installs none.
    """
    global _received, _depth, _installed, _begun
    installs = not _installed and threading.current_thread() is threading.main_thread()
    old_handlers = {}
    if installs:
        _received, _installed = None, True
        old_handlers = {number: signal.signal(number, _receive) for number in HANDLED}
    _begun = True
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        for number, handler in old_handlers.items():
            signal.signal(number, handler)
        if installs:
            _installed = False


def _receive(signum, frame):
    global _received
    if _command is not None and not _begun:
        watchdog.end(signum)
    ends_anyway = _command is not None and watchdog.has_said()
    if signum == signal.SIGINT and _received is not None and not ends_anyway:
        raise KeyboardInterrupt
    _received = signum


def stop_requested():
    """Whether this process was asked to stop since `stopping()` was entered; False outside such a block."""
    return _depth > 0 and _received is not None


def stop_agreed(step=0, every=1):
    """Whether any process was asked to stop: the same answer in each. Several processes check only every `every` steps.

    Every process must call it at the same steps.
    """
    import jax  # late: a command handles signals before it imports it

    if jax.process_count() == 1:
        return stop_requested()
    from tsdfm_jax.runtime import hosts

    # A signal reaches the processes at different steps; a process that left the loop alone would leave the others waiting
    # in the next collective. The check waits for all devices, so a training loop does not make it after each update.
    return step % every == 0 and hosts.any_of(stop_requested())


def check(done):
    """Raise Interrupted if any process was asked to stop, saying what is `done`. Every process must call it at the same points."""
    if stop_agreed():
        raise Interrupted(f"stopped, {done}; the same command goes on from there")


class DelayedStop:
    """`stop_agreed` for a loop that keeps work queued: across processes it returns the answer to the call before.

    So it waits only for work dispatched before that call. Every process must call it at the same points.
    """

    def __init__(self):
        self._latest = None

    def __call__(self):
        import jax

        if jax.process_count() == 1:
            return stop_requested()
        from tsdfm_jax.runtime import hosts

        earlier, self._latest = self._latest, hosts.start_any_of(stop_requested())
        return earlier is not None and hosts.finish_any_of(earlier)
