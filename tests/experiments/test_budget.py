"""The papers' configs: parameter counts, smoke forms through every stage, config arguments, and a run's cost."""

import importlib
import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import orbax.checkpoint as ocp
import pytest

from tests import CHEAP, tiny
from tsdfm_jax.config import command_line, settings, validation
from tsdfm_jax.experiments.planning import budget, budget_parts, chips, model_flops
from tsdfm_jax.models import causal, transformer
from tsdfm_jax.runtime import mesh as meshes

ROOT = pathlib.Path(__file__).parents[2]
COUNTS = {  # of the teacher and of the student
    ("fineweb_170m", "uniform"): (169_625_681, 170_168_529),
    ("fineweb_170m", "mask"): (169_627_218, 170_170_066),
    ("fineweb_1b", "uniform"): (1_330_673_233, 1_333_956_689),
    ("fineweb_1b", "mask"): (1_330_677_330, 1_333_960_786),
}


def get_config(name, form="", **changes):
    config = importlib.import_module(f"configs.{name}").get_config(form)
    config.update_from_flattened_dict(changes)
    return config


@pytest.mark.parametrize("name, source", COUNTS)
def test_parameters(name, source):
    """Teacher and student have exactly the papers' parameters under either source, and the docstrings name the numbers."""
    config = get_config(name, **{"flow.source": source})
    vocab = settings.path(config, config.tokenizer.vocab_size).vocab
    for told, expected in zip((False, True), COUNTS[name, source]):
        cfg = settings.network(config, vocab, step_conditioned=told)
        shapes = jax.eval_shape(lambda: transformer.init(jax.random.key(0), cfg, config.data.length))
        assert transformer.parameters(shapes) == expected
        assert f"{expected:,}" in " ".join(sys.modules[f"configs.{name}"].__doc__.split())


@pytest.mark.parametrize("name", ["fineweb_170m", "fineweb_1b"])
def test_a_smoke_form_keeps_the_shape(name):
    """A smoke form differs from its config in depth, lengths, batches and amounts only."""
    real, smoke = (dict(validation.leaves(get_config(name, form))) for form in ("", "smoke"))
    kept = (
        "width heads cond_width mlp_ratio dtype remat accumulate chunk learning_rate warmup vocab_size kind score target jump fsdp"
    )
    for key, value in real.items():
        if key.split(".")[-1] in kept.split() and not key.startswith("judges."):
            assert smoke[key] == value, key
    assert smoke["teacher.optimiser.accumulate"] > 1 and smoke["judges.optimiser.accumulate"] > 1
    assert smoke["model.dtype"] == "bfloat16" and smoke["tokenizer.vocab_size"] == 50257


SMALLER = {"tokenizer.vocab_size": 1024, "data.limit_bytes": 400_000}
ONCE = {f"{section}.optimiser.steps": 1 for section in ("judges", "teacher", "student")}
UNCOMPARED = {"models": ("teacher", "student_shaped")}


@pytest.mark.parametrize("name, source, more", [("fineweb_170m", "uniform", {}), ("fineweb_1b", "mask", UNCOMPARED)])
def test_every_stage_of_a_smoke_form(name, source, more, tmp_path):
    """FILE.py:smoke goes through every stage to a report and a sample, on one device, at full width.

    It uses 1,024 tokens: with 50,257, embedding, head and their moments would take most of the time.
    """
    changes = {"flow.source": source, **SMALLER, **ONCE, **more}
    flags = [
        f"--config=configs/{name}.py:smoke",
        f"--workdir={tmp_path / 'run'}",
        *(f"--config.{key}={value}" for key, value in changes.items()),
    ]
    env = {**os.environ, "XLA_FLAGS": CHEAP}
    done = subprocess.run([sys.executable, "-m", "tsdfm_jax.main", *flags], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((tmp_path / "run/report/report.json").read_text())
    config = get_config(name, "smoke", **changes)
    assert report["environment"]["devices"] == 1 and (tmp_path / "run/samples/sample.jsonl").exists()
    counts = {stage: one[0] for stage, one in budget.trained(config, 1024).items()}
    assert report["stages"]["teacher"]["parameters"] == counts["teacher"]
    assert report["stages"]["student/shaped/round_0"]["parameters"] == counts["student shaped, round 0"]
    assert {row["model"] for row in report["rows"]} == {"data", "unigram", *config.models}
    assert all(row["source"] == source and 1 < row["ppl_token"] < float("inf") for row in report["rows"])


def left(directory):
    """Bytes of all files below a directory."""
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def arrays_left(directory):
    """Bytes of the arrays in all checkpoints below a directory, before Orbax compresses them."""
    found = [ocp.PyTreeCheckpointHandler().metadata(file.parent).tree for file in directory.rglob("_METADATA")]
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(found))


def test_disk_is_what_a_run_leaves(finished):
    """The disk budget predicts a finished run's corpus, records, arrays (1 to 5 %) and samples (30 %)."""
    config = tiny.get_config()
    tokens = sum(
        json.loads((finished / "data/manifest.json").read_text())["splits"][name]["tokens"] for name in ("train", "heldout")
    )
    said = budget.disk(config, 384, tokens)
    arrays = {"teacher": finished / "teacher", "students": finished / "student", "judges": finished / "judges"}
    found = {
        "corpus": sum(file.stat().st_size for file in finished.glob("data/*.array_record")),
        "shaped trajectories": sum(file.stat().st_size for file in finished.glob("trajectories/*/shaped/*/*.array_record")),
        "blind trajectories": sum(file.stat().st_size for file in finished.glob("trajectories/*/blind/*/*.array_record")),
        "samples": left(finished / "samples"),
    }
    within = {"corpus": 0.05, "shaped trajectories": 0.01, "blind trajectories": 0.01, "samples": 0.3}
    assert set(said) == set(found) | set(arrays)
    for what, share in within.items():
        assert said[what] == pytest.approx(found[what], rel=share), what
    for what, directory in arrays.items():  # the few bytes are counts of updates
        assert said[what] == pytest.approx(arrays_left(directory), rel=1e-3), what
    # Orbax's compression varies from run to run.
    for what in ("teacher", "students"):  # not the tiny judges: half of their bytes are Orbax's own files
        assert 0.75 * said[what] < left(arrays[what]) < 1.05 * said[what], what


SLICES = ("v5e-16", "v5p-32")


def block():
    """The tables of docs/paper_scale.md: `python -c "from tests.experiments import test_budget; print(test_budget.block())"`."""
    parts = []
    for name, title in (("fineweb_170m", "170M"), ("fineweb_1b", "1.3B")):
        config = get_config(name)
        found = budget.budget(config, config.tokenizer.vocab_size, SLICES, 0.3)
        parts.append(f"{title} (`configs/{name}.py`):\n\n{budget.table(found)}")
    return "\n\n".join(["<!-- budget: begin -->", *parts, "<!-- budget: end -->"])


def test_the_page_shows_what_the_command_says():
    """The budget of docs/paper_scale.md equals, to the character, that of today's configs."""
    assert block() in (ROOT / "docs/paper_scale.md").read_text(), "put into it what block() gives"


def test_hours_come_from_the_programs_that_were_compiled():
    """Only the compiled program itself gives a bound; other shapes, chips or chip counts give an estimate without memory."""
    parts = {part.name: part for part in budget_parts.teacher(get_config("fineweb_170m"), 50257)}
    cost = lambda where, **changes: budget.cost(get_config("fineweb_170m", **changes), parts["teacher"], where, 0.25)
    entries = json.loads((ROOT / "results/aot.json").read_text())
    bound, entry = cost("v5e-16"), entries["fineweb_170m v5e:4x4 teacher"]
    assert bound["what"] == budget.BOUND and bound["gib"] == entry["memory"]["peak"] / 2**30
    assert bound["hours"] == pytest.approx(200_000 * entry["seconds_at_least"]["exchange_hidden"] / 3600)
    assert cost("v5e-16", **{"flow.source": "mask", "teacher.optimiser.steps": 5}) == bound  # the same program except for one token
    by_hand = 200_000 * entry["flops"]["model"] * 16 / 0.25 / 3600
    assert cost("v5e-32") == {"hours": pytest.approx(by_hand / 32 / 197e12), "what": budget.ESTIMATE}
    assert cost("h100-8") == {"hours": pytest.approx(by_hand / 8 / 989e12), "what": budget.ESTIMATE}
    for changes in ({"model.remat": "full"}, {"teacher.optimiser.accumulate": 8}, {"mesh.fsdp": 2}):
        assert cost("v5e-16", **changes)["what"] == budget.ESTIMATE, changes


def test_stages_count_what_they_compute():
    """Runs and FLOPs of each part follow from the config: candidates, rounds, batches and steps."""
    config = tiny.changed(rounds=2)
    parts = {part.name: part for of in budget_parts.STAGES.values() for part in of(config, 384)}
    forward = {name: model_flops.window(config, 384, name) for name in ("teacher", "student")}
    assert parts["teacher"].runs == 16 and parts["teacher"].flops == pytest.approx(3 * 16 * forward["teacher"])
    assert parts["teacher's held-out ELBO"][1:3] == (1, 16 * 32 * forward["teacher"])
    shaped, blind = parts["shaped trajectories"], parts["blind trajectories"]
    assert shaped.runs == blind.runs == 2 * 64 // 16
    assert shaped.flops == pytest.approx(16 * (4 + 4 * 3) * forward["teacher"])  # S = 4, K = 3
    assert blind.flops == pytest.approx(16 * 4 * forward["teacher"])
    assert parts["student, blind"].runs == 2 * 16
    assert parts["compass's evaluation"].flops == pytest.approx(16 * 3 * (1 + 2) * forward["teacher"])
    steered = 16 * (2 + 3 * (2 + 2 * 3)) * forward["teacher"]  # blind, and three selections; 2 steps
    assert parts["compass's steered texts"][1:3] == (1, pytest.approx(steered))
    assert parts["sampling, teacher"].runs == 2 + 4 + 3 * 2 - 2  # the frontier has three temperatures, one of them the table's
    assert parts["sampling, student"].runs == 2 * (1 + 2) + 3 * 2 - 2
    light = tiny.changed(**{"compass.kind": "nce"})
    small = model_flops.window(light, 384, "compass")
    assert budget_parts.compass(light, 384)[0][1:3] == (16, 16 * (3 * forward["teacher"] + 6 * small))


def test_a_judge_is_counted_whole():
    """A judge's FLOPs are those of its compiled forward pass, head included."""
    config = tiny.get_config()
    cfg = settings.judge(config, 1, 384)
    params = jax.eval_shape(lambda: meshes.unbox(causal.init(jax.random.key(0), cfg)))
    lowered = jax.jit(lambda params, x_BL: causal.logits(cfg, params, x_BL)).lower(params, jax.ShapeDtypeStruct((1, 16), "int32"))
    done = chips.work(lowered.as_text("hlo"), chips.CHIPS["v5e"]).flops
    assert budget_parts.judge_flops(config, 384, 1) == pytest.approx(done, rel=1e-3)


@pytest.mark.parametrize("file, name", [
    ("configs/fineweb_170m.py", "fineweb_170m"),
    ("configs/fineweb_170m.py:smoke", "fineweb_170m_smoke"),
    ("/a.b/c.d.py:x/../y z", "c.d_x-..-y-z"),
])  # fmt: skip
def test_a_run_is_called_after_its_config_and_argument(file, name):
    """The default work directory has the name of config and argument, and cannot be outside runs/."""
    assert command_line.run_name(file) == name


@pytest.mark.parametrize("command, given, said", [
    ("tsdfm_jax.main", "configs/fineweb_1b.py:smok", "tsdfm_jax: 'smok' is no form of this config: write FILE.py alone, or FILE.py: and one of smoke"),
    ("launch.sweep", "configs/sweeps/shaping.py:small", "sweep: configs/sweeps/shaping.py takes no argument: leave out ':small'"),
    ("launch.aot_compile", "configs/nowhere.py:smoke", "aot_compile: no config file 'configs/nowhere.py:smoke': try"),
    ("launch.budget", "configs/sotu.py --slice=v9-16", "budget: --slice=v9-16 is not a chip"),
])  # fmt: skip
def test_a_wrong_argument_is_one_line(command, given, said):
    """Every command refuses a wrong config, config argument or slice in one line with a remedy."""
    done = subprocess.run([sys.executable, "-m", command, *f"--config={given}".split()], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(said) and done.stderr.count("\n") == 1, done.stderr
