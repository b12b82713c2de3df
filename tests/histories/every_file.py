"""Every file and directory of a finished run, one after the other, deleted, cut or of another run: by hand.

`python -m tests.histories.every_file --out=results/every_file.json [--family=students] [--kinds=lose,cut,swap]` plays one
history for each: the damage, then runs that follow every refusal's advice, then the comparison with a fresh run.
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import platform
import shlex
import shutil
import sys
import tempfile
import time

from tsdfm_jax.runtime import memory

memory.keep()

W = pathlib.Path("W")


def lose(path, other):
    """Delete it."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def cut(path, other):
    """Leave its first half."""
    os.truncate(path, path.stat().st_size // 2)


def swap(path, other):
    """Put another run's in its place."""
    lose(path, other)
    shutil.copytree(other / path, path) if (other / path).is_dir() else shutil.copy2(other / path, path)


KINDS = {"lose": lose, "cut": cut, "swap": swap}


def cases(home, other, kinds):
    """(kind, path) of all that can be done to a work directory."""
    for path in sorted(path.relative_to(home) for path in (home / "W").rglob("*")):
        is_file = (home / path).is_file()
        possible = {"lose": True, "cut": is_file and (home / path).stat().st_size > 0}
        possible["swap"] = (other / path).exists() and (other / path).is_dir() != is_file
        if is_file and possible["swap"]:
            possible["swap"] = (home / path).read_bytes() != (other / path).read_bytes()
        yield from ((kind, path) for kind in kinds if possible[kind])


def play(number, kind, path, family, disk, fresh, scratch):
    """The record of one case."""
    from tests.histories import actions, history, mini

    played, home = history.History(number, disk, fresh), scratch / "case"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    played.start = played.state = mini.start(family)
    key, value = actions.OTHER["teacher" if family != "autoregressive" else family]
    record, started = {"kind": kind, "path": str(path), "outcome": "right"}, time.perf_counter()
    try:
        with contextlib.chdir(home), history.limited(history.SECONDS):
            for name in ("W", "input"):
                shutil.copytree(fresh.directory(played.state) / name, name)
            KINDS[kind](path, fresh.directory(played.state | {key: value}))
            played.settle()
            played.compare()
    except history.Finding as finding:
        record |= {"outcome": finding.kind, "what": finding.text}
    return record | {"refused": played.refused, "seconds": round(time.perf_counter() - started, 2)}


def main():
    """Play all cases; returns the exit code, 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.histories.every_file")
    parser.add_argument("--family", default="students")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()) / "tsdfm_histories")
    args, command = parser.parse_args(), shlex.join(["python", "-m", "tests.histories.every_file", *sys.argv[1:]])
    from tests.histories import actions, disk, fresh as fresh_runs, memo, mini, walk
    from tsdfm_jax.report import svg
    from tsdfm_jax.storage import atomic

    svg.draw = lambda *_, **__: "<svg></svg>"
    fresh, scratch, records = fresh_runs.Fresh(args.cache), args.cache.absolute() / f"every_file_{os.getpid()}", []
    with memo.installed(), disk.watched(scratch / "nothing") as watched, open(os.devnull, "w") as nothing:
        home = fresh.directory(mini.start(args.family))
        key, value = actions.OTHER["teacher" if args.family != "autoregressive" else args.family]
        other = fresh.directory(mini.start(args.family) | {key: value})
        todo = list(cases(home, other, args.kinds.split(",")))
        for number, (kind, path) in enumerate(todo):
            with contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
                records.append(play(number, kind, path, args.family, watched, fresh, scratch))
            last = records[-1]
            print(f"{number + 1}/{len(todo)} {kind} {path}: {last['outcome']} {last.get('what', '')[:200]}", flush=True)
    shutil.rmtree(scratch, ignore_errors=True)
    outcomes = collections.Counter(record["outcome"] for record in records)
    body = {"cases": len(records), **{name: outcomes[name] for name in walk.BAD}}
    body |= {"refused": sum(record["refused"] > 0 for record in records), "command": command, "family": args.family}
    body |= {
        "seconds": round(sum(record["seconds"] for record in records)),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    body |= {"code": fresh_runs.code_hash(), "failed": [record for record in records if record["outcome"] != "right"]}
    print(json.dumps({name: body[name] for name in ("cases", *walk.BAD, "refused", "seconds")}))
    if args.out is not None:
        atomic.overwrite(args.out, json.dumps(body, indent=1) + "\n")
    return int(len(records) != outcomes["right"])


if __name__ == "__main__":
    sys.exit(main())
