"""The clock of the benchmark: programs compiled, weighed, and run in turn."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from tsdfm_jax.experiments.planning import hlo


class Program(NamedTuple):
    """Something to be timed.

    Attributes:
      name: what it is.
      run: one run of it; what it returns is waited for.
      lower: its lowering, to be compiled and weighed; None for what is no program of a device.
      bare: {name of another program: how many runs of it this one is made of}; empty for what is compared with nothing.
      tokens: that one run reads or writes.
      flops: of its matrix products, by arithmetic on the shapes; 0 where that says nothing.
      also: further figures of the last run, {name: number}.
    """

    name: str
    run: Callable[[], Any]
    lower: Callable[[], jax.stages.Lowered] | None = None
    bare: dict[str, float] = {}
    tokens: int = 0
    flops: float = 0.0
    also: Callable[[], dict] = dict


def timed(programs, rounds):
    """{name: figures} of programs that are run in turn, `rounds` times.

    Figures: seconds, and `over_bare`, the ratio to the bare passes of the same round, each as median, min and max; tokens,
    flops; and of what was compiled xla_flops (of matrix products, each as often as its loops run), the bytes of XLA's memory
    analysis, compile_seconds, and again_seconds, a second start: tracing, and the program read from the cache on disk.
    """
    found = {program.name: {"symbols": program.tokens, "flops": program.flops} | weighed(program) for program in programs}
    first = {program.name: seconds(program.run) for program in programs}
    taken = {program.name: [] for program in programs}
    for _ in range(rounds):
        for program in programs:
            taken[program.name].append(seconds(program.run))
    for program in programs:
        row, mine = found[program.name], taken[program.name]
        row |= {"seconds": spread(mine)} | program.also()
        if program.bare:
            parts = [sum(times * taken[name][i] for name, times in program.bare.items()) for i in range(rounds)]
            row |= {"bare": program.bare, "over_bare": spread([a / b for a, b in zip(mine, parts)])}
        if program.lower is not None:
            row["again_seconds"] = max(first[program.name] - row["seconds"]["median"], 0.0)
    return found


def spread(values):
    """Median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def weighed(program):
    """What compiling a program takes, and what XLA says of it."""
    if program.lower is None:
        return {}
    begun = time.perf_counter()
    compiled = program.lower().compile()
    taken, memory = time.perf_counter() - begun, compiled.memory_analysis()
    sizes = {f"{part}_bytes": getattr(memory, f"{part}_size_in_bytes") for part in ("argument", "output", "alias", "temp")}
    return {"compile_seconds": taken, "xla_flops": multiplied(compiled)} | sizes


def multiplied(compiled):
    """FLOPs of a compiled program's matrix products; XLA's own count, loops once, where they are calls of a library."""
    module = hlo.Module(compiled.as_text())
    return sum((run.times or 1) * module.flops(run) for run in module.runs()) or compiled.cost_analysis().get("flops", 0.0)


def seconds(run):
    """What one run takes, on the clock on the wall."""
    begun = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - begun
