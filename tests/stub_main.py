"""A stub of main for tests of the sweep: it parses main's flags and writes main's files, but computes nothing.

It reads `control.json` beside the work directories: {"fingerprints": {stage: …}, "fail": [run], "hang": [run], "die": [run]}.
"""

import json
import os
import pathlib
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from absl import app, flags  # noqa: E402
from ml_collections import config_flags  # noqa: E402

from tsdfm_jax.storage import lock  # noqa: E402

_CONFIG = config_flags.DEFINE_config_file("config", None, "")
_WORKDIR = flags.DEFINE_string("workdir", "", "")
_STAGE = flags.DEFINE_list("stage", [], "")


def main(argv):
    """Hold the work directory, as main does, and work; return the exit code."""
    where = pathlib.Path(_WORKDIR.value)
    try:
        with lock.held(where, "stub_main"):
            return work(where)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2


def work(where):
    """Work, fail, hang, die, or save and stop, as control.json says; return the exit code."""
    control = json.loads((where.parent / "control.json").read_text())
    signals = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda signum, frame: signals.append(signum))
    note(where, "begins", _STAGE.value)
    where.mkdir(exist_ok=True)
    (where / "config.json").write_text(_CONFIG.value.to_json())
    if where.name in control.get("fail", []):
        print("first line\nthe loss is not a number\n", file=sys.stderr)
        return 3
    if where.name in control.get("die", []):
        os.kill(os.getpid(), signal.SIGKILL)
    hangs = where.name in control.get("hang", [])
    until = time.monotonic() + (60 if hangs else control.get("seconds", 0))
    while time.monotonic() < until and not signals:
        time.sleep(0.01)
    if signals:
        time.sleep(0.3)  # saving takes a moment
        note(where, "saved", [signal.Signals(s).name for s in signals])
        return 128 + signals[0]
    leave(where, control)
    note(where, "ends", [])


def leave(where, control):
    """Write the files of finished stages or, without --stage, of a finished run."""
    for stage in _STAGE.value:
        (where / stage).mkdir(exist_ok=True)
        (where / stage / "done.json").write_text(json.dumps({"fingerprint": control["fingerprints"][stage], "figures": {}}))
    if not _STAGE.value:
        for name, text in {
            "report/report.json": json.dumps({"config": _CONFIG.value.to_dict()}),
            "samples/sample.jsonl": "",
        }.items():
            (where / name).parent.mkdir(exist_ok=True)
            (where / name).write_text(text)


def note(where, what, more):
    """Append one line to the sweep's log."""
    with open(where.parent / "log", "a") as log:
        log.write(json.dumps([where.name, what, more, os.getpid()]) + "\n")


if __name__ == "__main__":
    app.run(main)
