"""A thread that ends the process some seconds after a signal, if the process has not ended by itself; needs no JAX.

Python runs a signal's handler between two of its own instructions: not inside XLA or SentencePiece, which compile and train for
minutes. The kernel's side of the handler writes the signal's number into a pipe at once, and this thread reads it there.
"""

import contextlib
import os
import select
import signal
import threading
import time

HANDLED = (signal.SIGINT, signal.SIGTERM)
LINE = "tsdfm_jax: stopped; the same command goes on from what was saved last\n"
SECONDS, SECONDS_OF_SEVERAL = 8.0, 60.0  # several processes must first agree on a step
AFTER_SAVING = AFTER_SECOND = 1.0
_END = 0

# Saves belong to the whole process: how many are being written, and whether its last line has been said.
_saves = 0
_said = False


class Watchdog:
    """Ends the process `seconds` (SECONDS) after its first signal with exit code 128 plus the signal, until `disarm()`.

    A save is waited for, but not after a second SIGINT. Must be made in the main thread, with Python handlers for `HANDLED`.
    """

    def __init__(self, seconds=None):
        self.seconds = SECONDS if seconds is None else seconds
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._old_descriptor = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def disarm(self):
        """End the thread; signals do nothing more here."""
        signal.set_wakeup_fd(self._old_descriptor)
        os.write(self._write, bytes([_END]))
        self._thread.join()
        os.close(self._read), os.close(self._write)

    def _watch(self):
        first, deadline, again = None, None, False
        while True:
            seconds = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = select.select([self._read], [], [], seconds)[0]
            for number in os.read(self._read, 64) if ready else ():
                if number == _END:
                    return
                if number in HANDLED and first is None:
                    first, deadline = number, time.monotonic() + self.seconds
                elif number == signal.SIGINT:
                    again, deadline = True, min(deadline, time.monotonic() + AFTER_SECOND)
            if not ready and _saves and not again:
                deadline = time.monotonic() + AFTER_SAVING
            elif not ready:
                end(first)


@contextlib.contextmanager
def saving():
    """Keep the watchdog waiting while the block writes a checkpoint or a model."""
    global _saves
    _saves += 1
    try:
        yield
    finally:
        _saves -= 1


def said():
    """Note that the process has said in its last line why it ends, so that nothing more is said."""
    global _said
    _said = True


def has_said():
    """Whether the process has said in its last line why it ends."""
    return _said


def end(signum):
    """End the process at once, in one line; files that are written atomically are whole or absent."""
    if not _said:
        cursor = "\x1b[?25h" if os.isatty(2) else ""  # a progress bar hides it
        os.write(2, (cursor + LINE).encode())
    os._exit(128 + signum)
