"""Compilation for TPU slices without one: FLOPs, loops, collectives, memory, and remedies where it does not fit."""

import functools
import importlib.util
import json
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from configs import fineweb_1b, fineweb_170m
from tests import tiny
from tests.experiments.test_hlo import TPU
from tsdfm_jax.config import settings
from tsdfm_jax.experiments.planning import aot_compile, chips, model_flops, tsdfm_programs
from tsdfm_jax.models import transformer
from tsdfm_jax.runtime import mesh as meshes

ROOT = pathlib.Path(__file__).parents[2]
V5E = chips.CHIPS["v5e"]


def changed(**changes):
    """The tiny config with some keys changed, `__` for the dot."""
    return aot_compile.with_settings(tiny.get_config(), {key.replace("__", "."): value for key, value in changes.items()})


@pytest.mark.parametrize(
    "module, conditioned, count",
    [
        (fineweb_170m, False, 169_625_681),
        (fineweb_170m, True, 170_168_529),
        (fineweb_1b, False, 1_330_673_233),
        (fineweb_1b, True, 1_333_956_689),
    ],
)
def test_parameters(module, conditioned, count):
    """The networks have the parameter counts that their configs' docstrings state."""
    config = module.get_config()
    cfg = settings.network(config, config.tokenizer.vocab_size, step_conditioned=conditioned)
    init = lambda: transformer.init(jax.random.key(0), cfg, config.data.length)
    assert transformer.parameters(jax.eval_shape(init)) == count
    assert f"{count:,}" in module.__doc__


@pytest.mark.parametrize("conditioned", [False, True])
def test_forward_flops_are_xlas(conditioned):
    """The FLOPs by hand are within 3 % of XLA's count of an unrolled forward pass, which includes elementwise work."""
    config = changed(model__width=128, model__unroll=2, data__length=64)
    cfg = settings.network(config, 2048, step_conditioned=conditioned)
    params = meshes.unbox(jax.eval_shape(lambda: transformer.init(jax.random.key(0), cfg, 64)))
    t_B = jax.ShapeDtypeStruct((4,), jnp.float32)
    compiled = jax.jit(functools.partial(transformer.apply, cfg)).lower(params, jnp.zeros((4, 64), int), t_B, t_B).compile()
    by_hand, found = 4 * model_flops.forward(params, cfg.width, 64), chips.work(compiled.as_text(), V5E)
    assert by_hand == pytest.approx(compiled.cost_analysis()["flops"], rel=0.03)
    assert found.flops == found.flops_once == pytest.approx(by_hand, rel=1e-3)


def test_model_flops_are_the_programs():
    """Every program's FLOPs are within 2 % of the count by hand, loops included."""
    config = changed(student__target="mixed", compass__kind="nce", teacher__optimiser__accumulate=2)
    programs = tsdfm_programs.programs(config, 384, aot_compile.mesh_of(config, jax.devices()))
    assert list(programs) == ["teacher", "trajectories/chain", "trajectories/whole", "student"]
    for name, lower in programs.items():
        found = chips.work(lower().as_text("hlo"), V5E)
        assert found.exact and found.flops > 1.1 * found.flops_once
        assert found.flops == pytest.approx(model_flops.program(config, 384, name), rel=0.02), name


@pytest.mark.parametrize(
    "changes, name, expected",
    [
        ({}, "teacher", {"teacher": 3}),
        ({}, "trajectories", {"teacher": 4 + 4 * 3, "compass": 0}),  # S = 4, K = 3
        ({"shaping__candidates": 1}, "trajectories", {"teacher": 4, "compass": 0}),
        ({"shaping__policy": "sequence_to_token"}, "trajectories", {"teacher": 4 + 4 * 4, "compass": 0}),
        ({"shaping__tau": 0.5}, "trajectories", {"teacher": 4 + 3 * 3, "compass": 0}),  # at 1/2, 3/4 and 1
        ({"shaping__tau": 0.51}, "trajectories", {"teacher": 4 + 2 * 3, "compass": 0}),
        ({"shaping__tau": 0.5, "student__target": "chain"}, "trajectories", {"teacher": 3 + 3 * 3, "compass": 0}),
        ({"shaping__selection": "random"}, "trajectories", {"teacher": 4, "compass": 0}),
        ({"flow__source": "mask"}, "trajectories", {"teacher": 4 + 4 * 3 * 2, "compass": 0}),
        ({"compass__kind": "distilled"}, "trajectories", {"teacher": 4, "compass": 4 * 3}),
        ({"student__target": "chain"}, "student", {"student": 3 + 4, "teacher": 0}),
        ({"student__target": "chain", "student__evaluator": "teacher"}, "student", {"student": 3, "teacher": 4}),
        ({"student__target": "mixed", "trajectories__chain": "heun"}, "student", {"student": 9 + 2, "teacher": 0}),
    ],
)
def test_passes(changes, name, expected):
    """Each program has the method's number of forward passes of each network."""
    assert model_flops.passes(changed(**changes))[name] == expected


@pytest.mark.parametrize(
    "said, sizes",
    [
        ("memory required for HLO temporaries (21.58G) exceeds available HBM (15.75G).", (21.58, 15.75)),
        ("Ran out of memory in memory space hbm. Used 1.50T of 95.74G hbm.", (1536.0, 95.74)),
        ("memory required for HLO temporaries (512.00M) exceeds available HBM (15.75G).", (0.5, 15.75)),
        ("INTERNAL: something else", None),
    ],
)
def test_overflow(said, sizes):
    """Both of XLA's out-of-memory messages are parsed to GiB."""
    assert chips.overflow(f"RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total {said}") == sizes


class Memory:
    """A stub of XLA's memory analysis."""

    peak_memory_in_bytes = 10 * 2**30

    def __getattr__(self, name):
        return 0


class Compiled:
    """A stub of a compiled program."""

    memory_analysis, as_text, cost_analysis = Memory, lambda self: TPU, dict


def refused():
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: … temporaries (21.58G) exceeds available HBM (15.75G).")


def test_fits_by_the_peak_and_by_xlas_own_word():
    """A peak of 10 GiB fits 15.75 and not 9; a program that XLA refuses does not fit; other errors are raised."""
    lower = lambda compile_: lambda: type("Lowered", (), {"compile": staticmethod(compile_)})
    assert chips.examine(lower(Compiled), V5E, 1.0).fits
    small = chips.examine(lower(Compiled), chips.Chip(name="small", hbm=9.0, flops=1.0, bandwidth=1.0, links=1.0), 1.0)
    assert not small.fits and (small.used, small.available) == (10.0, 9.0)
    assert chips.examine(lower(refused), V5E, 1.0) == (21.58, 15.75, None)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        chips.examine(lower(lambda: (_ for _ in ()).throw(jax.errors.JaxRuntimeError("INTERNAL: no"))), V5E, 1.0)


def test_remedies():
    """Remedies come cheapest first, only valid and new settings, all together last."""
    config = changed(teacher__batch=32, teacher__optimiser__accumulate=1)
    key, fsdp = "teacher.optimiser.accumulate", {"mesh.data": 1, "mesh.fsdp": -1}
    full = {"model.remat": "full"}
    assert tsdfm_programs.remedies(config, "teacher", 8) == [{key: 2}, {key: 4}, full, fsdp, full | fsdp | {key: 4}]
    lean = changed(teacher__batch=8, model__remat="full", mesh__data=1, mesh__fsdp=8)
    assert tsdfm_programs.remedies(lean, "teacher", 8) == []
    wide = changed(shaping__candidates=4, trajectories__batch=16)
    chunks = [{"shaping.chunk": 2}, {"shaping.chunk": 1}, {"shaping.chunk": 1, "trajectories.batch": 8}]
    assert tsdfm_programs.remedies(wide, "trajectories", 8) == [*chunks, fsdp, fsdp | chunks[-1]]
    for way in [*tsdfm_programs.remedies(config, "teacher", 8), *tsdfm_programs.remedies(wide, "trajectories", 8)]:
        aot_compile.mesh_of(aot_compile.with_settings(config if "teacher" in str(way) else wide, way), jax.devices())


def test_the_search_stops_at_the_first_that_fits():
    """The search tries remedies in order and stops at the first that fits; else it returns the nearest."""
    need, tried = {1: 30.0, 2: 22.0, 4: 15.0, 8: 9.0}, []

    def attempt(way):
        tried.append(way["n"])
        return chips.Outcome(need[way["n"]], 15.75, {})

    ways = [{"n": n} for n in need]
    assert aot_compile.first_that_fits(ways, attempt) == ({"n": 4}, (15.0, 15.75, {})) and tried == [1, 2, 4]
    assert aot_compile.first_that_fits(ways[:2], attempt) == ({"n": 2}, (22.0, 15.75, {}))
    assert aot_compile.first_that_fits([], attempt) is None


def test_run_says_what_does_not_fit_and_what_makes_it_fit(monkeypatch, tmp_path, capsys):
    """With made-up sizes, terminal and file show that a program does not fit, and the settings with which it fits."""
    monkeypatch.setattr(chips, "topology", lambda name: (jax.devices(), V5E))
    size = lambda config: 32.0 / config.teacher.optimiser.accumulate
    about = {"memory": dict.fromkeys(("argument", "output", "alias", "temp", "generated_code", "peak"), 2**30)}
    about |= {"xla": {"flops": 1.0, "optimal_seconds": -1.0}} | chips.record(TPU, V5E, 1.0)
    monkeypatch.setattr(aot_compile, "examine", lambda config, *_: chips.Outcome(size(config), 15.75, about))
    monkeypatch.setattr(aot_compile.importlib.metadata, "version", lambda name: "1")
    said = []
    config = changed(teacher__batch=32)
    for search in (False, True):
        aot_compile.run(config, "v5e:2x4", 384, ("teacher",), search, lambda *what: said.append(what))
    assert [(outcome.used, way) for _, outcome, way in said] == [(32.0, {}), (32.0, {}), (8.0, {"teacher.optimiser.accumulate": 4})]
    for _, outcome, way in said[1:]:
        aot_compile.show("tiny", outcome, way)
        aot_compile.write_entry(tmp_path / "aot.json", "tiny", aot_compile.entry(outcome, way))
    printed, kept = capsys.readouterr().out, json.loads((tmp_path / "aot.json").read_text())["tiny"]
    assert "tiny: does not fit, it needs 32.00 GiB of 15.75\n" in printed
    assert kept["fits"] is False and kept["fits_with"] == "--config.teacher.optimiser.accumulate=4"
    assert kept["fits_with"] in printed


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--config=configs/fineweb_170m.py", "--config.model.widht=8"], 'Did you mean "width"'),
        (["--config=configs/fineweb.py"], "configs/fineweb_170m.py"),
        ([], "--config is missing"),
        (["--config=configs/sotu.py", "--program=judge"], "--program=judge is not one of teacher, trajectories, student"),
        (["--config=configs/sotu.py", "topology"], "'topology' is not a flag"),
        (
            ["--config=configs/sotu.py", "--topology=v9:2x2"],
            "--topology=v9:2x2 is of no chip known here: take one of v5e, v5p, v6e",
        ),
    ],
)
def test_errors_are_one_line(arguments, said):
    """Bad input gives one line that names the value and a remedy, and exit code 2."""
    done = subprocess.run([sys.executable, "-m", "launch.aot_compile", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("aot_compile: ") and said in done.stderr


def test_libtpu_is_asked_for(monkeypatch):
    """Without libtpu the error says how to install it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=re.escape("pip install -e '.[tpu]'")):
        chips.topology("v5e:4x4")


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"teacher__batch": 12}, "teacher.batch=12 is not divisible by 8 devices"),
        ({"student__optimiser__accumulate": 4}, "student.optimiser.accumulate=4 on 8 devices: take a multiple of 32"),
        ({"mesh__fsdp": 3}, "does not fit 8 devices"),
        ({"model__remat": "all"}, "model.remat 'all' is not one of none, full, dots"),
    ],
)
def test_a_config_is_held_to_the_slice(changes, said):
    """A config that the stages would refuse on the slice is refused here, on any machine."""
    with pytest.raises(ValueError, match=re.escape(said)):
        aot_compile.mesh_of(changed(**changes), jax.devices())


def test_a_tpu_program():
    """The teacher's update compiled for a slice has the FLOPs counted by hand, and its all-reduces are those of gradients."""
    pytest.importorskip("libtpu")
    with pytest.raises(ValueError, match="v5e:3x5 is not known to libtpu"):
        chips.topology("v5e:3x5")
    said, config = [], changed(model__width=128, teacher__optimiser__accumulate=2)
    aot_compile.run(config, "v5e:2x2", 384, ("teacher",), False, lambda *what: said.append(what))
    ((name, outcome, way),) = said
    found = outcome.record
    assert (name, way, outcome.fits, found["devices"], found["loops_known"]) == ("teacher", {}, True, 4, True)
    assert found["flops"]["program"] == pytest.approx(found["flops"]["model"], rel=0.01)
    assert 0.7 < found["flops"]["program, loops once"] / found["xla"]["flops"] <= 1  # XLA's count includes elementwise work
    cfg = settings.network(config, 384)
    init = lambda: transformer.init(jax.random.key(0), cfg, config.data.length)
    gradients = 4 * transformer.parameters(jax.eval_shape(init))
    assert gradients <= found["collectives"]["all-reduce"]["bytes"] < 2.2 * gradients  # a block's gradients once per microbatch


@pytest.mark.parametrize("name, slice_", [("v5e", "2x2"), ("v5p", "2x2x1"), ("v6e", "2x2")])
def test_memory_of_a_chip_is_what_libtpu_says(name, slice_):
    """libtpu refuses a program that needs a terabyte, and its message has the memory size of the table.

    The table is of libtpu 0.0.42.1; 0.0.50.1, which JAX 0.12 has, leaves programs 0.01 GiB less of a v5p and of a v6e.
    """
    pytest.importorskip("libtpu")
    devices, chip = chips.topology(f"{name}:{slice_}")
    mesh = meshes.make_mesh(meshes.MeshConfig(), devices)
    x_N = jax.ShapeDtypeStruct((400_000,), jnp.float32, sharding=meshes.replicated(mesh))
    lower = lambda: jax.jit(lambda x_N: jnp.sort(jnp.outer(x_N, x_N), axis=0).sum()).lower(x_N)
    outcome = chips.examine(lower, chip, 1.0)
    assert not outcome.fits and outcome.used > 1000 and 0 <= round(chip.hbm - outcome.available, 2) <= 0.01


RESULTS = ROOT / "results/aot.json"
SLICES = {"v5e:4x4": "v5e-16", "v5p:2x2x4": "v5p-32", "v5e:16x16": "v5e-256"}
HEAD = "| slice | program, windows | memory, GiB | TFLOP: model, program | sent, GB | seconds, at least | utilisation, at most |"


def row(key, one):
    """The row of docs/tpu.md for one entry of results/aot.json: one device, one run."""
    _, *_, where, program = key.split()
    done, least, reach = one["flops"], one["seconds_at_least"], one["utilisation_at_most"]
    sent = [f"{kind} {sums['sent'] / 1e9:.2f}" for kind, sums in sorted(one["collectives"].items())]
    both = lambda values, shown: " to ".join(dict.fromkeys(shown(values[f"exchange_{key}"]) for key in ("hidden", "exposed")))
    cells = [SLICES[where], f"{program}, {one['batch']}", f"{one['memory']['peak'] / 2**30:.2f} of {one['hbm']}"]
    cells += [f"{done['model'] / 1e12:.1f}, {done['program'] / 1e12:.1f}", ", ".join(sent) or "–"]
    return f"| {' | '.join([*cells, both(least, lambda s: f'{s:.3f}'), both(reach, lambda part: f'{part:.0%}')])} |"


def block():
    """The tables of docs/tpu.md: `python -c "from tests.experiments import test_aot_compile; print(test_aot_compile.block())"`."""
    entries, parts = json.loads(RESULTS.read_text()), []
    for config, title in (("fineweb_170m", "170M"), ("fineweb_1b", "1.3B")):
        rows = []
        for where in SLICES:
            for program in tsdfm_programs.PROGRAMS:
                rows += [
                    row(key, one)
                    for key, one in entries.items()
                    if one["fits"] and key.split()[:: len(key.split()) - 1] == [config, program] and where in key.split()
                ]
        parts += ["\n".join([f"{title} (`configs/{config}.py`):", "", HEAD, "|---" * 7 + "|", *rows])]
    for key, one in entries.items():
        if not one["fits"]:
            *command, where, program = key.split()
            needs = f"the {program} needs {one['needs_gib']:.2f} GiB of the {one['available_gib']:.2f} of a chip of {SLICES[where]}"
            parts.append(f"Where it does not fit: with `{' '.join(command)}` {needs}. What fits: `{one['fits_with']}`.")
    return "\n\n".join(["<!-- aot: begin -->", *parts, "<!-- aot: end -->"])


def test_the_readme_shows_what_was_compiled():
    """The tables of docs/tpu.md equal, to the character, those made from results/aot.json."""
    assert block() in (ROOT / "docs/tpu.md").read_text(), "put into it what block() gives"


@pytest.mark.parametrize("config", ["fineweb_170m", "fineweb_1b"])
def test_results_are_of_these_configs(config):
    """results/aot.json has every slice and program, with today's configs' FLOPs; XLA's count, loops once, agrees."""
    entries = {key: one for key, one in json.loads(RESULTS.read_text()).items() if key.startswith(config + " ") and one["fits"]}
    assert {tuple(key.split()[-2:]) for key in entries} == {(w, p) for w in SLICES for p in tsdfm_programs.PROGRAMS}
    for key, one in entries.items():
        overrides = dict(part.removeprefix("--config.").split("=") for part in key.split()[1:-2])
        made = aot_compile.with_settings(
            {"fineweb_170m": fineweb_170m, "fineweb_1b": fineweb_1b}[config].get_config(), {k: int(v) for k, v in overrides.items()}
        )
        assert one["flops"]["model"] * one["devices"] == pytest.approx(model_flops.program(made, 50257, key.split()[-1]))
        seen = one["flops"]["program, loops once"] - one["flops"]["kernels, loops once"]
        assert one["loops_known"] and 0.95 < seen / one["xla"]["flops"] <= 1 and one["flops"]["kernels, loops once"] > 0
        assert 0.999 < one["flops"]["program"] / one["flops"]["model"] < 4 / 3 + 0.01  # remat repeats one forward pass
