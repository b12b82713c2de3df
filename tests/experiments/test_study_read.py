"""The study read from finished runs: tables, bars, figures, students' targets, and the compass by itself."""

import functools
import json
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest

from tests import studying
from tsdfm_jax.data import records
from tsdfm_jax.experiments.study import (
    arms as study_arms,
    compass as study_compass,
    figures as study_figures,
    jumps as study_jumps,
    reading as study_read,
    runs as study_runs,
    table as study_table,
    targets as study_targets,
)
from tsdfm_jax.flow import jump
from tsdfm_jax.stages import compass as compass_stage


@pytest.fixture
def read(finished, tmp_path, monkeypatch):
    """A study with base, two main arms and the reference finished: copies of one run, each with its own config."""
    monkeypatch.setattr(study_arms, "STEPS", (2,))
    monkeypatch.setattr(study_read, "FRONTIER", 2)
    monkeypatch.setattr(study_runs, "TEACHER_STEPS", (2, 4))
    made = studying.study(tmp_path)
    arms = {arm.name: arm for arm in [*study_arms.main_arms(made.config), *study_arms.ablations(made.config)]}
    runs = [made.base("uniform")] + [made.run(arms[name], "uniform", 0) for name in ("blind", "shaped", "reference")]
    for run in runs:
        shutil.copytree(finished, run.workdir, symlinks=True)
        (run.workdir / "config.json").write_text(run.config.to_json())
    rows = runs[2].workdir / "evaluate/rows.json"  # make the shaped student, a copy of the blind one, a fifth better
    better = [row | {"ppl_token": row["ppl_token"] * 0.8} for row in json.loads(rows.read_text())]
    rows.write_text(json.dumps(better))
    return made


def test_what_is_read(read, tmp_path, capsys):
    """The study's numbers, bars, tables, figures and samples come from the runs' rows."""
    page = tmp_path / "out/STUDY.md"
    page.parent.mkdir()
    page.write_text(
        "before\n<!-- table headline -->\n<!-- end -->\n<!-- table main-uniform -->\nold\n<!-- end -->\n<!-- table main-mask -->\n<!-- end -->\nafter\n"
    )
    assert study_table.write(read, tmp_path / "out", "tiny") == 0
    found = json.loads((tmp_path / "out/study-tiny.json").read_text())
    told = found["sources"]["uniform"]
    assert set(told["arms"]) == {"blind", "shaped", "reference"} and list(found["sources"]) == ["uniform"]
    rows = json.loads((read.base("uniform").workdir / "evaluate/rows.json").read_text())
    at = lambda model, steps: {
        r["judge"]: r["ppl_token"] for r in rows if (r["model"], r["steps"], r["temperature"]) == (model, steps, 1.0)
    }
    assert told["references"]["teacher"]["4"][0]["ppl_token"] == at("teacher", 4)
    held = told["arms"]["shaped"]["held"]["2"]
    assert held["of_blind"] == pytest.approx({judge: 0.8 for judge in told["judges"]})
    assert held["of_teacher"] == pytest.approx({j: 0.8 * p / at("teacher", 4)[j] for j, p in at("student_shaped", 2).items()})
    assert "spread" in held["verdict"]  # one seed has no spread
    text = page.read_text()
    over = {
        name: ", ".join(f"×{row['of_teacher'][j] / by:.2f}" for j in told["judges"])
        for name, row, by in (("shaped", held, 1), ("blind", held, 0.8))
    }
    assert all(f"| {name} | {ratios} | {held['entropy']:.3f} | 1 |" in text for name, ratios in over.items())
    assert "old" not in text and "| shaped | 2 |" in text and "Not measured." in text and text.endswith("after\n")
    made = sorted((tmp_path / "out/study").glob("*.svg"))
    assert [file.stem for file in made] == ["frontier-uniform", "steps-uniform"]
    assert all(ElementTree.parse(file).getroot().tag.endswith("svg") for file in made)
    samples = tmp_path / "out/tiny/samples"
    assert {file.name for file in samples.iterdir()} == {f"uniform-{name}.jsonl" for name in ("data", "teacher", "blind", "shaped")}
    lines = [json.loads(line) for line in (samples / "uniform-shaped.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(read.config.evaluate.samples))
    assert all(line["steps"] == 2 and line["model"] == "student_shaped" and line["text"] for line in lines)


def test_what_students_learnt_from_and_write_by_other_jumps(read, tmp_path, monkeypatch):
    """Targets are measured on the records on disk; the config's own jump gives the table's texts, another jump others."""
    arms = {arm.name: arm for arm in [*study_arms.main_arms(read.config), *study_arms.ablations(read.config)]}
    run = read.run(arms["blind"], "uniform", 0)
    study_targets.targets(read, [run])
    told = json.loads((run.workdir / study_targets.TARGETS).read_text())
    store = records.open_store(run.workdir / "trajectories/round_0/shaped/whole")
    states = np.stack([store[i]["states"] for i in range(len(store))])
    left = [(states[:, k] == states[:, 0]).mean() for k in range(states.shape[1])]
    assert told["noise_left"] == pytest.approx(left, abs=1e-4) and told["noise_left"][0] == 1.0 > told["noise_left"][-1]
    assert told["samples"] == len(store) and all(score > 1.0 for score in told["ppl_token"].values())

    # The runs are copies of one that another config made.
    monkeypatch.setattr(study_jumps.trained, "model", functools.partial(study_jumps.trained.model, find=study_jumps.trained.whole))
    monkeypatch.setattr(study_jumps, "ARMS", ("blind",))
    monkeypatch.setattr(jump, "JUMPS", {name: jump.JUMPS[name] for name in ("bridge", "cumulative")})
    study_jumps.measure(read, "uniform")
    found = json.loads((tmp_path / "uniform" / study_jumps.FILE).read_text())["blind"]
    rows = json.loads((run.workdir / "evaluate/rows.json").read_text())
    wanted = [r for r in rows if (r["model"], r["steps"], r["temperature"]) == ("student_shaped", 2, 1.0)]
    assert found["bridge"]["2"]["ppl_token"] == pytest.approx({r["judge"]: r["ppl_token"] for r in wanted}, rel=1e-5)
    assert found["cumulative"]["2"]["ppl_token"] != found["bridge"]["2"]["ppl_token"]
    assert "| blind | cumulative |" in study_table.jumps_table({"jumps": {"blind": found}})


def test_a_run_is_finished_whatever_its_compass_told_of_itself(read):
    """A run stays finished if only settings of the compass's report change, not if those of a student do."""
    run = next(
        run for run in (read.run(arm, "uniform", 0) for arm in study_arms.main_arms(read.config)) if run.arm.name == "shaped"
    )

    def finished_with(**changes):
        config = json.loads(run.config.to_json())
        for key, value in changes.items():
            config["compass"][key] = value
        (run.workdir / "config.json").write_text(json.dumps(config))
        return run.finished()

    assert finished_with() and finished_with(steered_steps=8, steered_samples=5, heldout=64)
    assert not finished_with(prior=0.5) and not finished_with(batch=2)


def test_the_compass_by_itself(read, tmp_path, monkeypatch):
    """There is one cell per compass, place and K; an untrained compass has none; existing cells are not made again."""
    monkeypatch.setattr(study_compass, "CANDIDATES", (2,))
    monkeypatch.setattr(study_compass, "OTHER_CANDIDATES", 2)
    arms = {arm.name: arm for arm in study_arms.ablations(read.config)}
    chosen = {name: arms[name] for name in ("reference", "distilled", "prior=1")}
    monkeypatch.setattr(study_compass, "scorers", lambda config: chosen)
    study_compass.measure(read, "uniform")
    file = tmp_path / "uniform" / study_compass.FILE
    found = json.loads(file.read_text())
    own = [study_compass.BLIND, "reference:-1:2", "reference:0:2", "reference:1:2"]
    assert list(found) == own + ["prior=1:-1:2", "prior=1:0:2", "prior=1:1:2"]  # `distilled` has not been trained
    assert all(row["samples"] == 16 and len(row["judges"]["judge_0"]["nll"]) == 16 for row in found.values())
    blind = found[study_compass.BLIND]
    assert study_compass.paired(blind, blind, "judge_0") == (1.0, 1.0, 1.0)
    assert len({found[name]["judges"]["judge_0"]["ppl_token"] for name in own}) == 4

    run = read.run(chosen["distilled"], "uniform", 0)
    run.link()
    compass_stage.run(run.config, run.workdir)
    gone = ("reference:1:2", "prior=1:-1:2")
    file.write_text(json.dumps({name: row for name, row in found.items() if name not in gone}))
    study_compass.measure(read, "uniform")
    again = json.loads(file.read_text())
    assert all(again[name] == found[name] for name in found)
    # The config's own picks and every compass at all midpoints come first, single picks by other compasses last.
    made = ["reference:1:2", "distilled:-1:2", "prior=1:-1:2", "distilled:0:2", "distilled:1:2"]
    assert list(again)[len(found) - len(gone) :] == made
    assert again["distilled:-1:2"]["entropy_nats"] != found["reference:-1:2"]["entropy_nats"]


def test_what_was_made_elsewhere_is_kept(read, tmp_path):
    """Arms of an earlier table stay if teacher and judges are the same, and are dropped otherwise."""
    out, file = tmp_path / "out", tmp_path / "out/study-tiny.json"
    study_table.write(read, out, "tiny")
    first = json.loads(file.read_text())
    shaped = next(arm for arm in study_arms.main_arms(read.config) if arm.name == "shaped")
    shutil.rmtree(read.run(shaped, "uniform", 0).workdir)
    study_table.write(read, out, "tiny")
    assert json.loads(file.read_text())["sources"] == first["sources"]

    def another(change):
        other = json.loads(json.dumps(first))
        change(other["sources"]["uniform"])
        file.write_text(json.dumps(other))
        study_table.write(read, out, "tiny")
        return set(json.loads(file.read_text())["sources"]["uniform"]["arms"])

    def scaled(by):
        def change(told):
            for row in told["references"]["data"]["0"]:
                row["ppl_token"]["judge_0"] *= by

        return change

    assert "shaped" in another(scaled(1.0001))
    assert another(scaled(1.01)) == another(lambda told: told["teacher"].update(hash="another")) == {"blind", "reference"}


def test_the_autoregressive_model_stands_beside_the_teacher(read, finished, tmp_path):
    """The autoregressive model has a table line and a place in the figures, new or kept; other judges are refused."""
    run, out = read.autoregressive(), tmp_path / "out"
    shutil.copytree(finished, run.workdir, symlinks=True)
    (run.workdir / "config.json").write_text(run.config.to_json())
    file = run.workdir / "evaluate/rows.json"
    texts = [row for row in json.loads(file.read_text()) if (row["model"], row["steps"]) == ("teacher", 4)]
    file.write_text(json.dumps([row | {"model": "autoregressive", "steps": 8} for row in texts]))
    found = study_read.gather(read)
    told = found["sources"]["uniform"]
    by_judge = {row["judge"]: row["ppl_token"] for row in texts if row["temperature"] == 1.0}
    assert told["references"]["autoregressive"]["8"][0]["ppl_token"] == by_judge
    assert "| autoregressive | 8 |" in study_table.main_table(told)
    study_figures.write(found, out)
    assert all("autoregressive" in (out / f"{name}-uniform.svg").read_text() for name in ("steps", "frontier"))

    file.write_text(json.dumps([row | {"judge_identity": "another", "model": "autoregressive"} for row in texts]))
    with pytest.raises(ValueError, match="other judges"):
        study_read.gather(read)
    shutil.rmtree(run.workdir)
    kept = study_read.gather(read, json.loads(json.dumps(found)))
    assert kept["sources"]["uniform"]["references"] == told["references"]


@pytest.mark.parametrize(
    "ratio, entropy, seeds, matched, said",
    [
        (0.6, 0.98, 3, 0.6, "met, at matched entropy too"),
        (0.6, 0.98, 3, 0.9, "met"),
        (0.7, 0.98, 3, 0.6, "missed: perplexity"),
        (0.6, 0.96, 3, 0.6, "missed: entropy"),
        (0.6, 0.98, 1, None, "missed: spread"),
    ],
)
def test_verdicts(ratio, entropy, seeds, matched, said):
    """A bar is met only if all judges agree."""
    one = {"of_teacher": {"a": 0.5, "b": ratio}, "entropy": entropy, "below_every_blind_seed": {"a": True, "b": True}}
    assert study_read.verdict(one | {"matched": {"a": matched, "b": matched}}, seeds) == said
