"""The study: its arms and their budgets, what is picked by the compass alone, and what is read from finished runs."""

import dataclasses
import importlib
import json
import pathlib
import shutil
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import sotu
from launch import study_arms, study_compass, study_figures, study_jumps, study_read, study_runs, study_table, study_targets
from tests import tiny
from tsdfm_jax import compasses, generation, load, settings, workspace
from tsdfm_jax.data import records
from tsdfm_jax.flow import chain, jump, path as paths
from tsdfm_jax.stages import compass as compass_stage

FILE = "tests/tiny.py"


def study(root=pathlib.Path("runs"), **changes):
    return study_runs.Study(file=FILE, config=tiny.changed(**changes), given={}, root=root, seeds=(0,))


def test_every_arm_can_run_and_is_another(tmp_path):
    """Each arm is a config that works, no two of a source are the same, and each factor has a shaped or blind one to stand beside."""
    made = study(tmp_path, **{"trajectories.count": 512, "compass.blocks": 2})
    arms = [*study_arms.main_arms(made.of("mask")), *study_arms.ablations(made.of("mask"))]
    runs = [made.base("mask")] + [made.run(arm, "mask", 1) for arm in arms]
    made.check(runs)
    assert len({run.config.to_json() for run in runs}) == len(runs) == len({run.workdir for run in runs})
    assert {arm.factor for arm in arms} > {"main", "reference", "candidates", "tau", "compass", "target", "chain", "rounds"}
    assert {arm.name for arm in arms if arm.factor == "main"} < set(study_figures.COLOURS)
    assert all(run.config.flow.source == "mask" and run.config.trajectories.seed == 1 for run in runs[1:])


def test_a_source_has_a_shaping_of_its_own_unless_it_is_given():
    """Both sources' runs start from `of`, are told so on the command line, and what the user gave stands."""
    made, entropy = study(), {"compass.score": "entropy"}
    assert made.of("uniform").compass == made.config.compass and made.of("mask").compass.score == "nll"
    shaped = next(arm for arm in study_arms.main_arms(made.of("mask")) if arm.name == "shaped")
    run = made.run(shaped, "mask", 0)
    assert run.config.compass.score == "nll" and "--config.compass.score=nll" in run.arguments
    given = dataclasses.replace(study(**entropy), given=entropy)
    assert given.of("mask").compass.score == "entropy" and given.of("mask").shaping.coins == "shared"
    assert "--config.compass.score=entropy" in given.run(shaped, "mask", 0).arguments


@pytest.mark.parametrize("name", ("fsdfm", "sdtt"))
def test_other_works_students_are_those_of_their_configs(name):
    """An arm of configs/baselines learns as the run of that file does, of the study's teacher."""
    own = importlib.import_module(f"configs.baselines.{name}").get_config("sotu")
    made = study_runs.Study(file="configs/sotu.py", config=sotu.get_config(), given={}, root=pathlib.Path("runs"), seeds=(0,))
    arm = next(arm for arm in study_arms.main_arms(made.of("uniform")) if arm.name == name)
    c = made.run(arm, "uniform", 0).config
    assert all(c[section] == own[section] for section in ("flow", "shaping", "student", "teacher", "rounds"))
    assert c.trajectories.chain == own.trajectories.chain
    assert 0 <= own.trajectories.count - c.trajectories.count < c.trajectories.batch  # whole batches


def test_budgets_are_equal():
    """Every arm but those whose subject it is has the same records and updates; all rounds of one together have no more."""
    made = study(**{"trajectories.count": 512})
    spent = {}
    for arm in [*study_arms.main_arms(made.config), *study_arms.ablations(made.config)]:
        c = made.run(arm, "uniform", 0).config
        assert c.trajectories.count % c.trajectories.shard == 0 == c.trajectories.shard % c.trajectories.batch
        spent[arm.name] = (arm.factor, c.rounds * c.trajectories.count, c.rounds * c.student.optimiser.steps)
    others = {name: spent.pop(name) for name in ("fsdfm", "sdtt")}  # a chain has three jumps, and sdtt's three rounds one each
    assert all(512 * 4 - 3 * 16 < 3 * n // (3 if name == "sdtt" else 1) <= 512 * 4 for name, (_, n, _) in others.items())
    assert others["fsdfm"][2] == 16 and others["sdtt"][2] == 15
    assert {told[1:] for told in spent.values() if told[0] == "main"} == {(512, 16)}
    rest = {name: told for name, told in spent.items() if told[0] not in ("main", "records", "updates", "rounds")}
    assert {told[1:] for told in rest.values()} == {(128, 8)}
    assert spent["records=0.5"][1:] == (64, 8) and spent["records=2.0"][1:] == (256, 8)
    assert spent["updates=0.5"][1:] == (128, 4) and spent["updates=2.0"][1:] == (128, 16)
    assert spent["rounds=2"][1:] == (128, 8) and all(told[1] <= 128 and told[2] <= 8 for n, told in spent.items() if "rounds" in n)


@pytest.mark.parametrize("source", paths.SOURCES)
def test_a_walk_that_picks_nowhere_is_blind_and_one_that_picks_everywhere_is_shaped(source):
    """What the compass is judged by is the very walk that trajectories are made by; picking late changes nothing before."""
    config = tiny.changed(**{"flow.source": source, "compass.steered_steps": 3, "compass.batch": 4})
    path = settings.path(config, 12)
    table_VV = jax.random.normal(jax.random.key(3), (path.vocab, path.vocab))
    teacher = lambda params, x_BL, t_B, h_B: table_VV[jnp.roll(x_BL, 1, axis=1)]
    build, weights = compasses.make(config, path), {"teacher": None, "compass": None}
    picked = lambda place, k: study_compass.picked(config, path, teacher, build, jnp.uint32(5), weights, 0, place, k)
    source_B, jumps_B = paths.split(workspace.sample_keys(jnp.uint32(5), 0, 4))
    posterior = lambda x_BL, t_B, h_B: teacher(None, x_BL, t_B, h_B)
    energy, x_0_BL = build(None, posterior, jnp.full(4, 1 / 3)), paths.sample_source(source_B, path, config.data.length)
    for k, place in ((1, study_compass.EVERYWHERE), (16, study_compass.EVERYWHERE)):
        cfg = settings.shaped(config, candidates=k)
        wanted = chain.trajectory(jumps_B, path, config.flow.jump, posterior, x_0_BL, 3, energy, cfg).state_BSL[:, -1]
        np.testing.assert_array_equal(picked(place, k), wanted)
    assert (picked(1, 16) != picked(study_compass.EVERYWHERE, 1)).any() and (picked(1, 16) != picked(1, 2)).any()
    np.testing.assert_array_equal(picked(1, 1), picked(study_compass.EVERYWHERE, 1))


def test_a_paired_ratio():
    """The ratio of two perplexities, with an interval of the texts' own differences."""
    rng = np.random.default_rng(0)
    before_N = rng.normal(40.0, 9.0, 400)
    rows = [{"length": 8, "judges": {"j": {"nll": list(nll_N)}}} for nll_N in (before_N + rng.normal(-2.0, 1.0, 400), before_N)]
    ratio, low, high = study_compass.paired(*rows, "j")
    assert low < np.exp(-2.0 / 8) < high and np.log(high / low) == pytest.approx(2 * 1.96 * 1.0 / 20 / 8, rel=0.1)
    assert ratio == pytest.approx(np.exp((np.mean(rows[0]["judges"]["j"]["nll"]) - before_N.mean()) / 8))


@pytest.fixture
def read(finished, tmp_path, monkeypatch):
    """A study of which base, two main arms and the reference are finished: copies of one run, with the configs they should have."""
    monkeypatch.setattr(study_read, "STEPS", (2,))
    monkeypatch.setattr(study_read, "FRONTIER", 2)
    monkeypatch.setattr(study_runs, "TEACHER_STEPS", (2, 4))
    made = study(tmp_path)
    arms = {arm.name: arm for arm in [*study_arms.main_arms(made.config), *study_arms.ablations(made.config)]}
    runs = [made.base("uniform")] + [made.run(arms[name], "uniform", 0) for name in ("blind", "shaped", "reference")]
    for run in runs:
        shutil.copytree(finished, run.workdir, symlinks=True)
        (run.workdir / "config.json").write_text(run.config.to_json())
    rows = runs[2].workdir / "evaluate/rows.json"  # the shaped student, a fifth better than the blind one, which it is a copy of
    better = [row | {"ppl_token": row["ppl_token"] * 0.8} for row in json.loads(rows.read_text())]
    rows.write_text(json.dumps(better))
    return made


def test_what_is_read(read, tmp_path, capsys):
    """Numbers come from the runs' own rows; bars are held as they say; tables and figures are of those numbers."""
    page = tmp_path / "out/STUDY.md"
    page.parent.mkdir()
    page.write_text("before\n<!-- table main-uniform -->\nold\n<!-- end -->\n<!-- table main-mask -->\n<!-- end -->\nafter\n")
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
    assert "spread" in held["verdict"]  # one seed shows none
    text = page.read_text()
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
    """Records' ends and their noise are those on disk; sampling by the config's own jump gives the table's texts, by another others."""
    arms = {arm.name: arm for arm in [*study_arms.main_arms(read.config), *study_arms.ablations(read.config)]}
    run = read.run(arms["blind"], "uniform", 0)
    study_targets.targets(read, [run])
    told = json.loads((run.workdir / study_targets.TARGETS).read_text())
    store = records.open_store(run.workdir / "trajectories/round_0/shaped/whole")
    states = np.stack([store[i]["states"] for i in range(len(store))])
    left = [(states[:, k] == states[:, 0]).mean() for k in range(states.shape[1])]
    assert told["noise_left"] == pytest.approx(left, abs=1e-4) and told["noise_left"][0] == 1.0 > told["noise_left"][-1]
    assert told["samples"] == len(store) and all(score > 1.0 for score in told["ppl_token"].values())

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
    """Only what a student depends on makes a run another."""
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
    """A cell each, of the config's own compass and, trained in its own arm, of another; what is there is not made again."""
    monkeypatch.setattr(study_compass, "CANDIDATES", (2,))
    monkeypatch.setattr(study_compass, "KEPT", 2)
    arms = {arm.name: arm for arm in study_arms.ablations(read.config)}
    chosen = {name: arms[name] for name in ("reference", "distilled", "prior=1")}
    monkeypatch.setattr(study_compass, "scorers", lambda config: chosen)
    study_compass.measure(read, "uniform")
    file = tmp_path / "uniform" / study_compass.FILE
    found = json.loads(file.read_text())
    own = [study_compass.BLIND, "reference:-1:2", "reference:0:2", "reference:1:2"]
    assert list(found) == own + ["prior=1:-1:2", "prior=1:0:2", "prior=1:1:2"]  # the other has not been trained
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
    """Arms of an earlier table stay where config, teacher and judges are the same, and go where one of them is another."""
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
    """A bar is met by all judges or not at all."""
    one = {"of_teacher": {"a": 0.5, "b": ratio}, "entropy": entropy, "below_every_blind_seed": {"a": True, "b": True}}
    assert study_read.verdict(one | {"matched": {"a": matched, "b": matched}}, seeds) == said


def test_the_models_that_are_published_here():
    """Each opens, whole and below 10 MB, with its tokenizer; the student that the README begins with writes."""
    root = pathlib.Path(__file__).parent.parent / "results/sotu"
    models = [file.parent for file in sorted(root.glob("**/config.json"))]
    assert {"student", "teacher"} <= {where.name for where in models}
    for where in models:
        assert (where / "model.safetensors").stat().st_size <= 10_000_000
        assert load(where).tokenizer.vocab_size == 4096
    (sample,) = load(root / "student").sample("The people of the United States", steps=1)
    assert sample.text.startswith("The people of the United States") and len(sample.text) > 60


def test_a_seed_of_trajectories_is_no_seed_of_anything_else():
    """Another `trajectories.seed` gives other trajectories, in every round, and leaves data, judges and teacher as they are."""
    program = lambda r, **changes: generation.program(
        tiny.changed(**changes), 12, settings.mesh(tiny.get_config()), "whole", "shaped", None, r
    )
    seeds = [program(r, **{"trajectories.seed": s}).seed for s in (0, 1, 2) for r in (0, 1, 2)]
    assert len(set(seeds)) == 9 and seeds[0] == program(0).seed
    marks = [{n: workspace.fingerprint(tiny.changed(**{"trajectories.seed": s}), n) for n in workspace.KEYS} for s in (0, 1)]
    assert [name for name in workspace.KEYS if marks[0][name] != marks[1][name]] == ["trajectories"]
