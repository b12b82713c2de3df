"""Compiling for TPU slices without one: counts, loops, exchanges, what fits, and what is said where it does not."""

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
from jax.sharding import AxisType, PartitionSpec

from configs import fineweb_1b, fineweb_170m
from launch import aot_compile, chips, hlo
from tests import tiny
from tsdfm_jax import settings
from tsdfm_jax.models import transformer
from tsdfm_jax.runtime import mesh as meshes

ROOT = pathlib.Path(__file__).parent.parent
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
    """The shapes have the parameters that their configs state."""
    config = module.get_config()
    cfg = settings.network(config, config.tokenizer.vocab_size, step_conditioned=conditioned)
    init = lambda: transformer.init(jax.random.key(0), cfg, config.data.length)
    assert transformer.parameters(jax.eval_shape(init)) == count
    assert f"{count:,}" in module.__doc__


@pytest.mark.parametrize("conditioned", [False, True])
def test_forward_flops_are_xlas(conditioned):
    """The count by hand is within 3 % of XLA's own of a forward pass without a loop, which has the elementwise work too."""
    config = changed(model__width=128, model__unroll=2, data__length=64)
    cfg = settings.network(config, 2048, step_conditioned=conditioned)
    params = meshes.unbox(jax.eval_shape(lambda: transformer.init(jax.random.key(0), cfg, 64)))
    t_B = jax.ShapeDtypeStruct((4,), jnp.float32)
    compiled = jax.jit(functools.partial(transformer.apply, cfg)).lower(params, jnp.zeros((4, 64), int), t_B, t_B).compile()
    by_hand, found = 4 * aot_compile.forward_flops(params, cfg.width, 64), chips.work(compiled.as_text(), V5E)
    assert by_hand == pytest.approx(compiled.cost_analysis()["flops"], rel=0.03)
    assert found.flops == found.flops_once == pytest.approx(by_hand, rel=1e-3)


def test_model_flops_are_the_programs():
    """Every program does what is counted by hand, loops and all: blocks, microbatches, chains, candidates, three networks."""
    config = changed(student__target="mixed", compass__kind="nce", teacher__optimiser__accumulate=2)
    programs = aot_compile.programs(config, 384, aot_compile.mesh_of(config, jax.devices()))
    assert list(programs) == ["teacher", "trajectories/chain", "trajectories/whole", "student"]
    for name, lower in programs.items():
        found = chips.work(lower().as_text("hlo"), V5E)
        assert found.exact and found.flops > 1.1 * found.flops_once
        assert found.flops == pytest.approx(aot_compile.model_flops(config, 384, name), rel=0.02), name


@pytest.mark.parametrize(
    "changes, name, expected",
    [
        ({}, "teacher", {"teacher": 3}),
        ({}, "trajectories", {"teacher": 4 + 4 * 3, "compass": 0}),  # S = 4, K = 3
        ({"shaping__candidates": 1}, "trajectories", {"teacher": 4, "compass": 0}),
        ({"shaping__policy": "sequence_to_token"}, "trajectories", {"teacher": 4 + 4 * 4, "compass": 0}),
        ({"flow__source": "mask"}, "trajectories", {"teacher": 4 + 4 * 3 * 2, "compass": 0}),
        ({"compass__kind": "distilled"}, "trajectories", {"teacher": 4, "compass": 4 * 3}),
        ({"student__target": "chain"}, "student", {"student": 3 + 4, "teacher": 0}),
        ({"student__target": "chain", "student__evaluator": "teacher"}, "student", {"student": 3, "teacher": 4}),
        ({"student__target": "mixed", "trajectories__chain": "heun"}, "student", {"student": 9 + 2, "teacher": 0}),
    ],
)
def test_passes(changes, name, expected):
    """Forward passes of each network in each program, as the method has them."""
    assert aot_compile.passes(changed(**changes))[name] == expected


EXCHANGES = {
    "all-gather": (lambda x: jax.lax.all_gather(x, "x", tiled=True)[:16] * 2, "f32[128,32]", 128 * 32 * 4, 7 / 8),
    "all-reduce": (lambda x: jax.lax.psum(x, "x"), "f32[16,32]", 16 * 32 * 4, 2 * 7 / 8),
    "reduce-scatter": (lambda x: jnp.tile(jax.lax.psum_scatter(x, "x", tiled=True), (8, 1)), "f32[2,32]", 16 * 32 * 4, 7 / 8),
    "all-to-all": (lambda x: jax.lax.all_to_all(x, "x", 0, 0, tiled=True), ", ".join(["f32[2,32]"] * 8), 16 * 32 * 4, 7 / 8),
    "collective-permute": (lambda x: jax.lax.ppermute(x, "x", [(i, -~i % 8) for i in range(8)]), "f32[16,32]", 16 * 32 * 4, 1),
}


@pytest.mark.parametrize("kind", EXCHANGES)
def test_collectives(kind):
    """One exchange outside a scan and one in each of its five turns, as XLA compiles them for eight devices."""
    exchange, shape, size, sent = EXCHANGES[kind]
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    turns = lambda x: jax.lax.scan(lambda c, _: (exchange(c), None), exchange(jnp.sin(x)), None, length=5)[0]
    program = jax.shard_map(turns, mesh=mesh, in_specs=PartitionSpec("x"), out_specs=PartitionSpec("x"), check_vma=False)
    text = jax.jit(program).lower(jax.ShapeDtypeStruct((128, 32), jnp.float32)).compile().as_text()
    found = hlo.collectives(text)
    assert sorted(found, key=lambda one: one.times) == [(kind, shape, size, 1, 8), (kind, shape, size, 5, 8)]
    assert chips.work(text, V5E).wire == 6 * size * sent


def test_collectives_of_a_mesh_axis():
    """Groups are those of the axis that is exchanged over, not all devices."""
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    spec = PartitionSpec(("a", "b"))
    program = jax.shard_map(lambda x: jax.lax.psum(x, "b"), mesh=mesh, in_specs=spec, out_specs=PartitionSpec("a"))
    text = jax.jit(program).lower(jax.ShapeDtypeStruct((8, 3), jnp.float32)).compile().as_text()
    assert [one[:5] for one in hlo.collectives(text)] == [("all-reduce", "f32[1,3]", 12, 1, 2)]


def looped(first, last, step):
    """HLO of a loop before compilation, which states no trip count, as a TPU's does not; one product of 16 a turn."""

    def loop(last):
        turn = lambda c: (c[0] + step, jnp.tanh(c[1] @ c[1]))
        return jax.lax.while_loop(lambda c: c[0] < last, turn, (jnp.int32(first), jnp.ones((16, 16))))[1]

    return (jax.jit(loop).lower(jnp.int32(last)) if last is None else jax.jit(lambda: loop(last)).lower()).as_text("hlo")


@pytest.mark.parametrize("first, last, step, turns", [(0, 7, 1, 7), (1, 10, 2, 5), (3, 10, 3, 3), (5, 5, 1, 0)])
def test_turns_of_a_loop(first, last, step, turns):
    """A loop's length is read from its condition, its start and its step; and what is in it counts so often."""
    found = chips.work(looped(first, last, step), V5E)
    assert found.exact and found.flops == turns * 2 * 16**3 and found.flops_once == 2 * 16**3


def test_a_loop_of_unknown_length():
    """It counts once, and it is said so: the end is an argument, or the step is no addition."""
    counted = lambda n, step: jax.lax.while_loop(lambda c: c[0] < n, lambda c: (step(c[0]), c[1] + 1), (jnp.int32(1), 0.0))
    argument = jax.jit(lambda n: counted(n, lambda c: c + 1)).lower(jnp.int32(9))
    doubled = jax.jit(lambda: counted(9, lambda c: c * 2)).lower()
    assert not chips.work(argument.as_text("hlo"), V5E).exact
    assert not chips.work(doubled.as_text("hlo"), V5E).exact


# Lines of a real TPU program (v5e, libtpu 0.0.42.1), shortened.
TPU = """HloModule t, is_scheduled=true

%condition (c: (s32[], bf16[8])) -> pred[] {
  %end = s32[]{:T(128)} constant(12)
  %c = (s32[]{:T(128)}, bf16[8]{0:T(1024)S(1)}) parameter(0)
  %at = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %lt = pred[]{:T(512)} compare(%at, %end), direction=LT
}

%start (p: bf16[1,64,1024]) -> bf16[1,1024,1024] {
  %p = bf16[1,64,1024]{2,1,0:T(8,128)(2,1)} parameter(0)
  ROOT %gather.1 = bf16[1,1024,1024]{2,1,0:T(8,128)(2,1)} all-gather(%p), channel_id=8, replica_groups=mesh['a'=16,'b'=1] {'a'}
}

%done (p.1: bf16[1,64,1024]) -> bf16[1,1024,1024] {
  %p.1 = bf16[1,64,1024]{2,1,0:T(8,128)(2,1)} parameter(0)
  ROOT %gather.2 = bf16[1,1024,1024]{2,1,0:T(8,128)(2,1)} all-gather(%p.1), channel_id=8, replica_groups=mesh['a'=16,'b'=1] {'a'}
}

%body (b: (s32[], bf16[8])) -> (s32[], bf16[8]) {
  %b = (s32[]{:T(128)}, bf16[8]{0:T(1024)S(1)}) parameter(0)
  %at.1 = s32[]{:T(128)} get-tuple-element(%b), index=0
  %copy = s32[]{:T(128)} copy(%at.1)
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%copy, %one)
  %w = bf16[1,64,1024]{2,1,0:T(8,128)(2,1)} custom-call(), custom_call_target="AllocateBuffer"
  %started = bf16[1,1024,1024]{2,1,0:T(8,128)(2,1)} fusion(%w), kind=kCustom, calls=%start
  %ended = bf16[1,1024,1024]{2,1,0:T(8,128)(2,1)S(1)} fusion(%w), kind=kCustom, calls=%done
  %v = bf16[8]{0:T(1024)S(1)} get-tuple-element(%b), index=1
  ROOT %both = (s32[]{:T(128)}, bf16[8]{0:T(1024)S(1)}) tuple(%next, /*index=1*/%v)
}

ENTRY %main (q: f32[8,1024,12,64], k: f32[8,1024,12,64]) -> f32[8,12,1024,1024] {
  %q = f32[8,1024,12,64]{1,3,2,0:T(8,128)} parameter(0)
  %k = f32[8,1024,12,64]{1,3,2,0:T(8,128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %v.1 = bf16[8]{0:T(1024)S(1)} custom-call(), custom_call_target="AllocateBuffer"
  %begun = (s32[]{:T(128)}, bf16[8]{0:T(1024)S(1)}) tuple(%zero, %v.1)
  %loop = (s32[]{:T(128)}, bf16[8]{0:T(1024)S(1)}) while(%begun), condition=%condition, body=%body
  ROOT %scores = f32[8,12,1024,1024]{2,3,1,0:T(8,128)} convolution(%q, %k), window={size=8x12 stride=7x11 lhs_dilate=8x12}, dim_labels=0b1f_0o1i->01bf
}
"""


def test_a_tpus_own_ways():
    """Attention's scores as a convolution with holes, an exchange that stands in two fusions, a condition without a count."""
    module = hlo.Module(TPU)
    assert sum(module.flops(run) for run in module.runs()) == 2 * 8 * 12 * 1024 * 1024 * 64
    assert hlo.collectives(TPU) == [("all-gather", "bf16[1,1024,1024]", 2**21, 12, 16)]
    assert chips.work(TPU, V5E).wire == 12 * 2**21 * 15 / 16


HEADS = "bf16[8,1024,12,64] window={size=1x12 pad=0_0x11_11 rhs_reversal=0x1}, dim_labels=0bf1_1oi0->0b1f"


@pytest.mark.parametrize(
    "shapes, line, flops",
    [
        (("8,1024,768,1", "12,64,768,1"), HEADS, 2 * 8 * 1024 * 768 * 768),
        (("8,1024,768", "8,1024,3072"), "bf16[768,3072,1] window={size=8}, dim_labels=0fb_0io->bf0", 2 * 8 * 1024 * 768 * 3072),
        (("16,768", "768,64"), "bf16[16,64] dim_labels=bf_io->bf", 2 * 16 * 768 * 64),
        (("1,9,3", "3,3,5"), "f32[1,9,5] window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f", 2 * (3 * 9 - 2) * 3 * 5),
    ],
)
def test_flops_of_convolutions(shapes, line, flops):
    """Products as a TPU has them: the gradient of a projection from heads, that of a weight over windows, a plain one; and
    a true convolution, whose padding does no work."""
    shape, rest = line.split(" ", 1)
    given = "".join(f"  %{name} = f32[{dims}] parameter({i})\n" for i, (name, dims) in enumerate(zip("ab", shapes)))
    text = f"ENTRY %m (a: f32[]) -> f32[] {{\n{given}  ROOT %c = {shape} convolution(%a, %b), {rest}\n}}\n"
    module = hlo.Module(text)
    assert sum(module.flops(run) for run in module.runs()) == flops


def test_memory_traffic():
    """A product reads and writes its arrays once; of what is sliced or updated in place the slice counts, on either chip."""
    f32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    product = jax.jit(lambda a, b: a @ b).lower(f32(64, 32), f32(32, 128)).compile().as_text()
    assert chips.work(product, V5E).bytes == 4 * (64 * 32 + 32 * 128 + 64 * 128)
    turns = jax.jit(lambda w: jax.lax.scan(lambda c, w: (c, jnp.sin(w)), 0.0, w)[1]).lower(f32(50, 1000)).compile()
    moved = chips.work(turns.as_text(), V5E).bytes
    assert 2 * 4 * 50_000 <= moved < 5 * 4 * 50_000  # whole arrays in every turn would be 50 times that
    on_chip = TPU.replace("{2,1,0:T(8,128)(2,1)} fusion", "{2,1,0:T(8,128)(2,1)S(1)} fusion")
    assert chips.work(TPU, V5E).bytes - chips.work(on_chip, V5E).bytes == 12 * 2**21


@pytest.mark.parametrize("n, seconds", [(4096, 2 * 4096**3 / V5E.flops), (64, 3 * 4 * 64**2 / V5E.bandwidth)])
def test_an_instruction_takes_its_longer_part(n, seconds):
    """A large product is bound by arithmetic, a small one by memory."""
    x = jax.ShapeDtypeStruct((n, n), jnp.float32)
    assert chips.work(jax.jit(jnp.dot).lower(x, x).as_text("hlo"), V5E).seconds == pytest.approx(seconds)


def test_least_time():
    """It is the longest of what must be done; with no exchange behind other work, the links' time comes on top."""
    found = chips.record(TPU, V5E, model_flops=1e9)
    least, done = found["seconds_at_least"], chips.work(TPU, V5E)
    assert least["links"] == pytest.approx(12 * 2**21 * 15 / 16 / V5E.links)
    assert least["in_turn"] >= max(done.flops / V5E.flops, 4 * 8 * 12 * 2**20 / V5E.bandwidth)
    assert least["exchange_hidden"] == max(least[key] for key in chips.TERMS)
    assert least["exchange_exposed"] == pytest.approx(least["links"] + max(least["in_turn"], least["memory"]))
    assert found["utilisation_at_most"]["exchange_hidden"] == pytest.approx(1e9 / V5E.flops / least["exchange_hidden"])
    assert found["collectives"] == {"all-gather": {"count": 12, "bytes": 12 * 2**21, "sent": 12 * 2**21 * 15 // 16}}


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
    """XLA's two ways to say that there is not enough memory, in GiB."""
    assert chips.overflow(f"RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total {said}") == sizes


class Memory:
    """What XLA says of a program's memory, made up."""

    peak_memory_in_bytes = 10 * 2**30

    def __getattr__(self, name):
        return 0


class Compiled:
    """A compiled program, made up."""

    memory_analysis, as_text, cost_analysis = Memory, lambda self: TPU, dict


def refused():
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: … temporaries (21.58G) exceeds available HBM (15.75G).")


def test_fits_by_the_peak_and_by_xlas_own_word():
    """10 GiB fit into 15.75 and not into 9; what XLA refuses does not fit; any other error is one."""
    lower = lambda compile_: lambda: type("Lowered", (), {"compile": staticmethod(compile_)})
    assert chips.examine(lower(Compiled), V5E, 1.0).fits
    small = chips.examine(lower(Compiled), chips.Chip(name="small", hbm=9.0, flops=1.0, bandwidth=1.0, links=1.0), 1.0)
    assert not small.fits and (small.used, small.available) == (10.0, 9.0)
    assert chips.examine(lower(refused), V5E, 1.0) == (21.58, 15.75, None)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        chips.examine(lower(lambda: (_ for _ in ()).throw(jax.errors.JaxRuntimeError("INTERNAL: no"))), V5E, 1.0)


def test_remedies():
    """What is tried: cheapest first, only what divides, nothing that is so already, all together last."""
    config = changed(teacher__batch=32, teacher__optimiser__accumulate=1)
    key, fsdp = "teacher.optimiser.accumulate", {"mesh.data": 1, "mesh.fsdp": -1}
    full = {"model.remat": "full"}
    assert aot_compile.remedies(config, "teacher", 8) == [{key: 2}, {key: 4}, full, fsdp, full | fsdp | {key: 4}]
    lean = changed(teacher__batch=8, model__remat="full", mesh__data=1, mesh__fsdp=8)
    assert aot_compile.remedies(lean, "teacher", 8) == []
    wide = changed(shaping__candidates=4, trajectories__batch=16)
    chunks = [{"shaping.chunk": 2}, {"shaping.chunk": 1}, {"shaping.chunk": 1, "trajectories.batch": 8}]
    assert aot_compile.remedies(wide, "trajectories", 8) == [*chunks, fsdp, fsdp | chunks[-1]]
    for way in [*aot_compile.remedies(config, "teacher", 8), *aot_compile.remedies(wide, "trajectories", 8)]:
        aot_compile.mesh_of(aot_compile.with_settings(config if "teacher" in str(way) else wide, way), jax.devices())


def test_the_search_stops_at_the_first_that_fits():
    """In order, and no further; where none fits, the one that came nearest."""
    need, tried = {1: 30.0, 2: 22.0, 4: 15.0, 8: 9.0}, []

    def attempt(way):
        tried.append(way["n"])
        return chips.Outcome(need[way["n"]], 15.75, {})

    ways = [{"n": n} for n in need]
    assert aot_compile.first_that_fits(ways, attempt) == ({"n": 4}, (15.0, 15.75, {})) and tried == [1, 2, 4]
    assert aot_compile.first_that_fits(ways[:2], attempt) == ({"n": 2}, (22.0, 15.75, {}))
    assert aot_compile.first_that_fits([], attempt) is None


def test_run_says_what_does_not_fit_and_what_makes_it_fit(monkeypatch, tmp_path, capsys):
    """From made-up sizes to the terminal and the file: as it is, then with the settings that help."""
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
        aot_compile.note(tmp_path / "aot.json", "tiny", aot_compile.entry(outcome, way))
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
    """Bad input ends at once, with one line that names the value and what to write instead."""
    done = subprocess.run([sys.executable, "-m", "launch.aot_compile", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("aot_compile: ") and said in done.stderr


def test_libtpu_is_asked_for(monkeypatch):
    """Without libtpu the line says how to install it."""
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
    """What the stages would refuse on the slice is refused here, whatever devices this machine has."""
    with pytest.raises(ValueError, match=re.escape(said)):
        aot_compile.mesh_of(changed(**changes), jax.devices())


def test_a_tpu_program():
    """The teacher's update compiles for a real slice: it does what was counted by hand, and its exchanges are the gradients'."""
    pytest.importorskip("libtpu")
    with pytest.raises(ValueError, match="v5e:3x5 is not known to libtpu"):
        chips.topology("v5e:3x5")
    said, config = [], changed(model__width=128, teacher__optimiser__accumulate=2)
    aot_compile.run(config, "v5e:2x2", 384, ("teacher",), False, lambda *what: said.append(what))
    ((name, outcome, way),) = said
    found = outcome.found
    assert (name, way, outcome.fits, found["devices"], found["loops_known"]) == ("teacher", {}, True, 4, True)
    assert found["flops"]["program"] == pytest.approx(found["flops"]["model"], rel=0.01)
    assert 0.7 < found["flops"]["program, loops once"] / found["xla"]["flops"] <= 1  # XLA's has the elementwise work too
    cfg = settings.network(config, 384)
    init = lambda: transformer.init(jax.random.key(0), cfg, config.data.length)
    gradients = 4 * transformer.parameters(jax.eval_shape(init))
    assert gradients <= found["collectives"]["all-reduce"]["bytes"] < 2.2 * gradients  # a block's in every microbatch


@pytest.mark.parametrize("name, slice_", [("v5e", "2x2"), ("v5p", "2x2x1"), ("v6e", "2x2")])
def test_memory_of_a_chip_is_what_libtpu_says(name, slice_):
    """A program that needs a terabyte is refused, in words that are understood, for the memory that the table has."""
    pytest.importorskip("libtpu")
    devices, chip = chips.topology(f"{name}:{slice_}")
    mesh = meshes.make_mesh(meshes.MeshConfig(), devices)
    x_N = jax.ShapeDtypeStruct((400_000,), jnp.float32, sharding=meshes.replicated(mesh))
    lower = lambda: jax.jit(lambda x_N: jnp.sort(jnp.outer(x_N, x_N), axis=0).sum()).lower(x_N)
    outcome = chips.examine(lower, chip, 1.0)
    assert not outcome.fits and outcome.used > 1000 and outcome.available == chip.hbm


RESULTS = ROOT / "results/aot.json"
SLICES = {"v5e:4x4": "v5e-16", "v5p:2x2x4": "v5p-32", "v5e:16x16": "v5e-256"}
HEAD = "| slice | program, windows | memory, GiB | TFLOP: model, program | sent, GB | seconds, at least | utilisation, at most |"


def row(key, one):
    """A README row of an entry of results/aot.json: one device, one run."""
    _, *_, where, program = key.split()
    done, least, reach = one["flops"], one["seconds_at_least"], one["utilisation_at_most"]
    sent = [f"{kind} {sums['sent'] / 1e9:.2f}" for kind, sums in sorted(one["collectives"].items())]
    both = lambda values, shown: " to ".join(dict.fromkeys(shown(values[f"exchange_{key}"]) for key in ("hidden", "exposed")))
    cells = [SLICES[where], f"{program}, {one['batch']}", f"{one['memory']['peak'] / 2**30:.2f} of {one['hbm']}"]
    cells += [f"{done['model'] / 1e12:.1f}, {done['program'] / 1e12:.1f}", ", ".join(sent) or "–"]
    return f"| {' | '.join([*cells, both(least, lambda s: f'{s:.3f}'), both(reach, lambda part: f'{part:.0%}')])} |"


def block():
    """The README's tables: `python -c "from tests import test_aot; print(test_aot.block())"`."""
    entries, parts = json.loads(RESULTS.read_text()), []
    for config, title in (("fineweb_170m", "170M"), ("fineweb_1b", "1.3B")):
        rows = []
        for where in SLICES:
            for program in aot_compile.PROGRAMS:
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
    """The README's tables are what results/aot.json says, to the character."""
    assert block() in (ROOT / "README.md").read_text(), "put into the README what block() gives"


@pytest.mark.parametrize("config", ["fineweb_170m", "fineweb_1b"])
def test_results_are_of_these_configs(config):
    """Every slice and program is there; FLOPs are what the config as it is today has; XLA's count, loops once, agrees."""
    entries = {key: one for key, one in json.loads(RESULTS.read_text()).items() if key.startswith(config + " ") and one["fits"]}
    assert {tuple(key.split()[-2:]) for key in entries} == {(w, p) for w in SLICES for p in aot_compile.PROGRAMS}
    for key, one in entries.items():
        overrides = dict(part.removeprefix("--config.").split("=") for part in key.split()[1:-2])
        made = aot_compile.with_settings(
            {"fineweb_170m": fineweb_170m, "fineweb_1b": fineweb_1b}[config].get_config(), {k: int(v) for k, v in overrides.items()}
        )
        assert one["flops"]["model"] * one["devices"] == pytest.approx(aot_compile.model_flops(made, 50257, key.split()[-1]))
        assert one["loops_known"] and 0.95 < one["flops"]["program, loops once"] / one["xla"]["flops"] <= 1
        assert 0.999 < one["flops"]["program"] / one["flops"]["model"] < 4 / 3 + 0.01  # remat computes one forward pass again
