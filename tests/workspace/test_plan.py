"""A finished run of the tiny config: what changes, what is adopted, what the files of its past say."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests import earlier
from tests.tiny import changed as config
from tsdfm_jax import load, main
from tsdfm_jax.lineage.states import Kind
from tsdfm_jax.runtime import signals
from tsdfm_jax.workspace import plan, record, status

ROOT = pathlib.Path(__file__).parents[2]


def kinds(c, workdir):
    return {name: one.kind for name, one in plan.make(c, workdir, change=False).states.items()}


def stale(c, workdir):
    return {name for name, kind in kinds(c, workdir).items() if kind is Kind.STALE} - {"report"}


STUDENTS = {"student/shaped/round_0", "student/blind/round_0"}
SHAPED = {"trajectories/round_0/shaped", "student/shaped/round_0"}
RECORDS = {"trajectories/round_0/shaped", "trajectories/round_0/blind"}


@pytest.mark.parametrize("key, value, depend", [
    ("student.optimiser.steps", 32, STUDENTS | {"evaluate"}),
    ("shaping.candidates", 2, {"compass", "evaluate"} | SHAPED),
    ("compass.steered_samples", 32, {"compass"}),
    ("trajectories.seed", 1, RECORDS | STUDENTS | {"evaluate"}),
    ("judges.batch", 32, {"judges", "compass", "evaluate"}),
    ("evaluate.samples", 4, {"evaluate"}),
    ("evaluate.student_steps", (1,), set()),
    ("sample.prompt", "The", set()),
    ("mesh.fsdp", 2, set()),
])  # fmt: skip
def test_what_a_key_makes_stale(finished, key, value, depend):
    """Exactly what depends on it; a judge and the compass's own table change no student."""
    assert stale(config(**{key: value}), finished) == depend


def test_a_refusal_names_all_and_changes_nothing(copy):
    """The line has key, both values, the stages and both remedies; no file of the directory is another, or new."""
    before = {file: file.stat().st_mtime_ns for file in copy.rglob("*") if file.is_file()}
    for stages in ((), ("sample",), ("evaluate",)):
        with pytest.raises(ValueError) as caught:
            main.run(config(**{"student.batch": 8}), copy, stages)
        line = str(caught.value)
        assert "\n" not in line and all(part in line for part in ("student.batch=16", "now says 8", "--remake", "--workdir")), line
    after = {file: file.stat().st_mtime_ns for file in copy.rglob("*") if file.is_file()}
    assert {file for file in after if before.get(file) != after[file]} <= {copy / "log.txt", copy / ".lock"}


def test_a_deleted_stage_does_not_hide_a_changed_key(copy):
    """Deleting what a message named, and asking for something else: what depends on it is refused, by the key."""
    shutil.rmtree(copy / "teacher")
    with pytest.raises(ValueError) as caught:
        main.run(config(**{"teacher.optimiser.steps": 8}), copy)
    line = str(caught.value)
    assert "another teacher than this config makes (teacher.optimiser.steps=16, but the config now says 8)" in line
    assert "(compass, trajectories, student, evaluate, report" in line and "\n" not in line
    assert stale(config(), copy) == set()


def test_a_remake_keeps_the_old_until_the_new_is_whole(copy, monkeypatch):
    """A remake that is stopped leaves the old student and its table; it goes on where it was, and nothing else is made again."""
    c, old = config(**{"student.optimiser.steps": 12}), copy / "student/shaped/round_0"
    kept = {file: file.read_bytes() for file in (old / "model/meta.json", copy / "evaluate/rows.json", copy / "report/report.json")}
    others = {file: file.stat().st_mtime_ns for name in ("teacher", "trajectories", "judges") for file in (copy / name).rglob("*")}
    texts = {file: file.stat().st_mtime_ns for file in copy.glob("samples/teacher_*")}
    with monkeypatch.context() as patch, pytest.raises(signals.Interrupted):
        patch.setattr(signals, "stop_agreed", lambda step=0, every=1: step == 4)
        main.run(c, copy, remake=True)
    assert kept == {file: file.read_bytes() for file in kept} and list((copy / ".remaking/student/shaped").iterdir())
    with pytest.raises(ValueError, match="--remake"):
        main.run(c, copy)
    main.run(c, copy, remake=True)
    assert "going on from step 4 of 12" in (copy / "log.txt").read_text()
    assert all(file.read_bytes() != body for file, body in kept.items()) and stale(c, copy) == set()
    assert not (copy / ".remaking").exists() and not (copy / ".replaced").exists() and not (copy / "tensorboard/.remaking").exists()
    assert others == {file: file.stat().st_mtime_ns for file in others} and texts == {
        file: file.stat().st_mtime_ns for file in texts
    }
    assert (copy / "tensorboard/student/blind/round_0").is_dir()


def test_what_a_directory_of_another_version_is_worth(copy, capsys):
    """It is adopted, which is said once; nothing is made again, and a changed key is refused as ever."""
    earlier.make(config(), copy)
    assert set(kinds(config(), copy).values()) <= {Kind.DONE, Kind.MISSING} and stale(config(), copy) == set()
    assert stale(config(**{"student.batch": 8}), copy) >= STUDENTS
    times = {file: file.stat().st_mtime_ns for file in (*copy.rglob("model/meta.json"), *copy.glob("samples/*_0.jsonl"))}
    rows = (copy / "evaluate/rows.json").read_text()
    main.run(config(), copy)
    assert "made by an earlier version" in capsys.readouterr().err
    main.run(config(), copy)
    assert "made by an earlier version" not in capsys.readouterr().err
    main.run(config(**{"evaluate.seeds": (0, 1)}), copy, ["evaluate"])
    assert times == {file: file.stat().st_mtime_ns for file in times}
    known = {(row["model"], row["steps"], row["temperature"], row["judge"]): row["ppl_token"] for row in json.loads(rows)}
    new = [row for row in json.loads((copy / "evaluate/rows.json").read_text()) if row["seed"] == 0]
    assert {(row["model"], row["steps"], row["temperature"], row["judge"]): row["ppl_token"] for row in new} == known
    assert load(copy).network.heads == 2


def test_a_table_of_an_earlier_version_that_is_older_than_its_student_is_not_adopted(copy):
    """A student that was trained again after the evaluation: the table is of another one."""
    earlier.make(config(), copy)
    file = copy / "student/shaped/round_0/done.json"
    late = os.stat(copy / "evaluate/done.json").st_mtime + json.loads(file.read_text())["figures"]["seconds"] + 1
    os.utime(file, (late, late))
    found = kinds(config(), copy)
    assert found["student/shaped/round_0"] is Kind.DONE and found["evaluate"] is Kind.STALE
    with pytest.raises(ValueError, match="evaluate was made with inputs that do not fit .*--remake"):
        main.run(config(), copy)


def test_what_one_command_overrides_is_that_command_s(copy):
    """Sampling changes no config.json; the command and its overrides stand in commands.jsonl."""
    made_with = (copy / "config.json").read_text()
    main.run(config(**{"sample.prompt": "The Senate"}), copy, ["sample"], command="typed")
    assert (copy / "config.json").read_text() == made_with
    line = json.loads((copy / "commands.jsonl").read_text().splitlines()[-1])
    assert line["command"] == "typed" and line["stages"] == ["sample"] and line["overrides"] == {"sample.prompt": "The Senate"}
    main.run(config(**{"sample.prompt": "The Senate", "evaluate.samples": 4}), copy, ["teacher"], remake=True)
    assert json.loads((copy / "config.json").read_text())["evaluate"]["samples"] == 8


def test_a_network_says_of_itself_what_it_is(copy):
    """load and export take shape, path and length from beside the weights, whatever config.json has come to say."""
    before = load(copy).sample(number=2, steps=2)
    body = json.loads((copy / "config.json").read_text())
    body["model"]["heads"], body["data"]["length"], body["flow"]["exponent"] = 1, 8, 3.0
    (copy / "config.json").write_text(json.dumps(body))
    model = load(copy)
    assert model.network.heads == 2 and model.length == 16
    assert [str(sample) for sample in model.sample(number=2, steps=2)] == [str(sample) for sample in before]


def test_the_status_of_a_run(copy, capsys):
    """Each artefact with its state and reason; the exit code of the command says whether anything is stale."""
    assert status.show(config(), copy)
    shutil.rmtree(copy / "judges")
    (copy / "teacher/model/meta.json").write_text("{}")
    assert not status.show(config(**{"student.batch": 8}), copy)
    said = " ".join(capsys.readouterr().out.split())
    assert all(part in said for part in ("not made yet", "damaged", "student.batch=16, but the config now says 8", "--remake"))
    command = [sys.executable, "-m", "launch.status", str(copy)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "damaged" in done.stdout and not done.stderr
    done = subprocess.run([*command[:-1], str(copy / "nowhere")], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "nowhere" in done.stderr


def test_only_the_keys_of_a_command_s_stages_are_taken_over():
    """Those of later stages keep what they were made with; those of no stage are the command's."""
    stored, wanted = (json.loads(config(**changes).to_json()) for changes in ({}, {
        "teacher.batch": 8, "evaluate.samples": 4, "sample.steps": 1, "student.batch": 8, "log_every": 7, "seed": 3,
    }))  # fmt: skip
    made_with = record.merged(stored, wanted, ["teacher"])
    assert (made_with["teacher"]["batch"], made_with["seed"], made_with["log_every"]) == (8, 3, 7)
    assert (made_with["evaluate"]["samples"], made_with["sample"]["steps"], made_with["student"]["batch"]) == (8, 2, 16)
    assert record.merged(stored, wanted, ["sample"])["sample"]["steps"] == 1
