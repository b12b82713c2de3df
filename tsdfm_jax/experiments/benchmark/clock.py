"""Timing for the benchmark: compile programs, read XLA's cost and memory analysis, and run them in turn."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from tsdfm_jax.experiments.planning import hlo


class Program(NamedTuple):
    """A program to time.

    Attributes:
      name: its name in the tables.
      run: does one run; the clock waits for its result.
      lower: returns the lowering to compile and analyse; None if it is not a device program.
      bare: {name of another program: number of its runs in one run of this one}; empty if it has no baseline.
      tokens: tokens that one run reads or writes.
      flops: FLOPs of its matrix products, computed from the shapes; 0 where this does not apply.
      extra_metrics: returns further metrics of the last run, {name: number}.
    """

    name: str
    run: Callable[[], Any]
    lower: Callable[[], jax.stages.Lowered] | None = None
    bare: dict[str, float] = {}
    tokens: int = 0
    flops: float = 0.0
    extra_metrics: Callable[[], dict] = dict


def timed(programs, rounds):
    """Run the programs in turn, `rounds` times; returns {name: metrics}.

    Metrics: `seconds`, and `over_bare`, the ratio to the bare passes of the same round, each as median, min and max; `symbols`
    (tokens of one run) and `flops`; for compiled programs also `xla_flops` (matrix products, times their loop counts), the
    bytes of XLA's memory analysis, `compile_seconds`, and `again_seconds`, a second start: tracing, and reading the program
    from the cache on disk.
    """
    rows = {program.name: {"symbols": program.tokens, "flops": program.flops} | compile_stats(program) for program in programs}
    first_seconds = {program.name: seconds(program.run) for program in programs}
    run_seconds = {program.name: [] for program in programs}
    for _ in range(rounds):
        for program in programs:
            run_seconds[program.name].append(seconds(program.run))
    for program in programs:
        row, own_seconds = rows[program.name], run_seconds[program.name]
        row |= {"seconds": spread(own_seconds)} | program.extra_metrics()
        if program.bare:
            parts = [sum(times * run_seconds[name][i] for name, times in program.bare.items()) for i in range(rounds)]
            row |= {"bare": program.bare, "over_bare": spread([a / b for a, b in zip(own_seconds, parts)])}
        if program.lower is not None:
            row["again_seconds"] = max(first_seconds[program.name] - row["seconds"]["median"], 0.0)
    return rows


def spread(values):
    """Median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def compile_stats(program):
    """Compile a program: its compile time, and XLA's FLOPs and memory sizes; {} without `lower`."""
    if program.lower is None:
        return {}
    start = time.perf_counter()
    compiled = program.lower().compile()
    compile_seconds, memory = time.perf_counter() - start, compiled.memory_analysis()
    sizes = {f"{part}_bytes": getattr(memory, f"{part}_size_in_bytes") for part in ("argument", "output", "alias", "temp")}
    return {"compile_seconds": compile_seconds, "xla_flops": matmul_flops(compiled)} | sizes


def matmul_flops(compiled):
    """FLOPs of a compiled program's matrix products; XLA's own count, each loop once, where they are library calls."""
    module = hlo.Module(compiled.as_text())
    return sum((run.times or 1) * module.flops(run) for run in module.runs()) or compiled.cost_analysis().get("flops", 0.0)


def seconds(run):
    """Wall-clock seconds of one run."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start
