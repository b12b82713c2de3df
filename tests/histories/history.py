"""One history of a work directory: some random actions, then runs to the end, then the comparison with a fresh run."""

import contextlib
import inspect
import json
import math
import os
import pathlib
import random
import re
import shutil
import signal
import sys
import time
import traceback

from tests.histories import actions, mini, outcome
from tsdfm_jax import main
from tsdfm_jax.runtime import signals

W = pathlib.Path("W")
REMEDIES = 6  # more remedies in a row than these are a dead end
SECONDS = 120  # a history that takes longer hangs
LONGEST = 500  # changes to the disk that a mini run makes, about


class Finding(BaseException):
    """Something that no history may come to; `kind` is wrong, tracebacks, dead_ends or hangs."""

    def __init__(self, kind, text):
        super().__init__(text)
        self.kind, self.text = kind, text


class History:
    """A history in the present directory: `state` is what the next command asks for, `log` what happened so far."""

    def __init__(self, seed, disk, fresh):
        self.seed, self.disk, self.fresh, self.rng = seed, disk, fresh, random.Random(f"{seed}")
        self.log, self.refused, self.kinds = [], 0, []
        self.whole = None  # the state of the last whole run, while nothing has interfered since
        self.touched = set()  # keys that had another value in a run since
        family = self.rng.choices(list(mini.FAMILIES), list(mini.FAMILIES.values()))[0]
        self.start = self.state = mini.start(family)
        self.note(f"family {family}")

    def note(self, text):
        """Add a line to the log."""
        self.log.append(text)
        print(f"--- {text}", flush=True)

    def play(self):
        """Begin, act, run to the end and compare; raises Finding."""
        if self.rng.random() < 0.85:
            home = self.fresh.directory(self.state)
            for name in ("W", "input"):
                shutil.copytree(home / name, name)
            self.whole = self.state
        else:
            self.note("an empty directory")
            mini.write_inputs(pathlib.Path("input"), self.state)
        for number in range(self.rng.randint(2, 5)):
            self.act(number)
        self.rng = random.Random(f"{self.seed} end")
        self.choose_end()
        self.settle()
        self.compare()

    def act(self, number):
        """One action, from random numbers of its own: what an earlier one drew, which may hang on times, has no effect on it."""
        for attempt in range(20):
            self.rng = random.Random(f"{self.seed} {number} {attempt}")
            kind = self.rng.choices(list(actions.WEIGHTS), list(actions.WEIGHTS.values()))[0]
            if kind not in actions.HARMLESS:
                self.whole = None
            if actions.ACTIONS[kind](self) is not actions.NOTHING:
                self.kinds.append(kind)
                return

    def choose(self, options):
        """One of some options; however many there are, it takes one random number."""
        return options[int(self.rng.random() * len(options))]

    def fail(self, kind, text):
        """Raise Finding."""
        raise Finding(kind, text)

    def change(self, key, value):
        """Ask for another value from now on; the files that the run reads change at once."""
        self.state = self.state | {key: value}
        self.note(f"{key} = {value!r}")
        if key.startswith("input."):
            mini.write_inputs(pathlib.Path("input"), self.state)

    def choose_end(self):
        """Change all back but one change, or none, or no change at all, so that few fresh runs serve many histories."""
        changed = [key for key in self.state if self.state[key] != self.start[key]]
        kept = self.rng.choices([[], self.rng.sample(changed, min(1, len(changed))), changed], [4, 4, 1])[0]
        for key in changed:
            if key not in kept:
                self.change(key, self.start[key])

    def settle(self):
        """Run all stages, and do what each refusal says, until a run ends well; raises Finding for a dead end."""
        remake, lines = False, []
        for _ in range(REMEDIES + 1):
            result, line = self.run(remake=remake)
            if result == "done":
                return
            lines.append(line)
            remake = self.follow(line, remake)
        raise Finding("dead_ends", "remedies lead nowhere: " + " | ".join(lines))

    def follow(self, line, remake):
        """Do what a line says; returns whether the next run may remake. Raises Finding where it says nothing that helps."""
        if "--remake" in line and not remake:
            return True
        named = re.search(r"[Dd]elete (\S*W/[\w./-]*[\w-])", line)  # else the first path that the line names
        paths = [pathlib.Path(path) for path in re.findall(r"W/[\w./-]*[\w-]", named[1] if named else line)]
        path = next((path for path in paths if path.exists()), None)
        if re.search(r"[Dd]elete ", line) and path is not None:
            self.note(f"deleted as told: {path}")
            actions.delete(path)
            return remake
        if stage := re.search(r"--stage=(\w+)", line):
            self.run((stage[1],), remake)
            return remake
        if "go on" in line or "goes on" in line:
            return remake
        raise Finding("dead_ends", f"no remedy: {line}")

    def run(self, stages=(), remake=False):
        """Run the present state: ("done" | "refused" | "stopped" | "killed", line); raises Finding for anything else."""
        options = {"remake": remake} if "remake" in inspect.signature(main.run).parameters else {}
        before, result, line = networks(), "done", ""
        try:
            main.run(mini.get_config(self.state), W, stages, **options)
        except (Finding, GeneratorExit):
            raise
        except BaseException as error:
            if self.disk.dead:
                result = "killed"
            elif isinstance(error, (signals.Interrupted, KeyboardInterrupt)):
                result, line = "stopped", str(error)
            elif isinstance(error, (ValueError, OSError)) and len(str(error).splitlines()) == 1:
                result, line, self.refused = "refused", str(error), self.refused + 1
                traceback.print_exc()
            else:
                raise Finding("tracebacks", "".join(traceback.format_exception(error))[-1500:]) from error
        if self.disk.disarm():
            result = "killed"
        flags = f"{' --remake' if remake else ''}{' --stage=' + ','.join(stages) if stages else ''}"
        self.note(f"run{flags}: {result} {line}".rstrip())
        self.check_kept(before, result, stages, remake)
        return result, line

    def check_kept(self, before, result, stages, remake):
        """Raise Finding where a run of a whole directory made a network again that no change concerns."""
        if self.whole is None or result not in ("done", "refused"):
            self.whole = None
            return
        if result == "done":  # a run of a few stages may have made some of them with a value that is gone by the next run
            self.touched |= {key for key in self.state if self.state[key] != self.whole[key]}
        elif remake:
            return
        rooms = set(mini.NETWORKS)
        for key in self.touched if result == "done" else ():
            rooms &= set(mini.KEEPS.get(key, mini.NETWORKS))
        after = networks()
        again = [name for name in before if name.parts[1] in rooms and after.get(name, before[name]) != before[name]]
        if again:
            reason = f"{' and '.join(sorted(self.touched)) or 'nothing'} alone changed"
            raise Finding("wrong", f"made again, though {reason}: {', '.join(map(str, again))}")
        if result == "done" and not stages:
            self.whole, self.touched = self.state, set()

    def interrupted(self, event, at=None, main_only=False):
        """Run with `event` at a random change to the disk, many of them early."""
        at = at or int(math.exp(self.rng.uniform(0, math.log(LONGEST))))
        self.disk.arm(at, event, main_only)
        return self.run(remake=True)

    def compare(self):
        """Raise Finding unless the work directory holds what a fresh run of the state holds, and still does after one more run."""
        expected = self.fresh.outcome(self.state)
        for again in (False, True):
            if again and self.run()[0] != "done":
                raise Finding("wrong", f"the same command again: {self.log[-1]}")
            try:
                found = json.loads(json.dumps(outcome.read(W)))
            except Exception as error:
                raise Finding("wrong", f"the finished run cannot be read: {error!r}") from error
            if lines := outcome.differences(found, expected):
                raise Finding("wrong", f"{len(lines)} differences{', after one more run' * again}: " + " | ".join(lines[:6]))


def networks():
    """{file: when and where it was written} of every finished network."""
    return {file: (file.stat().st_mtime_ns, file.stat().st_ino) for file in sorted(W.rglob("model/meta.json"))}


@contextlib.contextmanager
def limited(seconds):
    """Raise Finding in the main thread after some seconds."""

    def stop(signum, frame):
        where = "".join(traceback.format_stack(frame)[-3:])
        raise Finding("hangs", f"not done after {seconds} s, at {where}")

    old = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


def walk(seed, disk, fresh, scratch, keep=False):
    """Play the history of a seed in a directory of its own; returns what happened, as JSON."""
    home, started = pathlib.Path(scratch).absolute() / f"walk_{seed}", time.perf_counter()
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    disk.root = str(home / "W")
    history, made = History(seed, disk, fresh), fresh.made
    record = {"seed": seed, "outcome": "right"}
    terminated = signal.signal(signal.SIGTERM, lambda *_: disk.die())  # a process that does not handle it ends there
    try:
        with contextlib.chdir(home), limited(SECONDS):
            history.play()
    except Finding as finding:
        record |= {"outcome": finding.kind, "what": finding.text, "history": history.log}
    except Exception as error:
        record |= {"outcome": "tracebacks", "what": "".join(traceback.format_exception(error))[-1500:], "history": history.log}
    finally:
        signal.signal(signal.SIGTERM, terminated)
        disk.disarm()
    if not keep:
        shutil.rmtree(home, ignore_errors=True)
    sys.stdout.flush()
    record |= {"refused": history.refused, "actions": history.kinds, "fresh": fresh.made - made}
    return record | {"seconds": round(time.perf_counter() - started, 2), "pid": os.getpid()}
