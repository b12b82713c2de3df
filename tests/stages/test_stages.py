"""Every stage, end to end at a tiny size: its files, its stop and resume, its errors on bad input."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.tiny import changed as config
from tsdfm_jax import load, main
from tsdfm_jax.data import records
from tsdfm_jax.flow import shaping

ROOT = pathlib.Path(__file__).parents[2]


def model_hash(directory):
    return json.loads((directory / "model/meta.json").read_text())["hash"]


def shards(directory):
    return {file.relative_to(directory): file.read_bytes() for file in sorted(directory.glob("**/*.array_record"))}


def test_what_a_run_leaves(finished):
    """A finished run has every file that the README promises."""
    for name in (
        "config.json",
        "log.txt",
        "tokenizer/tokenizer.model",
        "judges/pilot/model",
        "compass/done.json",
        "report/report.json",
        "report/traces.json",
        "report/index.html",
    ):
        assert (finished / name).exists(), name
    for name in ("teacher", "student/shaped/round_0", "student/blind/round_0"):
        assert (finished / name / "model").exists()
    networks = ("teacher", "judges/0", "judges/1", "judges/pilot", "student/shaped/round_0", "student/blind/round_0")
    written = {file.parent.relative_to(finished / "tensorboard").as_posix() for file in finished.glob("tensorboard/**/events*")}
    assert written == {*networks, "evaluate"}
    assert len(list(finished.glob("samples/*.jsonl"))) == 1 + 2 + 2 + 2 * 2 + 2 * 2  # sample; real, unigram; the table; frontiers
    lines = [json.loads(line) for line in (finished / "samples/sample.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and all(line["text"] and len(line["tokens"]) == 16 for line in lines)


def test_every_json_file_is_json(finished):
    """No file holds NaN or an infinity, which JSON has not."""

    def refuse(constant):
        raise ValueError(constant)

    files = [file for file in finished.rglob("*.json*") if "checkpoints" not in file.parts and "params" not in file.parts]
    for file in files:
        text = file.read_text()
        for part in text.splitlines() if file.suffix == ".jsonl" else [text]:
            json.loads(part, parse_constant=refuse)
    assert {"rows.json", "report.json", "traces.json", "config.json", "commands.jsonl"} <= {file.name for file in files}


def test_the_report(finished):
    """report.json follows its schema: stages with time and memory, the compass's report, one row per text set and judge."""
    report = json.loads((finished / "report/report.json").read_text())
    assert report["schema"] == 2 and report["config"]["data"]["length"] == 16 and report["environment"]["devices"] == 8
    for stage in report["stages"].values():
        assert stage["seconds"] > stage["compile_seconds"] >= 0 and stage["peak_memory_bytes"] > 1e6
        assert stage["compilations"] >= stage["from_cache"] >= 0
    assert sum(stage["share_of_time"] for stage in report["stages"].values()) == pytest.approx(1.0)
    compass = report["compass"]
    assert {row["selection"] for row in compass["steered"]} == {"blind", "random", "worst", "shaped"}
    assert len(compass["by_step_size"]) == 11 and 0 <= compass["auc"] <= 1 and compass["by_time"] and compass["by_depth"]
    assert len(report["rows"]) == (2 + 2 + 2 * 2 + 2 * 2) * 2
    fields = "model source steps seed temperature samples length judge judge_parameters judge_hash judge_tokenizer judge_bos judge_context ppl_token ppl_sample bits_per_byte entropy_nats entropy_bits distinct_1 distinct_2 distinct_3 repetition_4 lexical mauve mauve_spread frechet tokens_per_second"
    for row in report["rows"]:
        assert set(fields.split()) <= set(row) and row["ppl_sample"] >= row["ppl_token"] > 1 and 0 <= row["lexical"] <= 1


def test_loss_falls_and_nothing_recompiles(finished):
    """The loss of every training stage ends below its start, and no training step recompiles."""
    report = json.loads((finished / "report/report.json").read_text())
    trained = [report["stages"][name] for name in ("teacher", "student/shaped/round_0", "student/blind/round_0")]
    trained += list(report["stages"]["judges"]["judges"].values())
    for stage in trained:
        assert stage["recompilations"] == 0
        assert stage["curve"][-1][1] < stage["curve"][0][1]
    assert report["stages"]["teacher"]["heldout_bits_per_byte"] > 0


def test_shaped_and_blind_start_alike(finished):
    """Both record sets have the same x_0; the shaped one keeps the lowest of K energies a midpoint, the blind one has one."""
    shaped, blind = (records.open_store(finished / f"trajectories/round_0/{v}/whole") for v in ("shaped", "blind"))
    assert len(shaped) == len(blind) == 64
    for i in (0, 17, 63):
        a, b = shaped[i], blind[i]
        assert (a["states"][0] == b["states"][0]).all() and a["states"].shape == (5, 16)
        taken = np.take_along_axis(a["energy"], a["index"][:, None].astype(int), axis=1)[:, 0]
        assert (taken <= a["energy"].min(axis=1) + shaping.TIE * np.abs(a["energy"]).max(axis=1)).all()
        assert a["energy"].shape == (4, 3)
        assert (b["index"] == 0).all() and b["energy"].shape == (4, 1)


def test_finished_stages_are_skipped(finished):
    """The same command on a finished directory computes no stage again."""
    before = {file: file.stat().st_mtime_ns for file in finished.glob("**/done.json")}
    main.run(config(), finished, ["tokenizer", "data", "judges", "teacher", "compass", "trajectories", "student", "evaluate"])
    assert before == {file: file.stat().st_mtime_ns for file in finished.glob("**/done.json")}


def test_prompt_stays(copy):
    """Every sampled text begins with the prompt; the texts of the run stay beside them, and so does its config."""
    written, made_with = (copy / "samples/sample.jsonl").read_text(), (copy / "config.json").read_text()
    main.run(config(**{"sample.prompt": "The Senate", "sample.model": "student_blind"}), copy, ["sample"])
    lines = [json.loads(line) for line in (copy / "samples/sample.jsonl").read_text().splitlines()]
    assert all(line["text"].startswith("The Senate") for line in lines)
    assert written == (copy / "samples/sample_1.jsonl").read_text() and made_with == (copy / "config.json").read_text()


def command(workdir, stage, *more):
    return [sys.executable, "-m", "tsdfm_jax.main", "--config=tests/tiny.py", f"--workdir={workdir}", f"--stage={stage}", *more]


@pytest.mark.parametrize(
    "stage, output, sign",
    [("teacher", "teacher", "checkpoints/4/*"), ("trajectories", "trajectories/round_0", "shaped/whole/shard-00000.array_record")],
)
def test_stopped_and_resumed_is_never_stopped(finished, copy, stage, output, sign):
    """SIGTERM in a stage gives exit code 143 and one line; the same command then gives the result of an unstopped run."""
    shutil.rmtree(copy / output)
    first = subprocess.Popen(command(copy, stage), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not list((copy / output).glob(sign)):
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.02)
    first.send_signal(signal.SIGTERM)
    _, said = first.communicate(timeout=300)
    assert first.returncode == 143 and "the same command goes on from there" in said.strip().splitlines()[-1], said
    assert not (copy / output / "done.json").exists()
    subprocess.run(command(copy, stage), cwd=ROOT, check=True, capture_output=True, timeout=600)
    if stage == "teacher":
        assert model_hash(copy / output) == model_hash(finished / output)
    else:
        assert shards(copy / output) == shards(finished / output) and shards(copy / output)


@pytest.mark.parametrize("changes", [
    {"flow.source": "mask", "compass.kind": "nce", "student.target": "mixed", "rounds": 2, "shaping.policy": "sequence_to_token", "trajectories.chain": "heun", "student.evaluator": "teacher", "shaping.tau": 0.5, "model.dtype": "bfloat16", "models": ("teacher", "student_shaped")},
    {"shaping.candidates": 1, "compass.kind": "distilled", "compass.score": "entropy", "student.target": "chain", "flow.jump": "cumulative", "teacher.loss": "kl", "student.loss": "kl", "mesh.fsdp": 2, "mesh.tensor": 2},
], ids=["mask-nce-mixed-rounds-bf16", "k1-distilled-chain-mesh"])  # fmt: skip
def test_other_ways_through(finished, tmp_path, changes):
    """Other sources, compasses, targets, chains, jumps, rounds and meshes run through every stage to a report."""
    for shared in ("tokenizer", "data"):
        shutil.copytree(finished / shared, tmp_path / shared)
    few = {"judges.widths": (8,), "judges.blocks": (1,), "judges.heads": (1,), "report.traces": 1}
    few |= {"evaluate.frontier": "", "evaluate.teacher_steps": (2,), "evaluate.student_steps": (1,)}
    main.run(config(**changes, **few), tmp_path)
    report = json.loads((tmp_path / "report/report.json").read_text())
    assert all(np.isfinite(row["ppl_token"]) for row in report["rows"])
    if changes.get("shaping.candidates") == 1:
        for name, shard in shards(tmp_path / "trajectories/round_0/shaped").items():
            assert shard == shards(tmp_path / "trajectories/round_0/blind")[name]
        assert model_hash(tmp_path / "student/shaped/round_0") == model_hash(tmp_path / "student/blind/round_0")
    if changes.get("rounds") == 2:
        assert shards(tmp_path / "trajectories/round_0") != shards(tmp_path / "trajectories/round_1")


def one_line(caught, *parts):
    assert "\n" not in str(caught.value) and all(part in str(caught.value) for part in parts), str(caught.value)


@pytest.mark.parametrize("stage", ["data", "teacher", "compass", "trajectories", "student", "evaluate", "sample", "report"])
def test_an_unfinished_earlier_stage_is_named(tmp_path, stage):
    """A stage that lacks an earlier stage names the one to run."""
    with pytest.raises(ValueError) as caught:
        main.run(config(), tmp_path, [stage])
    one_line(caught, "run --stage=")


@pytest.mark.parametrize("text, changes, said", [
    (None, {}, "no file matches"),
    (b"", {}, "empty"),
    (b"caf\xe9 " * 50, {}, "UTF-8"),
    (b"we the people of the united states " * 100, {"data.length": 9999, "tokenizer.vocab_size": 280}, "9999"),
])  # fmt: skip
def test_bad_text(tmp_path, text, changes, said):
    """A missing or empty corpus, text that is not UTF-8 and a window longer than the corpus each give a one-line error."""
    if text is not None:
        (tmp_path / "a.txt").write_bytes(text)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        main.run(config(**{"data.files": str(tmp_path / "*.txt"), **changes}), tmp_path / "run", ["tokenizer", "data"])
    one_line(caught, said)


def test_a_tokenizer_that_does_not_fit(copy):
    """A model is refused with a tokenizer other than the one it was trained with, and a file that says so was altered."""
    meta = copy / "teacher/model/meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "tokenizer": "0" * 64}))
    with pytest.raises(ValueError) as caught:
        load(copy, "teacher")
    one_line(caught, "tokenizer", "000000000000")
    shutil.rmtree(copy / "compass")
    with pytest.raises(ValueError) as caught:
        main.run(config(), copy, ["compass"])
    one_line(caught, "teacher is damaged", "meta.json", "--stage=teacher")


@pytest.mark.parametrize("damage", ["truncated", "foreign", "missing"])
def test_a_damaged_shard_is_named_and_remade(finished, copy, damage):
    """A truncated, foreign or missing shard is named; its stage makes it again, bit for bit, and touches no other shard."""
    where = copy / "trajectories/round_0/blind/whole"
    bad = where / "shard-00002.array_record"
    other = where / "shard-00001.array_record"
    if damage == "truncated":
        bad.write_bytes(bad.read_bytes()[:100])
    elif damage == "foreign":
        bad.write_bytes(other.read_bytes())
    else:
        bad.unlink()
    shutil.rmtree(copy / "student/blind")
    with pytest.raises(ValueError) as caught:
        main.run(config(), copy, ["student"])
    one_line(caught, "shard-00002", "--stage=trajectories")
    stamp = other.stat().st_mtime_ns
    main.run(config(), copy, ["trajectories"])
    assert shards(where) == shards(finished / "trajectories/round_0/blind/whole") and other.stat().st_mtime_ns == stamp


def test_another_config_does_not_overwrite(finished):
    """A finished stage is refused under another config, in one line that names a changed key."""
    with pytest.raises(ValueError) as caught:
        main.run(config(**{"model.width": 64, "compass.width": 64}), finished, ["teacher"])
    one_line(caught, "model.width=32", "64", "--workdir")


@pytest.mark.parametrize("flag, said", [
    ("--config.data.legnth=3", "length"),
    ("--config.teacher.bacth=3", "batch"),
    ("--config.teacher.batch=many", "many"),
    ("--stage=techer", "teacher"),
    ("--config=nowhere.py", "nowhere.py"),
    ("--workdri=x", "workdir"),
    ("--config.flow.source=masked", "mask"),
])  # fmt: skip
def test_the_command_line_refuses_in_one_line(tmp_path, flag, said):
    """An unknown key or flag and a bad value each give one line with a hint, and a non-zero exit code."""
    args = [sys.executable, "-m", "tsdfm_jax.main", "--config=tests/tiny.py", f"--workdir={tmp_path}", flag]
    done = subprocess.run(args, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode not in (0, None) and said in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_full_disk_is_one_line(tmp_path, capsys):
    """ENOSPC gives one line that says that the disk is full, and exit code 2."""
    error = OSError(28, os.strerror(28), str(tmp_path / "x"))
    assert main.explain(error, tmp_path) == 2
    assert "disk is full" in capsys.readouterr().err
