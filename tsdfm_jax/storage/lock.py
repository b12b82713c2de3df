"""One command at a time in a directory: a lock that the kernel frees when its holder dies."""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import socket
import time

LOCK, CLAIM = ".lock", ".claim"
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
SECONDS_TO_WRITE = 1.0  # a claim that is still empty after this time was left by a killed process


@contextlib.contextmanager
def held(directory, what):
    """Hold a directory, made if it is missing, while the block runs; `what` is the command to name to whoever comes second.

    Raises ValueError, one line with the holder's command, process, host and start, if another block holds it. The kernel
    keeps the lock (flock), so a killed holder's is free at once. NFS hands flock to its server, and the lock holds for all
    hosts; some other network file systems (gcsfuse, Lustre with localflock) keep it to one host, and cannot tell. Where
    there are no locks at all, a file claims the directory: a dead process of this host loses it, but what a dead process of
    another host left must be deleted by hand, and the error names the file.
    """
    directory = pathlib.Path(directory)
    facts = {"what": what, "host": socket.gethostname(), "process": os.getpid(), "begun": _begun(os.getpid())}
    facts["since"] = time.strftime("%Y-%m-%d %H:%M")
    with _open(directory) as file:
        with _published(file, facts) if _flock(file, directory) else _claimed(directory, facts):
            yield


def _flock(file, directory):
    """Whether the file is locked now: False where the file system has no locks; ValueError if another process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(_told(directory, _read(directory / LOCK)) + ": wait for it, or stop it") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    if not (directory / LOCK).exists() or not os.path.samestat(os.fstat(file.fileno()), os.stat(directory / LOCK)):
        raise ValueError(f"{directory} was removed at this moment by a command that was refused: give the command again")
    return True


@contextlib.contextmanager
def _published(file, facts):
    """Say in the locked file who holds it, and free it at the end."""
    file.truncate(0)
    file.write(json.dumps(facts))
    file.flush()
    try:
        yield
    finally:
        file.truncate(0)  # the file stays, since another process may have opened it already
        fcntl.flock(file, fcntl.LOCK_UN)  # not by closing it: a forked child may have it too


def _open(directory):
    """The open file in the directory, made if it is missing; ValueError, one line, where that may not be."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return open(directory / LOCK, "a+")
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise ValueError(f"{directory} cannot be written ({error.filename}: {error.strerror}): give another --workdir") from None


@contextlib.contextmanager
def _claimed(directory, facts):
    """Hold a directory by a file that only one process can make."""
    file = directory / CLAIM
    while not _make(file, facts):
        holder = _wait_for_facts(file)
        if holder is None:
            continue  # released meanwhile
        if not holder or holder["host"] != facts["host"]:
            raise ValueError(f"{_told(directory, holder)}: wait for it, or delete {file} if it has died")
        if _begun(holder["process"]) == holder["begun"] and _lives(holder["process"]):
            raise ValueError(f"{_told(directory, holder)}: wait for it, or stop it")
        _discard(file, holder)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _make(file, facts):
    """Whether the claim could be made: it was not there."""
    try:
        descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with open(descriptor, "w") as claim:
        claim.write(json.dumps(facts))
    return True


def _wait_for_facts(file):
    """The holder's facts, {} if it does not write them, None if there is no claim any more."""
    until = time.monotonic() + SECONDS_TO_WRITE
    while not (facts := _read(file)) and file.exists() and time.monotonic() < until:
        time.sleep(0.02)
    return facts if facts or file.exists() else None


def _discard(file, dead):
    """Remove a dead process's claim, but not one that a third process has made in its place meanwhile."""
    mine = file.with_name(f"{CLAIM}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(file, mine)
        if _read(mine) != dead:
            os.rename(mine, file)
        mine.unlink(missing_ok=True)


def _read(file):
    try:
        facts = json.loads(file.read_text())
        return facts if {"what", "host", "process", "begun", "since"} <= facts.keys() else {}
    except (OSError, ValueError, AttributeError):
        return {}


def _told(directory, facts):
    if not facts:
        return f"{directory}: another command is at work here"
    where = f"process {facts['process']} on host {facts['host']}, since {facts['since']}"
    return f"{directory}: {facts['what']} ({where}) is at work here"


def _begun(process):
    """When a process began, in the kernel's ticks: with its number it names the process. None where the kernel does not say."""
    try:
        return int(pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def _lives(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True
