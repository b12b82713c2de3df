"""The table of a sweep, from made-up reports; and the real stages through its links."""

import json
import os

import numpy as np
import pytest

from tests import earlier, tiny
from tests.sweeping import TWO, Said, make, start
from tsdfm_jax import main
from tsdfm_jax.experiments.sweep import runs as sweep_runs, table as sweep_table
from tsdfm_jax.lineage import bookkeeping
from tsdfm_jax.runtime import checkpoint
from tsdfm_jax.workspace import graph


def rows(shaped):
    """Made-up rows of evaluate: two judges, two seeds."""
    sets = {
        ("student_shaped", 8): shaped,
        ("student_blind", 8): 50.0,
        ("student_blind", 16): 40.0,
        ("teacher", 1024): 30.0,
        ("data", 0): 20.0,
    }
    for (model, steps), ppl in sets.items():
        for seed in (0, 1):
            for judge, size in (("judge_1", 2), ("judge_0", 1)):
                row = {"model": model, "steps": steps, "seed": seed, "judge": judge, "judge_parameters": size,
                       "ppl_token": ppl + seed * 10 + size, "entropy_nats": ppl / 10 + seed}  # fmt: skip
                yield row | {"temperature": 1.0}
                yield row | {"temperature": 0.5, "ppl_token": 0.0, "entropy_nats": 0.0}  # of a frontier


def test_the_table(tmp_path, monkeypatch):
    """The table has swept keys, means over seeds, the teacher's ELBO and seconds; other runs are unfinished."""
    made = make(tmp_path, [{"shaping.candidates": 2}, {"shaping.candidates": 4, "shaping.tau": 0.5}, {"shaping.tau": 0.25}])
    made.run(1, Said())
    stages = {
        "teacher": {"seconds": 100.0, "heldout_bits_per_byte": 2.5},
        "compass": {"seconds": 5.0},
        "student/shaped/round_0": {"seconds": 7.0},
    }
    for run, ppl in zip(made.runs[:2], (100.0, 200.0)):
        report = {"config": run.config.to_dict(), "rows": list(rows(ppl)), "stages": stages}
        (run.workdir / "report/report.json").write_text(json.dumps(report))
        os.utime(run.workdir / "samples/sample.jsonl")
        (run.workdir / "compass").mkdir()
    (made.runs[2].workdir / "config.json").unlink()
    gathered = sweep_table.gather(made.runs)
    sweep_table.write(made.file, made.runs, gathered, tmp_path)
    first, second, third = gathered
    assert list(first)[:4] == ["run", "shaping.candidates", "status", "shaping.tau"]
    assert (first["status"], third["status"], third["seconds"], third["shaping.candidates"]) == (
        "finished",
        "unfinished",
        None,
        None,
    )
    assert (first["student_shaped_8_ppl_judge_0"], second["student_shaped_8_ppl_judge_1"]) == (106.0, 207.0)
    assert second["student_shaped_8_entropy_nats"] == 20.5 and first["teacher_1024_ppl_judge_0"] == 36.0
    assert first["data_ppl_judge_1"] == 27.0 and first["teacher_heldout_bits_per_byte"] == 2.5
    assert (first["seconds"], first["seconds_shared"]) == (12.0, 100.0)
    figures = list(first)[4:]
    assert figures[:3] == [f"student_shaped_8_{name}" for name in ("ppl_judge_0", "ppl_judge_1", "entropy_nats")]
    assert [name for name in figures if name.endswith("ppl_judge_0")] == [
        f"{at}_ppl_judge_0" for at in ("student_shaped_8", "student_blind_8", "student_blind_16", "teacher_1024", "data")
    ]
    header, *lines = (tmp_path / "sweep.csv").read_text().splitlines()
    assert header.split(",") == list(first) and lines[0].startswith("candidates=2,2,finished,,106.0,107.0,")
    assert lines[1].startswith('"candidates=4,tau=0.5",4,finished,0.5,') and lines[2] == "tau=0.25,,unfinished,0.25" + "," * len(
        figures
    )
    body = json.loads((tmp_path / "sweep.json").read_text())
    assert body["runs"] == gathered and body["swept"] == ["shaping.candidates", "shaping.tau"] and body["schema"] == 1
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError):
        sweep_table.write(made.file, made.runs, gathered[:1], tmp_path)
    assert len((tmp_path / "sweep.csv").read_text().splitlines()) == 4


def test_the_table_on_a_terminal(tmp_path, capfd):
    """The terminal's table has a row per number of steps, judges side by side by size, and names unfinished runs."""
    made = make(tmp_path, TWO)
    made.run(1, Said())
    report = {"config": made.runs[0].config.to_dict(), "rows": list(rows(100.0)), "stages": {"teacher": {"seconds": 1.0}}}
    (made.runs[0].workdir / "report/report.json").write_text(json.dumps(report))
    os.utime(made.runs[0].workdir / "samples/sample.jsonl")
    (made.runs[1].workdir / "config.json").unlink()
    running = start(tmp_path, "--table")
    out, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    assert "1 of 2 runs finished" in out and "judge_0 / judge_1" in out and "unfinished: candidates=4" in out
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert cells[0][:5] == ["2", "8", "106 / 107", "56 / 57", "-"] and cells[1][:4] == ["2", "16", "-", "46 / 47"]
    assert (tmp_path / "sweep.csv").exists()


def test_stages_work_through_links(tmp_path):
    """The real main reads finished stages through links, computes later stages, and does not change linked files."""
    config, common, run = tiny.get_config(), tmp_path / "common", tmp_path / "a=1,b=2"
    main.run(config, common, ["tokenizer"])
    checkpoint.save_params(common / "teacher/model", {"w": np.arange(6.0).reshape(2, 3)}, {"tokenizer": "t"})
    earlier.finish(common / "teacher", graph.fingerprint(config, "teacher"), {})
    before = {file: file.stat().st_mtime_ns for file in common.rglob("*")}
    made = sweep_runs.Run(name=run.name, overrides={}, config=config, workdir=run, arguments=[])
    sweep_runs.link(made, ["tokenizer", "teacher"], common)
    main.run(config, run, ["tokenizer", "data"])
    params, meta = checkpoint.load_params(run / "teacher/model")
    assert (params["w"] == np.arange(6.0).reshape(2, 3)).all() and meta["tokenizer"] == "t"
    assert before == {file: file.stat().st_mtime_ns for file in common.rglob("*")}
    assert (run / "tokenizer").is_symlink() and bookkeeping.done(run / "data") and not (common / "data").exists()


def test_missing_figures_are_dashes(tmp_path):
    """A seed without a perplexity is left out of the mean; without any there is a dash."""
    made = make(tmp_path, [{"shaping.candidates": 2}])
    made.run(1, Said())
    (run,) = made.runs
    lost = [
        row | {"ppl_token": None} if row["model"] == "teacher" or (row["model"] == "student_blind" and row["seed"]) else row
        for row in rows(100.0)
    ]
    lost[0]["ppl_token"] = float("inf")  # as older versions wrote it
    report = {"config": run.config.to_dict(), "rows": lost, "stages": {}}
    (run.workdir / "report/report.json").write_text(json.dumps(report))
    figures = sweep_table.figures_of(run)
    assert figures["teacher_1024_ppl_judge_0"] is None and figures["student_blind_8_ppl_judge_0"] == 51.0
    (row,) = sweep_table.gather(made.runs)
    assert list(sweep_table.line(row, {}, 1024, ["judge_0"]))[3] == "-"
