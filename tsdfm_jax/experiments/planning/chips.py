"""TPU chips, and a compiled program's needs on one: memory, FLOPs, traffic, and the least time of a run.

The time is a lower bound, not a prediction: instructions run one after the other, each at the chip's peak or at its memory
bandwidth, whichever takes longer, and exchanges use all links of a chip. XLA has such a time of its own, `optimal_seconds` in
its cost analysis. The record keeps it, but it is not usable: like XLA's `flops` it counts the body of each loop once, and
every ConcatBitcast in a program subtracts a whole second, so that it becomes negative.
"""

import collections
import dataclasses
import importlib.util
import os
import re
import time
from typing import NamedTuple

from tsdfm_jax.experiments.planning import hlo

# Opcodes that move no bytes, or for which the bytes count in the computations that they call.
NO_TRAFFIC = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"}
NO_TRAFFIC |= {"partition-id", "replica-id", "iota", "async-start", "async-update", "async-done"}
PARTS = ("dynamic-slice", "slice", "gather", "slice-start")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One TPU chip; JAX sees a v5p's two cores as one device.

    Attributes:
      name: its name in Google's documentation.
      hbm: memory that a program may use, GiB, as libtpu states it when a program needs more.
      flops: peak in bfloat16, FLOP/s.
      bandwidth: bandwidth of its memory, bytes/s.
      links: most that it sends to other chips, bytes/s: half of the documented bidirectional number.
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

# Data sheets: https://docs.cloud.google.com/tpu/docs/v5e, …/v5p and …/v6e (which has stated 1,640 and 1,600 GB/s); `hbm`
# is from the error of libtpu 0.0.42.1 for a program that needs more: "exceeds available HBM (15.75G)". 0.0.50.1 says
# 0.01 less of the last two.
CHIPS = {
    "v5e": Chip(name="TPU v5e", hbm=15.75, flops=197e12, bandwidth=819e9, links=200e9),
    "v5p": Chip(name="TPU v5p", hbm=95.74, flops=459e12, bandwidth=2765e9, links=600e9),
    "v6e": Chip(name="TPU v6e", hbm=31.25, flops=918e12, bandwidth=1640e9, links=400e9),
}


# Without a TPU, libtpu would first search for one, or wait for its lock; the type only prevents a warning.
QUIET = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
QUIET |= {"TPU_ACCELERATOR_TYPE": "v5litepod-16"}


def topology(name):
    """The devices of a slice, and its chip. Raises ValueError for an unknown slice, or if libtpu is missing."""
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
    """Result of a compilation: GiB needed, GiB available, and the program's record; None where XLA ran out of memory."""

    used: float
    available: float
    record: dict | None

    @property
    def fits(self):
        return self.record is not None and self.used <= self.available


def overflow(message):
    """(used, available) GiB in XLA's error that a program needs more memory than available; None for any other text."""
    match = OVERFLOW.search(message)
    if not match:
        return None
    used, unit, available, unit_2 = [part for part in match.groups() if part is not None]
    return float(used) * UNITS[unit], float(available) * UNITS[unit_2]


def examine(lower, chip, model_flops):
    """Compile `lower()` for a chip: an `Outcome`. `model_flops` are those of one device in one run.

    The memory needed is XLA's peak. `temp_size_in_bytes` plus the arguments would be too much: programs with a sum above the
    chip's memory still compile, and XLA's log gives them less.
    """
    import jax

    start = time.perf_counter()
    try:
        compiled = lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if (sizes := overflow(str(error))) is None:
            raise
        return Outcome(*sizes, None)
    seconds, memory, text = time.perf_counter() - start, compiled.memory_analysis(), compiled.as_text()
    program_record = {"compile_seconds": round(seconds, 1), "memory": sizes_of(memory)} | record(text, chip, model_flops)
    analysis = compiled.cost_analysis()
    program_record["xla"] = {key: analysis.get(key) for key in ("flops", "bytes accessed", "optimal_seconds")}
    return Outcome(memory.peak_memory_in_bytes / GIB, chip.hbm, program_record)


def sizes_of(memory):
    """XLA's memory analysis, in bytes."""
    names = ("argument", "output", "alias", "temp", "generated_code")
    return {name: getattr(memory, f"{name}_size_in_bytes") for name in names} | {"peak": memory.peak_memory_in_bytes}


def record(text, chip, model_flops):
    """One device's record from a compiled program's HLO text: work, exchanges by kind, least times, and utilisation."""
    totals, exchanges = work(text, chip), collections.defaultdict(lambda: {"count": 0, "bytes": 0, "sent": 0})
    for exchange in hlo.collectives(text):
        times = exchange.times or 1
        for key, value in {"count": times, "bytes": exchange.bytes * times, "sent": round(exchange.wire * times)}.items():
            exchanges[exchange.kind][key] += value
    least = {
        "arithmetic": totals.flops / chip.flops,
        "memory": totals.bytes / chip.bandwidth,
        "links": totals.wire / chip.links,
        "in_turn": totals.seconds,
    }
    hidden, exposed = max(least.values()), max(totals.seconds, least["memory"]) + least["links"]
    return {
        "chip": chip.name,
        "hbm": chip.hbm,
        "flops": {
            "model": model_flops,
            "program": totals.flops,
            "program, loops once": totals.flops_once,
            "kernels, loops once": totals.kernels_once,
        },
        "traffic": {"bytes": totals.bytes, "bytes, loops once": totals.bytes_once},
        "collectives": dict(exchanges),
        "loops_known": totals.exact,
        "seconds_at_least": least | {"exchange_hidden": hidden, "exchange_exposed": exposed},
        "utilisation_at_most": {
            key: model_flops / seconds / chip.flops for key, seconds in (("exchange_hidden", hidden), ("exchange_exposed", exposed))
        },
    }


def described(entry):
    """(label, value) lines of a record, for the terminal."""
    memory = {key: f"{size / GIB:.2f}" for key, size in entry["memory"].items()}
    least, utilisation = entry["seconds_at_least"], entry["utilisation_at_most"]
    yield "memory", f"{memory['peak']} GiB at the peak, {entry['hbm']} there are"
    yield (
        "",
        f"arguments {memory['argument']}, results {memory['output']}, of them in place {memory['alias']}, code {memory['generated_code']}",
    )
    yield "FLOPs", f"{entry['flops']['model']:.4g} of the model, {entry['flops']['program']:.4g} of the program"
    yield "memory traffic", f"{entry['traffic']['bytes'] / 1e9:,.1f} GB"
    for kind, sums in sorted(entry["collectives"].items()):
        yield kind, f"{sums['count']:,}, of {sums['bytes'] / 1e9:,.3f} GB together; sent {sums['sent'] / 1e9:,.3f} GB"
    yield (
        "seconds, at least",
        f"{least['exchange_hidden']:.4f} with every exchange behind other work, {least['exchange_exposed']:.4f} with none",
    )
    yield "", ", ".join(f"{name} {least[key]:.4f}" for key, name in TERMS.items())
    yield "utilisation, at most", f"{utilisation['exchange_hidden']:.1%}, {utilisation['exchange_exposed']:.1%}"
    yield (
        "XLA's own count",
        f"{entry['xla']['flops']:.4g} FLOPs, {entry['xla']['optimal_seconds']:.4g} s (each loop once: of no use)",
    )


class Work(NamedTuple):
    """Work of one device in one run of a program.

    Attributes:
      flops: FLOPs of matrix products.
      bytes: bytes read from and written to its memory.
      wire: bytes sent to other devices.
      flops_once, bytes_once: the same with the body of every loop counted once, as in XLA's cost analysis.
      kernels_once: the part of flops_once inside kernels, which XLA's cost analysis does not count.
      seconds: least time of the instructions one after the other; copies that XLA starts ahead are left out.
      exact: whether all loop lengths are known; loops of unknown length count once.
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
        steps[-1][0] += (flops := module.flops(run))  # an instruction inside a fusion counts for the fusion
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
    """Bytes of a shape's arrays that lie in the main memory; a layout with S(1) or above places an array elsewhere."""
    return sum(hlo.size([array]) for array in arrays if "S(" not in array[2])


def traffic(module, run):
    """Bytes that one instruction reads from and writes to the main memory.

    For an array that is only sliced, or updated in place, only the slice counts.
    """
    instruction, instructions = run.instruction, module.computations[run.computation]
    if instruction.opcode in NO_TRAFFIC or instruction.opcode.endswith("-done"):
        return 0
    results, operands = hlo.arrays(instruction.shape), [hlo.arrays(instructions[name].shape) for name in instruction.operands]
    if instruction.opcode == "fusion":
        body = instruction.called["calls"]
        return _written(module, body, results) + sum(_read(module, body, number, arrays) for number, arrays in enumerate(operands))
    if instruction.opcode in PARTS:
        part = (
            results[len(operands[0]) :][:1] if instruction.opcode == "slice-start" else results
        )  # ((operand), result, the device's own)
        return in_memory(part) + (hlo.size(part) if in_memory(operands[0]) else 0)
    if instruction.opcode == "dynamic-update-slice":
        return 2 * hlo.size(operands[1]) if in_memory(results) else 0
    if instruction.opcode.endswith("-start"):  # (operands, results, the device's own)
        return in_memory(results)
    return in_memory(results) + sum(in_memory(arrays) for arrays in operands)


def _read(module, body, number, arrays):
    """Bytes that a fusion reads from one of its operands."""
    whole = in_memory(arrays)
    parts = _parts(module, body, module.parameter(body, number)) if whole else 0
    return whole if parts is None else min(parts, whole)


def _parts(module, body, name):
    """Bytes of the slices read from a value, if only slices are read; None if it is read whole."""
    instructions, total = module.computations[body], 0
    users = [instruction for instruction in instructions.values() if name in instruction.operands]
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
    return None if instructions[name].root else total


def _only_view(module, fusion):
    return all(i.opcode in ("parameter", "bitcast") for i in module.computations[fusion.called["calls"]].values())


def _written(module, body, results):
    """Bytes that a fusion writes; for an update in place, only the update."""
    instructions, root, total = module.computations[body], module.root(body), 0
    ends = [instructions[name] for name in root.operands] if root.opcode == "tuple" else [root]
    for end, array in zip(ends, results):
        while end.opcode == "bitcast":
            end = instructions[end.operands[0]]
        if in_memory([array]):
            updated = end.opcode == "dynamic-update-slice"
            total += hlo.size(hlo.arrays(instructions[end.operands[1]].shape)) if updated else hlo.size([array])
    return total
