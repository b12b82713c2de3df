"""The baselines: each runs through all stages at a tiny size; and the config key `models`."""

import importlib
import io
import json
import shutil

import numpy as np
import pytest
import rich.console

from configs import baselines, quickstart
from tests import tiny
from tests.sweeping import STUB
from tsdfm_jax import load, main
from tsdfm_jax.config import networks, validation
from tsdfm_jax.data import records
from tsdfm_jax.experiments.sweep import hyper, plan as sweep_plan, table as sweep_table

NAMES = ("fsdfm", "sdtt", "autoregressive")
SIZES = ("batch", "width", "heads", "steps", "warmup", "count", "frontier", "learning_rate", "ema", "final_fraction")
FEW = {"evaluate.frontier": "", "evaluate.teacher_steps": (2,), "evaluate.student_steps": (1,), "report.traces": 1}
FEW |= {"evaluate.samples": 8, "student.optimiser.steps": 4, "autoregressive.optimiser.steps": 8, "trajectories.count": 32}
SMALL = {"autoregressive.width": 16, "autoregressive.heads": 2, "autoregressive.batch": 16}


def tiny_one(name, **changes):
    """The tiny config with all of a baseline's changes except sizes."""
    differing = hyper.differing(name, quickstart.get_config(), importlib.import_module(f"configs.baselines.{name}").get_config())
    kept = {key: value for key, value in differing.items() if key.split(".")[-1] not in SIZES}
    return tiny.changed(**{**kept, **FEW, **SMALL, **changes})


@pytest.fixture
def begun(finished, tmp_path):
    """A work directory with the stages that all baselines share."""
    for shared in ("tokenizer", "data", "judges", "teacher"):
        shutil.copytree(finished / shared, tmp_path / shared)
    return tmp_path


def report_of(where):
    return json.loads((where / "report/report.json").read_text())


@pytest.mark.parametrize("of", baselines.BASES)
@pytest.mark.parametrize("name", NAMES)
def test_the_budget_is_the_same(name, of):
    """Every baseline of every config is valid and trains on as many tokens as teacher and student together."""
    base = importlib.import_module(f"configs.{of}").get_config()
    c = importlib.import_module(f"configs.baselines.{name}").get_config(of)
    with c.unlocked():
        c.mesh.update(data=1, fsdp=1, tensor=8)  # any batch divides
    validation.validate(c)
    seen = lambda section, rounds=1: section.batch * section.optimiser.steps * rounds
    whole = seen(base.teacher) + seen(base.student)
    if name == "autoregressive":
        assert whole - c.teacher.batch < seen(c.autoregressive) <= whole
    else:
        assert c.teacher.to_dict() == base.teacher.to_dict()
        assert whole - c.rounds * c.student.batch < seen(c.teacher) + seen(c.student, c.rounds) <= whole
    for section in ("data", "tokenizer", "judges", "model"):
        assert c[section].to_dict() == base[section].to_dict()


def test_another_config_has_no_baseline():
    """A baseline of any other config is refused in one line that names it and the possible ones."""
    with pytest.raises(ValueError) as caught:
        baselines.start("fineweb_1b", ("teacher",))
    assert "fineweb_1b" in str(caught.value) and "quickstart" in str(caught.value) and "\n" not in str(caught.value)


def test_fsdfm(begun):
    """FS-DFM runs with only a blind student, on its own chains, and writes nothing for the models that it lacks."""
    main.run(tiny_one("fsdfm"), begun)
    assert not any((begun / name).exists() for name in ("compass", "autoregressive", "student/shaped"))
    report = report_of(begun)
    assert {row["model"] for row in report["rows"]} == {"data", "unigram", "teacher", "student_blind"}
    assert set(report["bounds"]) == {"teacher", "student_blind"} and report["compass"] is None and report["shaping"] is None
    assert "student/blind/round_0" in report["stages"] and "compass" not in report["stages"]
    row = records.open_store(begun / "trajectories/round_0/blind/chain")[0]
    assert row["states"].shape == (3, 16) and "left" not in row
    assert (begun / "report/index.html").stat().st_size > 10_000


def test_a_further_model_only_adds(finished, begun):
    """A blind student made alone equals that of a run with both, and does not change when the shaped one is added."""
    shutil.copytree(finished / "compass", begun / "compass")
    alone = {"models": ("teacher", "student_blind"), "evaluate.frontier": "", "sample.model": "student_blind"}
    main.run(tiny.changed(**alone), begun, ["trajectories", "student"])
    blind = "trajectories/round_0/blind/whole"
    kept = [*begun.glob(f"{blind}/*.array_record"), begun / "student/blind/round_0/done.json"]
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in kept}
    assert len(before) == 5 and not (begun / "student/shaped").exists() and not (begun / blind.replace("blind", "shaped")).exists()
    main.run(tiny.get_config(), begun, ["trajectories", "student"])
    assert before == {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in kept}
    for variant in ("shaped", "blind"):
        where = blind.replace("blind", variant)
        for file in (finished / where).glob("*.array_record"):
            assert (begun / where / file.name).read_bytes() == file.read_bytes()
        meta = f"student/{variant}/round_0/model/meta.json"
        assert json.loads((begun / meta).read_text())["hash"] == json.loads((finished / meta).read_text())["hash"]


def test_sdtt(begun):
    """SDTT doubles its step size each round; a round's generator is the student of the round before."""
    main.run(tiny_one("sdtt", **{"rounds": 2, "report.traces": 0}), begun)
    made = []
    for r in range(2):
        where = begun / f"trajectories/round_{r}/blind/chain"
        store = records.open_store(where)
        rows = [store[i] for i in range(len(store))]
        assert {float(row["h"]) for row in rows} == {2.0 ** (r + 1) / 64}
        left, x_t, m = (np.stack([row[name] for row in rows]) for name in ("left", "x_t", "states"))
        assert left.dtype == bool and (m[~left] == x_t[:, None][~left]).all() and left.any() and not left.all()
        made.append(json.loads((where / "manifest.json").read_text())["sources"]["generator"])
    students = [json.loads((begun / f"student/blind/round_{r}/model/meta.json").read_text())["hash"] for r in range(2)]
    assert made[1] == students[0] and made[0] == json.loads((begun / "teacher/model/meta.json").read_text())["hash"]
    assert {row["model"] for row in report_of(begun)["rows"]} == {"data", "unigram", "teacher", "student_blind"}


def test_autoregressive(begun):
    """The autoregressive model runs alone: one step a token, exact -log p, a prompt, but no suffix or infill."""
    shutil.rmtree(begun / "teacher")
    c = tiny_one("autoregressive", **{"evaluate.frontier": "autoregressive:16", "sample.prompt": "The Senate"})
    main.run(c, begun, ["teacher", "autoregressive", "compass", "trajectories", "student", "evaluate", "report", "sample"])
    assert not any((begun / name).exists() for name in ("teacher", "compass", "trajectories", "student"))
    report = report_of(begun)
    rows = [row for row in report["rows"] if row["model"] == "autoregressive"]
    assert {row["steps"] for row in rows} == {16} and all(row["tokens_per_second"] > 0 for row in rows)
    assert {row["temperature"] for row in rows} == {0.5, 1.0, 2.0} and len(report["frontiers"]) == 2
    stage = report["stages"]["autoregressive"]
    assert report["bounds"] == {"autoregressive": stage["heldout_bits_per_byte"]} and "autoregressive" in report["bounds_exact"]
    assert report["verdict"].startswith("The autoregressive model is at ×")
    page = (begun / "report/index.html").read_text()
    assert "not a bound" in page and "var(--autoregressive)" in page
    lines = [json.loads(line) for line in (begun / "samples/sample.jsonl").read_text().splitlines()]
    assert all(line["steps"] == 16 and line["text"].startswith("The Senate") for line in lines)
    model = load(begun, "autoregressive")
    (one,) = model.sample("The Senate", states=True)
    assert one.tokens == lines[0]["tokens"] and len(one.states) == 17 and one.text.startswith("The Senate")
    assert one.states[0] == "" and one.text.startswith(one.states[8])
    for ask in ({"suffix": " war"}, {"infill": "The ____"}):
        with pytest.raises(ValueError) as caught:
            model.sample(**ask)
        assert "left to right" in str(caught.value) and "\n" not in str(caught.value)
    assert load(begun).name.startswith("autoregressive of")  # the first model of the run
    with pytest.raises(ValueError, match="not among models"):
        load(begun, "student_shaped")


@pytest.mark.parametrize("changes, said", [
    ({"models": ()}, "empty"),
    ({"models": ("teacher", "techer")}, "techer"),
    ({"models": ("teacher", "teacher")}, "twice"),
    ({"models": ("student_blind",)}, "needs"),
    ({"models": ("teacher", "student_blind")}, "evaluate.frontier"),
    ({"models": ("teacher",), "evaluate.frontier": ""}, "sample.model"),
    ({"models": networks.MODELS, "evaluate.frontier": "autoregressive:8"}, "autoregressive:16"),
    ({"models": networks.MODELS, "sample.model": "autoregressive", "sample.suffix": " war"}, "left to right"),
    ({"autoregressive.heads": 3}, "autoregressive.heads"),
    ({"trajectories.chain": "sdtt", "student.target": "chain"}, "blind"),
    ({"student.progressive": 48, "student.target": "chain"}, "power of two"),
    ({"student.progressive": 2, "student.target": "chain", "rounds": 2}, "power of two from 4"),
    ({"student.progressive": 64}, "student.target"),
])  # fmt: skip
def test_what_cannot_be_made_is_one_line(changes, said):
    """A combination of models that cannot work is refused in one line."""
    with pytest.raises(ValueError) as caught:
        validation.validate(tiny.changed(**changes))
    assert said.replace("needs", "learns from") in str(caught.value) and "\n" not in str(caught.value), str(caught.value)


def test_the_sweep_of_all(tmp_path):
    """The sweep has four named runs, and makes tokenizer, data, judges and teacher once for all."""
    file = "configs/sweeps/baselines.py:quickstart"
    made = sweep_plan.Sweep(file, quickstart.get_config(), {}, tmp_path, main=STUB)
    assert [run.name for run in made.runs] == ["tsdfm", *NAMES] and all(run.named for run in made.runs)
    assert made.shared == ["tokenizer", "data", "judges", "teacher"]
    assert set(made.common.config.models) == set(networks.MODELS)
    networks.check_models(made.common.config, [])
    for name, run in zip(NAMES, made.runs[1:]):
        assert run.config.to_dict() == importlib.import_module(f"configs.baselines.{name}").get_config().to_dict()


def test_the_sweeps_table(tmp_path):
    """The sweep's table names its runs, and gives the autoregressive model its own column and steps."""
    made = sweep_plan.Sweep("configs/sweeps/baselines.py:quickstart", quickstart.get_config(), {}, tmp_path, main=STUB)
    row = {"status": "finished", "seconds": 1.0, "teacher_heldout_bits_per_byte": 2.5, "autoregressive_heldout_bits_per_byte": None}
    figures = {
        "tsdfm": "student_shaped_8",
        "fsdfm": "student_blind_8",
        "sdtt": "student_blind_8",
        "autoregressive": "autoregressive_64",
    }
    rows = [row | {"run": name} | {key: None for run in made.runs for key in run.overrides} for name in figures]
    for i, (one, at) in enumerate(zip(rows, figures.values())):
        one |= {f"{at}_ppl_judge_0": 100.0 + i, f"{at}_entropy_nats": 3.0 + i / 10}
    rows[3] |= {"teacher_heldout_bits_per_byte": None, "autoregressive_heldout_bits_per_byte": 2.25}
    console = rich.console.Console(width=200, file=io.StringIO())
    sweep_table.show(made.runs, rows, tmp_path, console)
    lines = [line for line in console.file.getvalue().splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]
    assert [line[:2] for line in cells] == [["tsdfm", "8"], ["fsdfm", "8"], ["sdtt", "8"], ["autoregressive", "64"]]
    assert cells[0][2:6] == ["100", "-", "-", "-"] and cells[3][2:6] == ["-", "-", "-", "103"] and cells[3][-2] == "2.250"


def test_what_is_not_made_may_be_of_any_size():
    """A batch that does not split over the devices is refused only where its network is among `models`."""
    odd = tiny.changed(**{"autoregressive.batch": 3})
    validation.validate(odd)
    with odd.unlocked():
        odd.models += ("autoregressive",)
    with pytest.raises(ValueError, match="autoregressive.batch=3 is not divisible by 8 devices"):
        validation.validate(odd)
