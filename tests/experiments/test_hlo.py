"""Analysis of HLO text: loops, collectives, matrix products, memory traffic, and the least time."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, PartitionSpec

from tsdfm_jax.experiments.planning import chips, hlo

V5E = chips.CHIPS["v5e"]


EXCHANGES = {
    "all-gather": (lambda x: jax.lax.all_gather(x, "x", tiled=True)[:16] * 2, "f32[128,32]", 128 * 32 * 4, 7 / 8),
    "all-reduce": (lambda x: jax.lax.psum(x, "x"), "f32[16,32]", 16 * 32 * 4, 2 * 7 / 8),
    "reduce-scatter": (lambda x: jnp.tile(jax.lax.psum_scatter(x, "x", tiled=True), (8, 1)), "f32[2,32]", 16 * 32 * 4, 7 / 8),
    "all-to-all": (lambda x: jax.lax.all_to_all(x, "x", 0, 0, tiled=True), ", ".join(["f32[2,32]"] * 8), 16 * 32 * 4, 7 / 8),
    "collective-permute": (lambda x: jax.lax.ppermute(x, "x", [(i, -~i % 8) for i in range(8)]), "f32[16,32]", 16 * 32 * 4, 1),
}


@pytest.mark.parametrize("kind", EXCHANGES)
def test_collectives(kind):
    """Each kind of collective is counted once outside a scan and five times in it, with its size, for eight devices."""
    exchange, shape, size, sent = EXCHANGES[kind]
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    turns = lambda x: jax.lax.scan(lambda c, _: (exchange(c), None), exchange(jnp.sin(x)), None, length=5)[0]
    program = jax.shard_map(turns, mesh=mesh, in_specs=PartitionSpec("x"), out_specs=PartitionSpec("x"), check_vma=False)
    text = jax.jit(program).lower(jax.ShapeDtypeStruct((128, 32), jnp.float32)).compile().as_text()
    found = hlo.collectives(text)
    assert sorted(found, key=lambda one: one.times) == [(kind, shape, size, 1, 8), (kind, shape, size, 5, 8)]
    assert chips.work(text, V5E).wire == 6 * size * sent


def test_collectives_of_a_mesh_axis():
    """A collective's group is its mesh axis, not all devices."""
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    spec = PartitionSpec(("a", "b"))
    program = jax.shard_map(lambda x: jax.lax.psum(x, "b"), mesh=mesh, in_specs=spec, out_specs=PartitionSpec("a"))
    text = jax.jit(program).lower(jax.ShapeDtypeStruct((8, 3), jnp.float32)).compile().as_text()
    assert [one[:5] for one in hlo.collectives(text)] == [("all-reduce", "f32[1,3]", 12, 1, 2)]


def looped(first, last, step):
    """HLO of a loop before compilation, without a trip count, as on a TPU; one 16 × 16 product per turn."""

    def loop(last):
        turn = lambda c: (c[0] + step, jnp.tanh(c[1] @ c[1]))
        return jax.lax.while_loop(lambda c: c[0] < last, turn, (jnp.int32(first), jnp.ones((16, 16))))[1]

    return (jax.jit(loop).lower(jnp.int32(last)) if last is None else jax.jit(lambda: loop(last)).lower()).as_text("hlo")


@pytest.mark.parametrize("first, last, step, turns", [(0, 7, 1, 7), (1, 10, 2, 5), (3, 10, 3, 3), (5, 5, 1, 0)])
def test_turns_of_a_loop(first, last, step, turns):
    """A loop's turns are read from its condition, start and step, and its body counts that often."""
    found = chips.work(looped(first, last, step), V5E)
    assert found.exact and found.flops == turns * 2 * 16**3 and found.flops_once == 2 * 16**3


def test_a_loop_of_unknown_length():
    """A loop with an argument as end, or a step that is no addition, counts once and is not `exact`."""
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
    """A TPU program: scores as a dilated convolution, a collective in two fusions, and a loop condition without a count."""
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
    """A TPU's convolutions have the FLOPs of their products; the padding of a true convolution has none."""
    shape, rest = line.split(" ", 1)
    given = "".join(f"  %{name} = f32[{dims}] parameter({i})\n" for i, (name, dims) in enumerate(zip("ab", shapes)))
    text = f"ENTRY %m (a: f32[]) -> f32[] {{\n{given}  ROOT %c = {shape} convolution(%a, %b), {rest}\n}}\n"
    module = hlo.Module(text)
    assert sum(module.flops(run) for run in module.runs()) == flops


def test_memory_traffic():
    """A product reads and writes its arrays once; a slice or in-place update counts only its part, and on-chip memory nothing."""
    f32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    product = jax.jit(lambda a, b: a @ b).lower(f32(64, 32), f32(32, 128)).compile().as_text()
    assert chips.work(product, V5E).bytes == 4 * (64 * 32 + 32 * 128 + 64 * 128)
    turns = jax.jit(lambda w: jax.lax.scan(lambda c, w: (c, jnp.sin(w)), 0.0, w)[1]).lower(f32(50, 1000)).compile()
    moved = chips.work(turns.as_text(), V5E).bytes
    assert 2 * 4 * 50_000 <= moved < 5 * 4 * 50_000  # whole arrays in every turn would give 50 times as much
    on_chip = TPU.replace("{2,1,0:T(8,128)(2,1)} fusion", "{2,1,0:T(8,128)(2,1)S(1)} fusion")
    assert chips.work(TPU, V5E).bytes - chips.work(on_chip, V5E).bytes == 12 * 2**21


@pytest.mark.parametrize("n, seconds", [(4096, 2 * 4096**3 / V5E.flops), (64, 3 * 4 * 64**2 / V5E.bandwidth)])
def test_an_instruction_takes_its_longer_part(n, seconds):
    """A large product is limited by arithmetic, a small one by memory."""
    x = jax.ShapeDtypeStruct((n, n), jnp.float32)
    assert chips.work(jax.jit(jnp.dot).lower(x, x).as_text("hlo"), V5E).seconds == pytest.approx(seconds)


def test_least_time():
    """The least time is the maximum of its terms; with exposed exchanges the links' time is added."""
    found = chips.record(TPU, V5E, model_flops=1e9)
    least, done = found["seconds_at_least"], chips.work(TPU, V5E)
    assert least["links"] == pytest.approx(12 * 2**21 * 15 / 16 / V5E.links)
    assert least["in_turn"] >= max(done.flops / V5E.flops, 4 * 8 * 12 * 2**20 / V5E.bandwidth)
    assert least["exchange_hidden"] == max(least[key] for key in chips.TERMS)
    assert least["exchange_exposed"] == pytest.approx(least["links"] + max(least["in_turn"], least["memory"]))
    assert found["utilisation_at_most"]["exchange_hidden"] == pytest.approx(1e9 / V5E.flops / least["exchange_hidden"])
    assert found["collectives"] == {"all-gather": {"count": 12, "bytes": 12 * 2**21, "sent": 12 * 2**21 * 15 // 16}}
