"""TPU chips, and what a compiled program needs of one: memory, FLOPs, traffic, and the least time that it can take.

The time is a bound, not a prediction: instructions one after the other, each at the chip's peak or at its memory's
bandwidth, whichever takes longer, and no exchange slower than all links of a chip together. XLA has such a time of its own,
`optimal_seconds` in its cost analysis. It is kept in the record and of no use here: like XLA's `flops` it has the body of
each loop once, and every ConcatBitcast in a program takes a whole second off, so that it comes out negative.
"""

import collections
import dataclasses
import importlib.util
import os
import re
import time
from typing import NamedTuple

from launch import hlo

# Opcodes that move nothing of their own, or whose bytes are counted where they are carried out.
NO_TRAFFIC = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"}
NO_TRAFFIC |= {"partition-id", "replica-id", "iota", "async-start", "async-update", "async-done"}
PARTS = ("dynamic-slice", "slice", "gather", "slice-start")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One TPU chip; JAX sees a v5p's two cores as one device.

    Attributes:
      name: as Google's documentation calls it.
      hbm: memory that a program may use, GiB: what libtpu states when a program needs more.
      flops: peak in bfloat16, FLOP/s.
      bandwidth: of its memory, bytes/s.
      links: what it sends to other chips at most, bytes/s: half of the documented bidirectional figure.
    """

    name: str
    hbm: float
    flops: float
    bandwidth: float
    links: float


GIB = 2**30
OVERFLOW = re.compile(
    r"\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)|Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm"
)
TERMS = {"arithmetic": "arithmetic", "memory": "memory", "links": "links", "in_turn": "instructions in turn"}
UNITS = {"K": 2**-20, "M": 2**-10, "G": 1.0, "T": 2.0**10}

# Data sheets: https://docs.cloud.google.com/tpu/docs/v5e, …/v5p and …/v6e (which has said 1,640 and 1,600 GB/s); `hbm` is
# what libtpu 0.0.42.1 answers to a program that needs more: "exceeds available HBM (15.75G)". 0.0.50.1 says 0.01 less
# of the last two.
CHIPS = {
    "v5e": Chip(name="TPU v5e", hbm=15.75, flops=197e12, bandwidth=819e9, links=200e9),
    "v5p": Chip(name="TPU v5p", hbm=95.74, flops=459e12, bandwidth=2765e9, links=600e9),
    "v6e": Chip(name="TPU v6e", hbm=31.25, flops=918e12, bandwidth=1640e9, links=400e9),
}


# Where there is no TPU, libtpu would look for one first, or wait for its lock; the type only keeps it from complaining.
QUIET = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
QUIET |= {"TPU_ACCELERATOR_TYPE": "v5litepod-16"}


def topology(name):
    """The devices of a slice, and its chip. Raises ValueError for one that is not known, or where libtpu is missing."""
    chip = CHIPS.get(name.split(":")[0])
    if chip is None:
        raise ValueError(f"--topology={name} is of no chip known here: take one of {', '.join(CHIPS)}, as in v5e:4x4")
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError("libtpu, the compiler for TPU, is not installed: pip install -e '.[tpu]'")
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    import jax
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices, chip
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"--topology={name} is not known to libtpu ({error}): try v5e:4x4, v5p:2x2x4 or v6e:8x8") from error


class Outcome(NamedTuple):
    """A compilation: GiB needed, GiB there are, and the record of the program; None where XLA gave up for want of memory."""

    used: float
    available: float
    found: dict | None

    @property
    def fits(self):
        return self.found is not None and self.used <= self.available


def overflow(message):
    """(used, available) GiB of XLA's complaint that a program needs more memory than there is; None of any other text."""
    found = OVERFLOW.search(message)
    if not found:
        return None
    used, unit, available, unit_2 = [part for part in found.groups() if part is not None]
    return float(used) * UNITS[unit], float(available) * UNITS[unit_2]


def examine(lower, chip, model_flops):
    """Compile `lower()` for a chip: an `Outcome`. `model_flops` are one device's, of one run.

    Memory is judged by XLA's peak. Its `temp_size_in_bytes` is not added to the arguments: programs compile, and XLA's log
    gives them less than the chip has, where that sum is more.
    """
    import jax

    begun = time.perf_counter()
    try:
        compiled = lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if (sizes := overflow(str(error))) is None:
            raise
        return Outcome(*sizes, None)
    seconds, memory, text = time.perf_counter() - begun, compiled.memory_analysis(), compiled.as_text()
    found = {"compile_seconds": round(seconds, 1), "memory": sizes_of(memory)} | record(text, chip, model_flops)
    said = compiled.cost_analysis()
    found["xla"] = {key: said.get(key) for key in ("flops", "bytes accessed", "optimal_seconds")}
    return Outcome(memory.peak_memory_in_bytes / GIB, chip.hbm, found)


def sizes_of(memory):
    """XLA's memory analysis, in bytes."""
    names = ("argument", "output", "alias", "temp", "generated_code")
    return {name: getattr(memory, f"{name}_size_in_bytes") for name in names} | {"peak": memory.peak_memory_in_bytes}


def record(text, chip, model_flops):
    """What a compiled program's HLO text says of one device: work, exchanges by kind, times at least, and what follows."""
    done, exchanges = work(text, chip), collections.defaultdict(lambda: {"count": 0, "bytes": 0, "sent": 0})
    for one in hlo.collectives(text):
        times = one.times or 1
        for key, value in {"count": times, "bytes": one.bytes * times, "sent": round(one.wire * times)}.items():
            exchanges[one.kind][key] += value
    least = {
        "arithmetic": done.flops / chip.flops,
        "memory": done.bytes / chip.bandwidth,
        "links": done.wire / chip.links,
        "in_turn": done.seconds,
    }
    hidden, exposed = max(least.values()), max(done.seconds, least["memory"]) + least["links"]
    return {
        "chip": chip.name,
        "hbm": chip.hbm,
        "flops": {
            "model": model_flops,
            "program": done.flops,
            "program, loops once": done.flops_once,
            "kernels, loops once": done.kernels_once,
        },
        "traffic": {"bytes": done.bytes, "bytes, loops once": done.bytes_once},
        "collectives": dict(exchanges),
        "loops_known": done.exact,
        "seconds_at_least": least | {"exchange_hidden": hidden, "exchange_exposed": exposed},
        "utilisation_at_most": {
            key: model_flops / seconds / chip.flops for key, seconds in (("exchange_hidden", hidden), ("exchange_exposed", exposed))
        },
    }


def described(found):
    """(what, value) of a record, for people."""
    memory = {key: f"{size / GIB:.2f}" for key, size in found["memory"].items()}
    least, reach = found["seconds_at_least"], found["utilisation_at_most"]
    yield "memory", f"{memory['peak']} GiB at the peak, {found['hbm']} there are"
    yield (
        "",
        f"arguments {memory['argument']}, results {memory['output']}, of them in place {memory['alias']}, code {memory['generated_code']}",
    )
    yield "FLOPs", f"{found['flops']['model']:.4g} of the model, {found['flops']['program']:.4g} of the program"
    yield "memory traffic", f"{found['traffic']['bytes'] / 1e9:,.1f} GB"
    for kind, sums in sorted(found["collectives"].items()):
        yield kind, f"{sums['count']:,}, of {sums['bytes'] / 1e9:,.3f} GB together; sent {sums['sent'] / 1e9:,.3f} GB"
    yield (
        "seconds, at least",
        f"{least['exchange_hidden']:.4f} with every exchange behind other work, {least['exchange_exposed']:.4f} with none",
    )
    yield "", ", ".join(f"{name} {least[key]:.4f}" for key, name in TERMS.items())
    yield "utilisation, at most", f"{reach['exchange_hidden']:.1%}, {reach['exchange_exposed']:.1%}"
    yield (
        "XLA's own count",
        f"{found['xla']['flops']:.4g} FLOPs, {found['xla']['optimal_seconds']:.4g} s (each loop once: of no use)",
    )


class Work(NamedTuple):
    """What one device does in one run of a program.

    Attributes:
      flops: of matrix products.
      bytes: read from and written to its memory.
      wire: bytes sent to other devices.
      flops_once, bytes_once: the same with the body of every loop counted once, as XLA's cost analysis has them.
      kernels_once: of flops_once, what kernels do, which XLA's cost analysis does not see into.
      seconds: the least time that the instructions take one after the other; copies that XLA starts ahead are left out.
      exact: whether the lengths of all loops are known; those that are not count once.
    """

    flops: float
    bytes: float
    wire: float
    flops_once: float
    bytes_once: float
    kernels_once: float
    seconds: float
    exact: bool


def work(text, chip):
    """The `Work` of a compiled program, from its HLO text, on a chip."""
    module, steps, kernels, exact = hlo.Module(text), [], 0.0, True
    for run in module.runs():
        exact = exact and run.times is not None
        if run.computation == run.holder:
            ahead = run.instruction.opcode.endswith("-start")
            steps.append([0.0, traffic(module, run), 1 if run.times is None else run.times, ahead])
        steps[-1][0] += (flops := module.flops(run))  # inside a fusion, it is the fusion's
        kernels += flops if run.instruction.opcode == "custom-call" else 0.0
    return Work(
        flops=sum(flops * times for flops, _, times, _ in steps),
        bytes=sum(moved * times for _, moved, times, _ in steps),
        wire=sum(c.wire * (c.times or 1) for c in hlo.collectives(text)),
        flops_once=sum(flops for flops, *_ in steps),
        bytes_once=sum(moved for _, moved, *_ in steps),
        kernels_once=kernels,
        seconds=sum(max(flops / chip.flops, moved / chip.bandwidth) * times for flops, moved, times, ahead in steps if not ahead),
        exact=exact,
    )


def in_memory(arrays):
    """Bytes of those arrays of a shape that lie in the main memory: a layout with S(1) or above puts one elsewhere."""
    return sum(hlo.size([array]) for array in arrays if "S(" not in array[2])


def traffic(module, run):
    """Bytes that one instruction reads from and writes to the main memory.

    Of an array that is only sliced, or updated in place, the slice counts.
    """
    one, inside = run.instruction, module.computations[run.computation]
    if one.opcode in NO_TRAFFIC or one.opcode.endswith("-done"):
        return 0
    made, given = hlo.arrays(one.shape), [hlo.arrays(inside[name].shape) for name in one.operands]
    if one.opcode == "fusion":
        body = one.called["calls"]
        return _written(module, body, made) + sum(_read(module, body, place, arrays) for place, arrays in enumerate(given))
    if one.opcode in PARTS:
        part = made[len(given[0]) :][:1] if one.opcode == "slice-start" else made  # ((operand), result, the device's own)
        return in_memory(part) + (hlo.size(part) if in_memory(given[0]) else 0)
    if one.opcode == "dynamic-update-slice":
        return 2 * hlo.size(given[1]) if in_memory(made) else 0
    if one.opcode.endswith("-start"):  # (operands, results, the device's own)
        return in_memory(made)
    return in_memory(made) + sum(in_memory(arrays) for arrays in given)


def _read(module, body, place, arrays):
    """Bytes that a fusion reads of one of its operands."""
    whole = in_memory(arrays)
    parts = _parts(module, body, module.parameter(body, place)) if whole else 0
    return whole if parts is None else min(parts, whole)


def _parts(module, body, name):
    """Bytes of the slices that are all that is read of a value; None if it is read whole."""
    inside, total = module.computations[body], 0
    users = [found for found in inside.values() if name in found.operands]
    for user in users:
        if user.opcode in PARTS and user.operands[0] == name:
            part = hlo.size(hlo.arrays(user.shape))
        elif user.opcode == "dynamic-update-slice" and user.operands.index(name) == 0:
            part = 0
        elif user.opcode == "bitcast" or user.opcode == "fusion" and _only_view(module, user):
            part = _parts(module, body, user.name)
        elif user.opcode == "fusion":
            part = _parts(module, user.called["calls"], module.parameter(user.called["calls"], user.operands.index(name)))
        else:
            part = None
        if part is None:
            return None
        total += part
    return None if inside[name].root else total


def _only_view(module, fusion):
    return all(i.opcode in ("parameter", "bitcast") for i in module.computations[fusion.called["calls"]].values())


def _written(module, body, made):
    """Bytes that a fusion writes: of an update in place, the update."""
    inside, root, total = module.computations[body], module.root(body), 0
    ends = [inside[name] for name in root.operands] if root.opcode == "tuple" else [root]
    for end, array in zip(ends, made):
        while end.opcode == "bitcast":
            end = inside[end.operands[0]]
        if in_memory([array]):
            updated = end.opcode == "dynamic-update-slice"
            total += hlo.size(hlo.arrays(inside[end.operands[1]].shape)) if updated else hlo.size([array])
    return total
