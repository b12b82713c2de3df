"""Many histories of work directories, by hand: `python -m tests.histories.walk --walks=500 --first=0 --out=results/histories.json`.

A history begins with a finished run or with nothing, goes through some random actions (see actions.py), ends with runs that
follow every refusal's advice, and is then compared with a fresh run of the same config. A seed is a history:
`--first=SEED --walks=1 --keep` plays it again and keeps its directory. Stopped and started again, the command goes on.
"""

import argparse
import collections
import json
import os
import pathlib
import platform
import queue
import select
import shlex
import subprocess
import sys
import tempfile
import threading
import time

import jax
import jaxlib

from tests import CHEAP
from tests.histories import fresh, history
from tsdfm_jax.storage import atomic

BAD = ("wrong", "tracebacks", "dead_ends", "hangs")
PATIENCE = history.SECONDS + 60  # seconds without an answer after which a worker is ended


class Worker:
    """A process that plays one history after the other; see worker.py."""

    def __init__(self, cache, scratch, keep):
        environment = os.environ | {"XLA_FLAGS": CHEAP, "JAX_PLATFORMS": "cpu", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        environment |= {"PYTHONPATH": str(fresh.ROOT)}
        environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache / "programs"))
        command = [sys.executable, "-m", "tests.histories.worker", str(cache), str(scratch), *["--keep"] * keep]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=fresh.ROOT
        )

    def play(self, seed):
        """The record of a history; that of a process that ended or hangs says so, and its worker is of no more use."""
        try:
            self.process.stdin.write(f"{seed}\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline() if select.select([self.process.stdout], [], [], PATIENCE)[0] else None
        except OSError:
            line = ""
        if line:
            return json.loads(line)
        self.process.kill()
        code = self.process.wait()
        record = {"seed": seed, "refused": 0, "actions": [], "fresh": 0, "seconds": 0.0}
        if line is None:
            return record | {"outcome": "hangs", "what": f"no answer in {PATIENCE} s, not even to a signal"}
        return record | {"outcome": "tracebacks", "what": f"the process ended with code {code}"}

    def close(self):
        """End the process."""
        self.process.stdin.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()


def play_all(seeds, jobs, cache, scratch, keep, report):
    """Play the histories of all seeds in some processes at once; `report(record)` is called for each, from one thread at a time."""
    waiting, lock, workers = queue.SimpleQueue(), threading.Lock(), []
    for seed in seeds:
        waiting.put(seed)

    def serve():
        worker = None
        while True:
            try:
                seed = waiting.get_nowait()
            except queue.Empty:
                break
            if worker is None or worker.process.poll() is not None:
                worker = Worker(cache, scratch, keep)
                workers.append(worker)
            record = worker.play(seed)
            with lock:
                report(record)
        if worker is not None and worker.process.poll() is None:
            worker.close()

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    finally:
        for worker in workers:
            worker.process.kill()


def summary(records, command, code):
    """The counts of all histories, and those that failed, as JSON."""
    outcomes = collections.Counter(record["outcome"] for record in records)
    kinds = collections.Counter(kind for record in records for kind in record["actions"])
    return {
        "walks": len(records),
        **{name: outcomes[name] for name in BAD},
        "refused": sum(record["refused"] for record in records),
        "actions": dict(sorted(kinds.items())),
        "seconds": round(sum(record["seconds"] for record in records), 1),
        "fresh_runs": sum(record["fresh"] for record in records),
        "command": command,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), "jax": jax.__version__, "jaxlib": jaxlib.__version__},
        "code": code,
        "failed": [
            {name: record.get(name) for name in ("seed", "outcome", "what", "history")}
            for record in sorted(records, key=lambda record: record["seed"])
            if record["outcome"] in BAD
        ],
    }


def write(out, records, command, code):
    """Write the summary, and below it a line for each history, from which a stopped command goes on."""
    lines = ",\n".join(json.dumps({k: v for k, v in r.items() if k != "pid"}) for r in records)
    atomic.overwrite(out, json.dumps(summary(records, command, code), indent=1)[:-2] + f',\n "records": [\n{lines}\n]\n}}\n')


def earlier(out, code):
    """The records of an earlier command with the same code, else none."""
    try:
        stored = json.loads(out.read_text())
    except FileNotFoundError:
        return []
    return stored["records"] if stored["code"] == code else []


def flags():
    """The command's flags."""
    parser = argparse.ArgumentParser(prog="python -m tests.histories.walk", description=__doc__.splitlines()[0])
    parser.add_argument("--walks", type=int, default=30, help="number of histories")
    parser.add_argument("--first", type=int, default=0, help="seed of the first one")
    parser.add_argument("--jobs", type=int, default=1, help="processes that play at once")
    parser.add_argument("--out", type=pathlib.Path, help="JSON file to write, and to go on from")
    parser.add_argument("--keep", action="store_true", help="keep the histories' directories")
    default = pathlib.Path(tempfile.gettempdir()) / "tsdfm_histories"
    parser.add_argument("--cache", type=pathlib.Path, default=default, help="directory of fresh runs and programs")
    return parser


def main(arguments=None):
    """Play the histories that are not in the file yet; returns the exit code, 1 if one of them failed."""
    args = flags().parse_args(arguments)
    command, code = shlex.join(["python", "-m", "tests.histories.walk", *(arguments or sys.argv[1:])]), fresh.code_hash()
    scratch = args.cache.absolute() / f"walks_{os.getpid()}"
    seeds, started = range(args.first, args.first + args.walks), time.perf_counter()
    records = [] if args.out is None else [r for r in earlier(args.out, code) if r["seed"] in seeds]

    def report(record):
        records.append(record)
        what = f"  {record['what'].splitlines()[-1][:150]}" if record["outcome"] in BAD else ""
        count = f"{len(records)}/{args.walks}"
        print(f"{count}  seed {record['seed']}: {record['outcome']} in {record['seconds']:.1f} s{what}", flush=True)
        if args.out is not None:
            write(args.out, records, command, code)

    todo = [seed for seed in seeds if seed not in {record["seed"] for record in records}]
    try:
        play_all(todo, args.jobs, args.cache.absolute(), scratch, args.keep, report)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from there", flush=True)
        return 130
    counts = summary(records, command, code)
    print({name: counts[name] for name in ("walks", *BAD, "refused")}, f"in {time.perf_counter() - started:.0f} s", flush=True)
    print(f"directories and logs: {scratch}" if args.keep else f"logs: {scratch}", flush=True)
    return int(any(counts[name] for name in BAD))


if __name__ == "__main__":
    sys.exit(main())
