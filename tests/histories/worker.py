"""A process with one device that plays histories: it reads a seed a line, and writes what happened as a line of JSON."""

import contextlib
import inspect
import json
import os
import pathlib
import sys

from tsdfm_jax.runtime import memory

memory.keep()  # as a run does: before JAX starts threads


def run(text):
    """One run of a state in the present directory, to be killed."""
    from tests.histories import mini
    from tsdfm_jax import main

    state = {key: tuple(value) if isinstance(value, list) else value for key, value in json.loads(text).items()}
    options = {"remake": True} if "remake" in inspect.signature(main.run).parameters else {}
    main.run(mini.get_config(state), pathlib.Path("W"), **options)


def serve(cache, scratch, keep):
    """Play the seeds that come in until there are no more."""
    scratch.mkdir(parents=True, exist_ok=True)
    answers = os.fdopen(os.dup(1), "w")
    log = os.open(scratch / f"worker_{os.getpid()}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1), os.dup2(log, 2)
    from tests.histories import disk, fresh as fresh_runs, history, memo
    from tsdfm_jax.report import svg

    svg.draw = lambda *_, **__: "<svg></svg>"  # Matplotlib takes more time than all else in a run that finds nothing to do
    fresh = fresh_runs.Fresh(cache)
    with memo.installed(), disk.watched(scratch / "nothing") as watched:
        for line in sys.stdin:
            record = history.walk(int(line), watched, fresh, scratch, keep)
            print(json.dumps(record), file=answers, flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--run":
        run(sys.argv[2])
    else:
        with contextlib.suppress(KeyboardInterrupt):
            serve(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3:] == ["--keep"])
        os._exit(0)  # threads that crashed runs left behind may wait for minutes
