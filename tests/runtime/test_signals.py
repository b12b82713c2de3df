"""Signals: one line, the exit code, within seconds, at any moment; and nothing left behind in a program that imports this."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from tsdfm_jax.runtime import signals, watchdog

ROOT = pathlib.Path(__file__).parents[2]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
# A command whose main thread is in C code, as in XLA or SentencePiece: it takes minutes, and Python's handlers wait for its end.
BUSY = """
import contextlib, hashlib
from tsdfm_jax.runtime import signals, watchdog
watchdog.SECONDS, watchdog.AFTER_SAVING, watchdog.AFTER_SECOND = {seconds}, 0.1, 0.2
signals.begin()
with {inside}:
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", {rounds})
print("went on", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", {after})
"""
LONG, SECOND = 2_000_000_000, 4_000_000  # rounds of minutes, and of a second


@pytest.fixture
def command():
    """Start a command, and wait until it is in its C code."""
    started = []

    def start(seconds, inside, rounds=LONG, after=1):
        code = BUSY.format(seconds=seconds, inside=inside, rounds=rounds, after=after)
        started.append(subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=-1, stderr=-1, text=True))
        assert started[-1].stdout.readline() == "ready\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def seconds_to_end(process, *numbers):
    """Send signals, and return how long the process took to end with the first one's code and one line."""
    began = time.monotonic()
    for number in numbers:
        time.sleep(0.1)  # two of a kind at once are one
        process.send_signal(number)
    out, said = process.communicate(timeout=30)
    assert process.returncode == CODES[numbers[0]] and said == watchdog.LINE and not out, (process.returncode, said)
    return time.monotonic() - began


@pytest.mark.parametrize("number", CODES)
def test_main_thread_in_c(command, number):
    """A signal ends the process after the watchdog's seconds while its main thread is deep in C code."""
    assert 0.5 < seconds_to_end(command(0.5, "signals.stopping()"), number) < 5


def test_a_second_interrupt_does_not_wait(command):
    """A second Ctrl-C ends it at once, also in C code, and also in a save."""
    assert seconds_to_end(command(60, "signals.stopping(), signals.saving()"), signal.SIGINT, signal.SIGINT) < 5


def test_a_save_is_waited_for(command):
    """The watchdog waits for a save, however long it takes, and then ends the process."""
    process = command(0.1, "signals.stopping(), signals.saving()", SECOND, LONG)
    process.send_signal(signal.SIGTERM)
    out, said = process.communicate(timeout=30)
    assert (process.returncode, out, said) == (143, "went on\n", watchdog.LINE)


def test_before_anything_is_to_be_saved(command):
    """Before the first `stopping` block a signal ends the process as soon as Python runs again."""
    assert seconds_to_end(command(60, "contextlib.nullcontext()", SECOND), signal.SIGTERM) < 20


def test_a_program_keeps_its_handlers():
    """After the outermost block the old handlers are back; no watchdog lives in a program that is not our command."""
    before = [signal.getsignal(number) for number in CODES]
    with signals.stopping():
        with signals.stopping():
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.stop_requested()
        assert [signal.getsignal(number) for number in CODES] != before and signals.stop_agreed()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    assert [signal.getsignal(number) for number in CODES] == before and not signals.stop_requested()
    with signals.stopping():
        assert not signals.stop_requested()
    assert "watchdog" not in [thread.name for thread in threading.enumerate()]


def test_a_thread_installs_nothing():
    """A block in another thread installs no handlers, and does not keep one in the main thread from doing so."""
    before, inside, leave, seen = signal.getsignal(signal.SIGINT), threading.Event(), threading.Event(), []

    def work():
        with signals.stopping():
            seen.append(signal.getsignal(signal.SIGINT))
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(10) and seen == [before]
    with signals.stopping():
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.stop_requested()
    leave.set()
    thread.join()
    assert signal.getsignal(signal.SIGINT) == before


def test_a_disarmed_watchdog_ends_nothing(monkeypatch):
    """`disarm` ends the thread, gives the pipe back, and no signal ends the process any more."""
    ended, descriptors = [], len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(watchdog, "end", ended.append)
    with signals.stopping():
        watching = watchdog.Watchdog(0.2)
        os.kill(os.getpid(), signal.SIGTERM)
        watching.disarm()
        time.sleep(0.4)
    assert not ended and len(os.listdir("/proc/self/fd")) == descriptors
    assert signal.set_wakeup_fd(-1) == -1
