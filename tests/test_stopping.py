"""A run that gets a signal at any moment ends in seconds with its code and one line; the same command then ends as if undisturbed."""

import json
import pathlib
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parent.parent
WITHIN = 10


def start(workdir, stages, *options):
    command = [
        sys.executable,
        *options,
        "-m",
        "tsdfm_jax.main",
        "--config=tests/tiny.py",
        f"--workdir={workdir}",
        f"--stage={stages}",
    ]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def stop(process, number, after):
    """Send a signal when a line with `after` is on stderr; return the lines from there on."""
    lines = iter(process.stderr.readline, "")
    assert any(after in line for line in lines)
    process.send_signal(number)
    began = time.monotonic()
    rest = [line for line in lines if not line.startswith("import time:")]
    assert process.wait(timeout=60) == {signal.SIGINT: 130, signal.SIGTERM: 143}[number], rest
    assert time.monotonic() - began < WITHIN
    assert sum("stopped" in line for line in rest) == 1 and "stopped" in rest[-1] and "Traceback" not in "".join(rest), rest
    return rest


def test_before_there_is_anything(tmp_path):
    """A signal while main is being imported, and one while JAX is, leave nothing, not even a directory."""
    for module in ("absl.flags", "jax._src.config"):
        told = stop(start(tmp_path / "run", "tokenizer", "-X", "importtime"), signal.SIGINT, f" {module}\n")
        assert len(told) == 1 and not (tmp_path / "run").exists()


def test_stopped_everywhere(finished, tmp_path):
    """Stopped in the tokenizer's training, in compilation, in the first steps and in the last bound, a run ends in the same bits."""
    run, number = tmp_path / "run", signal.SIGTERM
    stop(start(run, "tokenizer,data"), number, "training 384 tokens")
    stop(start(run, "tokenizer,data,teacher"), number, "data: done")
    stop(start(run, "teacher"), number, "teacher: first step")
    assert not (run / "teacher/done.json").exists()
    rest = stop(start(run, "teacher,report"), number, "teacher 16/16")
    assert "teacher: stopped at step 16 of 16" in rest[-1] and not (run / "teacher/done.json").exists()
    last = start(run, "teacher")
    said = last.communicate(timeout=120)[1]
    assert last.returncode == 0 and "teacher: going on from step 16 of 16" in said, said
    one, other = (json.loads((at / "teacher/done.json").read_text())["figures"] for at in (run, finished))
    same = ("hash", "curve", "evaluations", "final_loss", "steps", "heldout_bits_per_byte")
    assert {name: one[name] for name in same} == {name: other[name] for name in same}
    assert [step for step, _ in one["evaluations"]] == [16]
