"""The lock of a directory: one holder, named to the second; free at once when it dies; also without locks of the kernel."""

import errno
import fcntl
import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from tsdfm_jax.storage import lock

ROOT = pathlib.Path(__file__).parents[2]
NO_LOCKS = f"def no_locks(*_): raise OSError({errno.ENOLCK}, 'No locks available')\nfcntl.flock = no_locks\n"
HOLDER = """
import fcntl, sys, time
from tsdfm_jax.storage import lock
{more}
with lock.held(sys.argv[1], "python -m tsdfm_jax.main --config=x.py"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Start a process that holds tmp_path / "run"; with `more` code before."""
    started = []

    def start(more=""):
        command = [sys.executable, "-c", HOLDER.format(more=more), str(tmp_path / "run")]
        started.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "held\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def no_locks(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


def refused(directory):
    """The error of a second holder."""
    with pytest.raises(ValueError) as error, lock.held(directory, "second"):
        pass
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def named(told, directory, process):
    """Assert that the line names the directory, and the holder's command, process, host and start."""
    start = f"{directory}: python -m tsdfm_jax.main --config=x.py (process {process} on host {socket.gethostname()}, since 20"
    assert told.startswith(start) and "is at work here: wait for it, or stop it" in told


def free(directory):
    with lock.held(directory, "second"):
        pass
    return True


@pytest.mark.parametrize("more", ["", NO_LOCKS], ids=["flock", "claim"])
def test_the_second_process_is_told_of_the_first(tmp_path, holder, more, request):
    """While a process holds the directory another is refused, in one line that names it; after kill -9 it is free at once."""
    if more:
        request.getfixturevalue("no_locks")
    first = holder(more)
    named(refused(tmp_path / "run"), tmp_path / "run", first.pid)
    first.kill()
    first.wait()
    assert free(tmp_path / "run") and free(tmp_path / "run")
    assert not (tmp_path / "run" / lock.CLAIM).exists()


def test_a_block_that_ends_frees_the_directory(tmp_path):
    """After the block, with or without an error, the next one holds it; a block inside it is refused."""
    with pytest.raises(KeyError), lock.held(tmp_path / "a/b", "first"):
        assert "first (process" in refused(tmp_path / "a/b")
        raise KeyError
    assert free(tmp_path / "a/b")


FORKS = """
import os, subprocess, sys, time
from tsdfm_jax.storage import lock
with lock.held(sys.argv[1], "first"):
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    if not (child := os.fork()):
        time.sleep(60)
        os._exit(0)
try:
    with lock.held(sys.argv[1], "second"):
        print("free")
finally:
    program.kill()
    os.kill(child, 9)
"""


def test_a_child_process_does_not_keep_it(tmp_path):
    """A program started inside the block, and a forked child, do not hold the directory after it."""
    done = subprocess.run([sys.executable, "-c", FORKS, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "free\n", done.stderr


def claim(directory, **changes):
    """Write a claim as a process would that is this one, but for the changes."""
    facts = {"what": "theirs", "host": socket.gethostname(), "process": os.getpid(), "begun": lock._begun(os.getpid())}
    facts |= {"since": "2026-11-27 10:00"} | changes
    (directory / lock.CLAIM).write_text(json.dumps(facts))


def test_whose_claim_counts(tmp_path, no_locks):
    """A living process's claim counts; that of a process whose number another has now does not; another host's must be deleted."""
    claim(tmp_path)
    assert "theirs (process" in refused(tmp_path)
    claim(tmp_path, host="elsewhere", process=1)
    told = refused(tmp_path)
    assert "on host elsewhere, since 2026-11-27 10:00" in told and f"delete {tmp_path / lock.CLAIM} if it has died" in told
    claim(tmp_path, begun=1)
    assert free(tmp_path)
    claim(tmp_path, process=2**22 + 1, begun=None)  # above the largest process number of Linux
    assert free(tmp_path)


def test_a_claim_without_content(tmp_path, no_locks, monkeypatch):
    """A claim whose process died before it wrote its facts is named, with what to do."""
    monkeypatch.setattr(lock, "SECONDS_TO_WRITE", 0.05)
    (tmp_path / lock.CLAIM).write_text("")
    assert f"another command is at work here: wait for it, or delete {tmp_path / lock.CLAIM}" in refused(tmp_path)


def test_a_claim_that_a_third_process_has_taken_stays(tmp_path, no_locks):
    """Whoever saw a dead process's claim does not remove the living one that has replaced it."""
    claim(tmp_path, what="living")
    lock._discard(tmp_path / lock.CLAIM, {"what": "dead"})
    assert "living (process" in refused(tmp_path) and [file.name for file in tmp_path.glob(".claim*")] == [lock.CLAIM]


def test_other_errors_of_the_lock_are_not_swallowed(tmp_path, monkeypatch):
    """An error of the disk is not taken for a file system without locks."""

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="Input/output error"), lock.held(tmp_path, "x"):
        pass


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_place_that_cannot_be_a_directory(tmp_path, place):
    """A file in place of the directory, or above it, is one line."""
    (tmp_path / "file").write_text("x")
    assert "give another --workdir" in refused(tmp_path / place)


def test_a_run_of_a_held_work_directory_is_refused(tmp_path, holder):
    """main refuses a work directory in which another process is at work, in one line; it writes nothing into it."""
    first = holder()
    command = [
        sys.executable,
        "-m",
        "tsdfm_jax.main",
        "--config=tests/tiny.py",
        f"--workdir={tmp_path / 'run'}",
        "--stage=tokenizer",
    ]
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    named(done.stderr.removeprefix("tsdfm_jax: "), tmp_path / "run", first.pid)
    assert [file.name for file in (tmp_path / "run").iterdir()] == [lock.LOCK]
