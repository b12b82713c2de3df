"""A running sweep with a stub for main: start, stop, resume, launcher, and refusals of its command line."""

import json
import os
import shlex
import signal
import subprocess
import time

import pytest

from tests.cluster import assert_one_line
from tests.sweeping import STUB, TWO, Said, control, log, make, start, wait_for
from tsdfm_jax.experiments.sweep import hyper, jobs as sweep_jobs, runs as sweep_runs


def test_what_is_constant_goes_to_the_common_run(tmp_path):
    """The common run gets the command line's overrides and those of all runs, not those of some runs."""
    entries = [{"teacher.batch": 32, "student.batch": 32}, {"teacher.batch": 32}]
    made = make(tmp_path, entries, given={"judges.batch": 32})
    assert made.common.arguments[2:] == [
        "--stage=tokenizer,data,judges,teacher,compass,trajectories", "--config.judges.batch=32", "--config.teacher.batch=32",
    ]  # fmt: skip
    assert made.common.config.teacher.batch == 32 and made.runs[1].arguments[-2:] == made.common.arguments[-2:]


def test_a_sweep_runs_once(tmp_path):
    """Shared stages run first, then each run with links to them; a second call starts nothing; links survive a move."""
    said, made = Said(), make(tmp_path / "s", TWO)
    assert made.run(1, said) == 0 and said[-1] == "2 of 2 runs finished"
    names = ["common", "candidates=2", "candidates=4"]
    assert log(made.root) == [(name, what) for name in names for what in ("begins", "ends")]
    (tmp_path / "s").rename(tmp_path / "t")
    for run in made.runs:
        for stage in made.shared:
            link = tmp_path / "t" / run.name / stage
            assert link.is_symlink() and link.resolve() == tmp_path / "t/common" / stage
        assert not (tmp_path / "t" / run.name / "compass").exists()
    again = make(tmp_path / "t", TWO)
    assert again.run(1, said) == 0 and len(log(again.root)) == 6


def test_a_failed_run_does_not_stop_the_others(tmp_path):
    """A failed run is named with its last line, and exit code 1; its stderr is kept; the next call runs only that one."""
    said, made = Said(), make(tmp_path, TWO)
    control(tmp_path, made, fail=["candidates=2"])
    assert made.run(1, said) == 1
    assert "failed candidates=2: exit code 3: the loss is not a number" in said
    assert said[-1] == "1 of 2 runs finished; failed: candidates=2"
    control(tmp_path, made, die=["candidates=2"])
    assert made.run(1, said) == 1 and "failed candidates=2: exit code 137" in said  # without the last line of the earlier failure
    control(tmp_path, made)
    assert made.run(1, said) == 0 and log(tmp_path)[-2:] == [("candidates=2", "begins"), ("candidates=2", "ends")]
    assert log(tmp_path).count(("candidates=4", "begins")) == 1
    assert "the loss is not a number" in (tmp_path / "candidates=2/stderr.txt").read_text()


def test_nothing_starts_without_what_is_shared(tmp_path):
    """If the shared stages fail, no run starts, and the message names those stages."""
    said, made = Said(), make(tmp_path, TWO)
    control(tmp_path, made, fail=["common"])
    assert made.run(2, said) == 1 and log(tmp_path) == [("common", "begins")]
    assert "tokenizer, data, judges, teacher" in said[-1]


def test_what_is_shared_must_be_of_this_config(tmp_path):
    """Shared stages are ready when each is done and was made with the sweep's current values."""
    made = make(tmp_path, TWO)
    assert not made.ready() and made.run(2, Said()) == 0 and made.ready()
    file = tmp_path / "common/teacher/done.json"
    file.write_text(file.read_text().replace('"heldout": 32', '"heldout": 64'))
    assert not made.ready()


def test_runs_at_a_time(tmp_path):
    """With parallel=2 at most two runs work at a time, and two do."""
    made = make(tmp_path, hyper.sweep("shaping.candidates", [2, 4, 5, 6]))
    control(tmp_path, made, seconds=0.5)
    assert made.run(2, Said()) == 0
    at_work = most = 0
    for _, what in log(tmp_path)[2:]:
        at_work += {"begins": 1, "ends": -1}[what]
        most = max(most, at_work)
    assert most == 2


def test_further_samples_count(tmp_path):
    """A run is finished if any of its samples is not older than its report: a second one does not overwrite the first."""
    made = make(tmp_path, TWO)
    assert made.run(2, Said()) == 0 and not made.left()
    samples = tmp_path / "candidates=2/samples"
    os.utime(samples / "sample.jsonl", (1, 1))
    (samples / "sample_student_4_0.jsonl").write_text("texts of the table, of a model with an odd name")
    assert [run.name for run in made.left()] == ["candidates=2"]
    (samples / "sample_2.jsonl").write_text("")
    assert not made.left()


@pytest.mark.parametrize("change", ["config", "report", "sample"])
def test_what_counts_as_finished(tmp_path, change):
    """A run with another config, another config's report or a sample older than the report is not finished."""
    made = make(tmp_path, TWO)
    assert made.run(2, Said()) == 0 and not made.left()
    where = tmp_path / "candidates=2"
    if change == "sample":
        os.utime(where / "samples/sample.jsonl", (1, 1))
    else:
        file = where / {"config": "config.json", "report": "report/report.json"}[change]
        file.write_text(file.read_text().replace('"heldout": 16', '"heldout": 17'))
        os.utime(where / "samples/sample.jsonl")
    assert [run.name for run in made.left()] == ["candidates=2"]


def test_links_give_way_to_what_a_run_made(tmp_path):
    """A run's own directory replaces a link; a link to a stage that is not done is removed, so that no run writes through it."""
    made = make(tmp_path, TWO)
    made.run(1, Said())
    run = made.runs[0]
    (run.workdir / "teacher").unlink()
    (run.workdir / "teacher").mkdir()
    (tmp_path / "common/judges/done.json").unlink()
    sweep_runs.link(run, ["tokenizer", "data", "teacher"], tmp_path / "common")
    assert not (run.workdir / "teacher").is_symlink() and not (run.workdir / "judges").exists()
    assert (run.workdir / "tokenizer").is_symlink() and (tmp_path / "common/judges").is_dir()


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_sweep_goes_on(tmp_path, number, code):
    """A signal to the group reaches each run once; the sweep waits until they save; the next call finishes them."""
    made = make(tmp_path, TWO)
    made.run(1, Said())
    for run in made.runs:
        (run.workdir / "config.json").write_text("{}")
    control(tmp_path, made, hang=["candidates=2", "candidates=4"])
    (tmp_path / "log").unlink()
    running = start(tmp_path, "--parallel=2")
    wait_for(tmp_path, 2, "begins")
    os.killpg(running.pid, number)
    _, said = running.communicate(timeout=60)
    assert running.returncode == code and said.splitlines()[-1] == "sweep: stopped; the same command goes on from there", said
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted(event[:3] for event in events[2:]) == [[run.name, "saved", [number.name]] for run in made.runs]
    assert "stopping: 2 at work" in said and said.count("sweep: stopped candidates=") == 2
    control(tmp_path, made)
    again = start(tmp_path)
    assert again.wait(timeout=60) == 0 and "2 of 2 runs finished" in again.communicate()[1]


def test_what_a_killed_sweep_left_is_not_run_twice(tmp_path):
    """While a run of a killed sweep still works, the next sweep makes the others, and says who has it; afterwards it makes all."""
    made = make(tmp_path, TWO)
    made.run(1, Said())
    for run in made.runs:
        (run.workdir / "samples/sample.jsonl").unlink()
    control(tmp_path, made, hang=["candidates=2"])
    (tmp_path / "log").unlink()
    first = start(tmp_path)
    wait_for(tmp_path, 1, "begins")
    first.kill()
    first.wait()
    orphan = json.loads((tmp_path / "log").read_text().splitlines()[0])[3]
    second = start(tmp_path)
    _, said = second.communicate(timeout=60)
    assert second.returncode == 1 and f"(process {orphan} on host" in said and "is at work here: wait for it, or stop it" in said
    assert "1 of 2 runs finished; failed: candidates=2" in said and ("candidates=4", "ends") in log(tmp_path)
    os.kill(orphan, signal.SIGTERM)
    wait_for(tmp_path, 1, "saved")
    control(tmp_path, made)
    deadline = time.monotonic() + 30
    while (code := start(tmp_path).wait(timeout=60)) == 1:  # the run has logged that it saved, and ends in a moment
        assert time.monotonic() < deadline
    assert code == 0 and log(tmp_path)[-1] == ("candidates=2", "ends")


def test_two_sweeps_of_one_directory(tmp_path):
    """A second sweep of a directory is refused in one line that names the first, before it starts anything."""
    made = make(tmp_path, TWO)
    control(tmp_path, made, hang=["common"])
    first = start(tmp_path)
    wait_for(tmp_path, 1, "begins")
    second = start(tmp_path)
    _, said = second.communicate(timeout=60)
    os.kill(first.pid, signal.SIGTERM)
    assert second.returncode == 2 and len(log(tmp_path)) == 1
    assert_one_line(said, f"{tmp_path}: python -m launch.sweep --config=", f"(process {first.pid} on host")
    assert first.wait(timeout=60) == 143


@pytest.mark.parametrize("flags, said", [
    (["--config=nowhere.py"], "nowhere.py"),
    (["--config=tests/tiny.py"], "tests/tiny.py has no get_hyper"),
    (["--worker=x"], "worker"),
    (["--parallel=0"], "parallel"),
    (["--config.shaping.tua=1"], "no such config key: 'tua'"),
    (["stray"], "'stray' is not a flag"),
    (["--launcher=/no/such/command"], "cannot run '/no/such/command'"),
])  # fmt: skip
def test_the_command_line_refuses_in_one_line(tmp_path, flags, said):
    """A wrong flag, file or launcher gives one line and exit code 2."""
    make(tmp_path, hyper.sweep("seed", [1, 2]))
    running = start(tmp_path, *flags)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 2 and not log(tmp_path)
    assert_one_line("\n".join(line for line in err.splitlines() if "sweep: started" not in line), said)


def test_an_interrupt_before_anything_runs(tmp_path):
    """Ctrl-C while the sweep is being expanded also gives one line."""
    (tmp_path / "swept.py").write_text(
        "from tests import tiny\nget_config = tiny.get_config\ndef get_hyper(_): raise KeyboardInterrupt\n"
    )
    running = start(tmp_path)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert_one_line(err, "the same command goes on from there")


def test_help_and_mistyped_flags_do_not_wait_for_jax(tmp_path):
    """--help and an unknown flag are answered without importing JAX."""
    make(tmp_path, TWO)
    (tmp_path / "jax.py").write_text("raise SystemExit('jax was imported')")
    for flag, code in (("--help", 1), ("--worker=x", 2)):
        running = start(tmp_path, flag, PYTHONPATH=str(tmp_path))
        out, err = running.communicate(timeout=60)
        assert running.returncode == code and "jax was imported" not in out + err
    assert "jax was imported" in start(tmp_path, PYTHONPATH=str(tmp_path)).communicate(timeout=60)[1]


def test_a_dry_run_prints_what_a_run_starts(tmp_path, monkeypatch, capfd):
    """A dry run starts and writes nothing; it prints finished runs as comments, and a launcher in place of main."""
    made, ran = make(tmp_path, TWO), []
    made.print_commands("")
    lines = [shlex.split(line) for line in capfd.readouterr().out.splitlines()]
    assert not log(tmp_path) and not (tmp_path / "common").exists()
    run_jobs = sweep_jobs.run
    monkeypatch.setattr(sweep_jobs, "run", lambda jobs, *rest: ran.extend(jobs) or run_jobs(jobs, *rest))
    made.run(1, Said())
    assert [["python", *job.command[1:]] for job in ran] == lines
    (tmp_path / "candidates=4/config.json").unlink()
    made.print_commands("sbatch 'a b.sbatch'")
    finished, left = capfd.readouterr().out.splitlines()
    assert finished == "# finished: candidates=2" and shlex.split(left) == ["sbatch", "a b.sbatch", *made.runs[1].arguments]


LAUNCHER = """#!/bin/sh
printf '%s\\n' "$@" >>"{root}/handed"
[ ! -e "{root}/refuse" ] || exit 7
"""


def test_handing_out(tmp_path):
    """The launcher gets the shared stages first; once they are done it gets each run once, and a refused run again."""
    made, said = make(tmp_path, TWO), Said()
    launcher = tmp_path / "launcher"
    launcher.write_text(LAUNCHER.format(root=tmp_path))
    launcher.chmod(0o755)
    handed = lambda: (tmp_path / "handed").read_text().splitlines()
    assert made.hand_out(str(launcher), said) == 1 and handed() == made.common.arguments
    assert "2 runs wait for what they share" in said[-1]
    assert made.hand_out(str(launcher), said) == 1 and handed() == made.common.arguments
    assert any("common was handed out and is not finished: wait for it, or delete" in line for line in said)
    assert made.run(1, said) == 1 and not log(tmp_path)
    subprocess.run([*STUB, *made.common.arguments], check=True)
    (tmp_path / "refuse").touch()
    assert made.hand_out(str(launcher), said) == 1 and said[-1] == "the launcher refused candidates=2, candidates=4"
    (tmp_path / "refuse").unlink()
    (tmp_path / "handed").unlink()
    assert made.hand_out(str(launcher), said) == 0
    assert handed() == [argument for run in made.runs for argument in run.arguments]
    assert (made.runs[0].workdir / "teacher").resolve() == tmp_path / "common/teacher"
    assert made.hand_out(str(launcher), said) == 0 and len(handed()) == sum(len(run.arguments) for run in made.runs)
    before = log(tmp_path)
    assert made.run(1, said) == 1 and log(tmp_path) == before


def test_a_launcher_that_waits(tmp_path):
    """A launcher that waits for its command, as gpu_node.sh does, gets everything in one call."""
    made = make(tmp_path, TWO)
    assert made.hand_out(shlex.join(STUB), Said()) == 0 and not made.left()
    assert [name for name, what in log(tmp_path) if what == "ends"] == ["common", "candidates=2", "candidates=4"]
