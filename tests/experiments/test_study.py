"""The study: its arms and budgets, picks by the compass alone, and its published models."""

import dataclasses
import importlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import sotu
from tests import studying, tiny
from tsdfm_jax import load
from tsdfm_jax.config import settings
from tsdfm_jax.distillation import compasses, generation
from tsdfm_jax.exchange import model_directory
from tsdfm_jax.experiments.study import arms as study_arms, compass as study_compass, figures as study_figures, runs as study_runs
from tsdfm_jax.flow import chain, path as paths, sampler
from tsdfm_jax.workspace import graph
from tsdfm_jax.workspace.tsdfm_artefacts import KEYS


def test_every_arm_can_run_and_is_another(tmp_path):
    """Every arm is a valid config, no two arms of a source are equal, and all factors are present."""
    made = studying.study(tmp_path, **{"trajectories.count": 512, "compass.blocks": 2})
    arms = [*study_arms.main_arms(made.config_of("mask")), *study_arms.ablations(made.config_of("mask"))]
    runs = [made.base("mask")] + [made.run(arm, "mask", 1) for arm in arms]
    made.check(runs)
    assert len({run.config.to_json() for run in runs}) == len(runs) == len({run.workdir for run in runs})
    assert {arm.factor for arm in arms} > {"main", "reference", "candidates", "tau", "compass", "target", "chain", "rounds"}
    assert {arm.name for arm in arms if arm.factor == "main"} < set(study_figures.COLOURS)
    assert all(run.config.flow.source == "mask" and run.config.trajectories.seed == 1 for run in runs[1:])


def test_a_source_has_a_shaping_of_its_own_unless_it_is_given():
    """Each source has its own shaping, which is on the runs' command lines; a value from the user overrides it."""
    made, entropy = studying.study(), {"compass.score": "entropy"}
    assert made.config_of("uniform").compass == made.config.compass and made.config_of("mask").compass.score == "nll"
    shaped = next(arm for arm in study_arms.main_arms(made.config_of("mask")) if arm.name == "shaped")
    run = made.run(shaped, "mask", 0)
    assert run.config.compass.score == "nll" and "--config.compass.score=nll" in run.arguments
    given = dataclasses.replace(studying.study(**entropy), given=entropy)
    assert given.config_of("mask").compass.score == "entropy" and given.config_of("mask").shaping.coins == "shared"
    assert "--config.compass.score=entropy" in given.run(shaped, "mask", 0).arguments


@pytest.mark.parametrize("name", ("fsdfm", "sdtt"))
def test_other_works_students_are_those_of_their_configs(name):
    """A baseline's arm has the training settings of its file in configs/baselines."""
    own = importlib.import_module(f"configs.baselines.{name}").get_config("sotu")
    made = study_runs.Study(file="configs/sotu.py", config=sotu.get_config(), given={}, root=pathlib.Path("runs"), seeds=(0,))
    arm = next(arm for arm in study_arms.main_arms(made.config_of("uniform")) if arm.name == name)
    c = made.run(arm, "uniform", 0).config
    assert all(c[section] == own[section] for section in ("flow", "shaping", "student", "teacher", "rounds"))
    assert c.trajectories.chain == own.trajectories.chain
    assert 0 <= own.trajectories.count - c.trajectories.count < c.trajectories.batch  # whole batches


def test_the_autoregressive_model_is_that_of_its_config():
    """The study's autoregressive run has the config of configs/baselines/autoregressive.py and the study's data and judges."""
    own = importlib.import_module("configs.baselines.autoregressive").get_config("sotu")
    made = study_runs.Study(file="configs/sotu.py", config=sotu.get_config(), given={}, root=pathlib.Path("runs"))
    run = made.autoregressive()
    own.evaluate.frontier = ""
    assert json.loads(run.config.to_json()) == json.loads(own.to_json()) and own.evaluate.seeds == made.seeds
    assert run.links == {stage: made.base("uniform").workdir for stage in study_runs.OF_TEXT}
    made.check([run])


def test_budgets_are_equal():
    """All arms have the same records and updates, rounds summed, except the arms that vary them."""
    made = studying.study(**{"trajectories.count": 512})
    spent = {}
    for arm in [*study_arms.main_arms(made.config), *study_arms.ablations(made.config)]:
        c = made.run(arm, "uniform", 0).config
        assert c.trajectories.count % c.trajectories.shard == 0 == c.trajectories.shard % c.trajectories.batch
        spent[arm.name] = (arm.factor, c.rounds * c.trajectories.count, c.rounds * c.student.optimiser.steps)
    others = {name: spent.pop(name) for name in ("fsdfm", "sdtt")}  # fsdfm: three jumps a chain; sdtt: three rounds of one jump
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
    """The study's walk is that of trajectories: blind with one candidate, shaped with 16 at every midpoint."""
    config = tiny.changed(**{"flow.source": source, "compass.steered_steps": 3, "compass.batch": 4})
    path = settings.path(config, 12)
    table_VV = jax.random.normal(jax.random.key(3), (path.vocab, path.vocab))
    teacher = lambda params, x_BL, t_B, h_B: table_VV[jnp.roll(x_BL, 1, axis=1)]
    build, weights = compasses.make(config, path), {"teacher": None, "compass": None}
    picked = lambda place, k: study_compass.steered_texts(config, path, teacher, build, jnp.uint32(5), weights, 0, place, k)
    source_B, jumps_B = paths.split(sampler.sample_keys(jnp.uint32(5), 0, 4))
    posterior = lambda x_BL, t_B, h_B: teacher(None, x_BL, t_B, h_B)
    energy, x_0_BL = build(None, posterior, jnp.full(4, 1 / 3)), paths.sample_source(source_B, path, config.data.length)
    for k, place in ((1, study_compass.EVERYWHERE), (16, study_compass.EVERYWHERE)):
        cfg = settings.shaped(config, candidates=k)
        wanted = chain.trajectory(jumps_B, path, config.flow.jump, posterior, x_0_BL, 3, energy, cfg).state_BSL[:, -1]
        np.testing.assert_array_equal(picked(place, k), wanted)
    assert (picked(1, 16) != picked(study_compass.EVERYWHERE, 1)).any() and (picked(1, 16) != picked(1, 2)).any()
    np.testing.assert_array_equal(picked(1, 1), picked(study_compass.EVERYWHERE, 1))


def test_a_paired_ratio():
    """The paired ratio of two perplexities has an interval from the texts' differences."""
    rng = np.random.default_rng(0)
    before_N = rng.normal(40.0, 9.0, 400)
    rows = [{"length": 8, "judges": {"j": {"nll": list(nll_N)}}} for nll_N in (before_N + rng.normal(-2.0, 1.0, 400), before_N)]
    ratio, low, high = study_compass.paired(*rows, "j")
    assert low < np.exp(-2.0 / 8) < high and np.log(high / low) == pytest.approx(2 * 1.96 * 1.0 / 20 / 8, rel=0.1)
    assert ratio == pytest.approx(np.exp((np.mean(rows[0]["judges"]["j"]["nll"]) - before_N.mean()) / 8))


def test_the_models_that_are_published_here():
    """Every published model loads with its hash and tokenizer, in bfloat16 and at most 5 MB; the README's first student samples."""
    root = pathlib.Path(__file__).parents[2] / "results/sotu"
    models = [file.parent for file in sorted(root.glob("**/config.json"))]
    assert {"student", "student_uniform"} <= {where.name for where in models}
    for where in models:
        told, model = model_directory.read_about(where), load(where)
        assert told.dtype == "bfloat16" and (where / "model.safetensors").stat().st_size <= 5_000_000
        assert model.hash == told.hash and f"rounded to bfloat16, content hash `{told.hash}`" in (where / "README.md").read_text()
        assert model.tokenizer.vocab_size == 4096
    (sample,) = load(root / "student").sample("The people of the United States", steps=1)
    assert sample.text.startswith("The people of the United States") and len(sample.text) > 60


def test_a_seed_of_trajectories_is_no_seed_of_anything_else():
    """Another `trajectories.seed` gives other trajectories in every round, and changes no earlier stage."""
    program = lambda r, **changes: generation.program(
        tiny.changed(**changes), 12, settings.mesh(tiny.get_config()), "whole", "shaped", None, r
    )
    seeds = [program(r, **{"trajectories.seed": s}).seed for s in (0, 1, 2) for r in (0, 1, 2)]
    assert len(set(seeds)) == 9 and seeds[0] == program(0).seed
    marks = [{n: graph.fingerprint(tiny.changed(**{"trajectories.seed": s}), n) for n in KEYS} for s in (0, 1)]
    assert [name for name in KEYS if marks[0][name] != marks[1][name]] == ["trajectories"]
