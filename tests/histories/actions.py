"""What can happen to a work directory: commands, changes of the config and of what it reads, damage, interruptions."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

from tests.histories import mini
from tsdfm_jax import main
from tsdfm_jax.config import methods

W = pathlib.Path("W")
# A change by which another finished run of the same family differs, and which its files are swapped from.
OTHER = {"autoregressive": ("autoregressive.optimiser.steps", 4), "teacher": ("teacher.optimiser.steps", 4)}


NOTHING = object()  # what an action returns where it has nothing to act on


def change(history):
    """Another value of a key that matters, and mostly a run."""
    key = history.choose(["models", *keys(history)])
    values = tuple(mini.MODELS.values()) if key == "models" else mini.VALUES[key]
    history.change(key, history.choose([value for value in values if value != history.state[key]]))
    if history.rng.random() < 0.8:
        run(history)


def back(history):
    """The value that a changed key began with, and mostly a run."""
    changed = [key for key in history.state if history.state[key] != history.start[key]]
    if not changed:
        return NOTHING
    key = history.choose(changed)
    history.change(key, history.start[key])
    if history.rng.random() < 0.7:
        run(history)


def run(history):
    """A command: all stages or a few, with or without --remake."""
    stages = history.rng.sample(methods.TSDFM.order, history.rng.randint(1, 4)) if history.rng.random() < 0.3 else ()
    history.run(tuple(stages), history.rng.random() < 0.6)


def keys(history):
    """The keys whose value can matter to the present state."""
    return [key for key in mini.VALUES if mini.matters(history.state, key)]


def pick(history, files_only=False):
    """A random path below the work directory, each folder as likely as each file beside it; None if there is none."""
    path = W
    while path.is_dir():
        inside = sorted(path.iterdir())
        if not inside:
            return None
        path = history.choose(inside)
        if not files_only and path.is_dir() and history.rng.random() < 0.3:
            break
    return path if path.exists() else None


def delete(path):
    """Delete a file or a directory with all that is in it."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def lose(history):
    """A file or a directory is deleted."""
    path = pick(history)
    if path is None:
        return NOTHING
    history.note(f"deleted {path}")
    delete(path)


def truncate(history):
    """A file loses its second half, or all."""
    path = pick(history, files_only=True)
    if path is None or not path.stat().st_size:
        return NOTHING
    size = path.stat().st_size // history.choose((2, 2, 10**9))
    history.note(f"cut {path} to {size} bytes")
    os.truncate(path, size)


def flip(history):
    """A bit of a file is the other way round."""
    path = pick(history, files_only=True)
    if path is None or not path.stat().st_size:
        return NOTHING
    content = bytearray(path.read_bytes())
    at, bit = int(history.rng.random() * len(content)), history.choose(range(8))
    history.note(f"bit {bit} of byte {at} of {path}")
    content[at] ^= 1 << bit
    path.write_bytes(content)


def falsify(history):
    """A digit in a JSON file is another one, and the file is still JSON."""
    files = sorted(f for f in W.rglob("*.json*") if "checkpoints" not in f.parts and "tensorboard" not in f.parts)
    path = history.choose(files) if files else None
    places = [i for i, letter in enumerate(path.read_text(errors="replace")) if letter in "12345678"] if path else []
    if not places:
        return NOTHING
    at, text = history.choose(places), path.read_text(errors="replace")
    history.note(f"digit {at} of {path}")
    path.write_text(text[:at] + str(int(text[at]) + 1) + text[at + 1 :])


def swap(history):
    """A file or directory is that of another finished run of the same family."""
    key, value = OTHER["teacher" if "teacher" in history.start["models"] else "autoregressive"]
    other = history.fresh.directory(history.start | {key: value})
    path = pick(history)
    if path is None or not (other / path).exists() or (other / path).is_dir() != path.is_dir():
        return NOTHING
    history.note(f"{path} is that of a run with {key}={value}")
    delete(path)
    shutil.copytree(other / path, path) if (other / path).is_dir() else shutil.copy2(other / path, path)


def exchange(history):
    """The shaped and the blind student, or a part of each, change places."""
    part = history.choose(("", "round_0", "round_0/model", "round_0/done.json", "round_0/checkpoints"))
    a, b = W / "student/shaped" / part, W / "student/blind" / part
    if not (a.exists() and b.exists()):
        return NOTHING
    history.note(f"{a} and {b} change places")
    a.rename("aside"), b.rename(a), pathlib.Path("aside").rename(b)


def stop(history):
    """A change, and a signal at some point of the run that makes it."""
    number = history.choose((signal.SIGTERM, signal.SIGINT))
    change_something(history)
    history.note(f"{number.name} in")
    history.interrupted(lambda: os.kill(os.getpid(), number))


def crash(history):
    """A change, and the end of the process at some point of the run that makes it, with no time to clean up."""
    change_something(history)
    history.note("crash in")
    history.interrupted(history.disk.die)


def second(history):
    """A second command in the same work directory while one runs: it must be refused."""
    change_something(history)
    results = []
    history.note("a second command in")
    history.interrupted(lambda: results.append(attempt(history)), history.rng.randint(8, 60), main_only=True)
    if results == ["ran"]:
        history.fail("wrong", "two commands ran at once in one work directory")


def attempt(history):
    """What a second command comes to."""
    try:
        main.run(mini.get_config(history.state), W)
    except ValueError as error:
        history.note(f"the second command: {error}")
        return "refused"
    return "ran"


def kill(history):
    """A change, and kill -9 of the process that makes it."""
    change_something(history)
    command = [sys.executable, "-m", "tests.histories.worker", "--run", json.dumps(history.state)]
    log = W / "log.txt"
    before = log.stat().st_size if log.exists() else 0
    with open("kill.log", "w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    wanted, deadline = before + history.rng.randint(1, 1500), time.monotonic() + 40
    while process.poll() is None and time.monotonic() < deadline and not (log.exists() and log.stat().st_size >= wanted):
        time.sleep(0.01)
    process.kill()
    history.note(f"kill -9, exit code {process.wait()}")


def change_something(history):
    """Another value of a key that matters, so that the next run has something to make."""
    key = history.choose(keys(history))
    history.change(key, history.choose([value for value in mini.VALUES[key] if value != history.state[key]]))


ACTIONS = {f.__name__: f for f in (change, back, run, lose, truncate, flip, falsify, swap, exchange, stop, crash, second, kill)}
WEIGHTS = dict(change=24, back=10, run=5, lose=10, truncate=6, flip=8, falsify=5, swap=8, exchange=3, stop=8, crash=9, second=2)
WEIGHTS |= dict(kill=0.6)
HARMLESS = ("change", "back", "run", "second")  # after these a work directory is what its runs made it
