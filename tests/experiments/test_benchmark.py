"""The benchmark: its clock's arithmetic, its groups, and one-line errors on wrong flags."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from tests import tiny
from tsdfm_jax.config import methods, settings
from tsdfm_jax.experiments.benchmark import (
    clock as benchmark_clock,
    command as benchmark,
    parts as benchmark_parts,
    programs as benchmark_programs,
)
from tsdfm_jax.experiments.planning import aot_compile


def test_ratios_are_of_one_round(monkeypatch):
    """`over_bare` divides by the passes' time in the same round; its median, min and max are of the ratios."""
    taken = iter([9.0, 9.0, 1.0, 4.0, 2.0, 6.0, 4.0, 20.0])  # one warm-up each, then three rounds
    monkeypatch.setattr(benchmark_clock, "seconds", lambda run: next(taken))
    bare = benchmark_clock.Program("bare", lambda: None)
    whole = benchmark_clock.Program("whole", lambda: None, bare={"bare": 2}, tokens=3, extra_metrics=lambda: {"busy": 0.5})
    rows = benchmark_clock.timed([bare, whole], 3)
    assert rows["whole"]["over_bare"] == {"median": 2.0, "min": 1.5, "max": 2.5}
    assert rows["whole"]["seconds"] == {"median": 6.0, "min": 4.0, "max": 20.0} and rows["whole"]["busy"] == 0.5
    assert "over_bare" not in rows["bare"] and list(benchmark.cells(rows["whole"]))[:4] == [
        "6,000.0",
        "4,000.0 to 20,000.0",
        "0",
        "2.000",
    ]


def test_products_are_counted_as_often_as_loops_run():
    """The table's FLOPs count a loop's body as often as it runs; XLA counts it once."""
    looped = lambda x, w: jax.lax.fori_loop(0, 5, lambda _, x: x @ w, x)
    compiled = jax.jit(looped).lower(jnp.ones((4, 8)), jnp.ones((8, 8))).compile()
    assert benchmark_clock.matmul_flops(compiled) == 5 * 2 * 4 * 8 * 8


@pytest.mark.parametrize("longest, done", [(1e6, 1024), (1e-9, 64)])
def test_the_sampler_is_timed_beside_its_passes(longest, done, monkeypatch):
    """A sampler of n steps is compared with n passes; a slow one stops after whole calls, and its name says so."""
    monkeypatch.setattr(benchmark_programs, "STEPS", (1024,))
    config = aot_compile.with_settings(tiny.get_config(), {"data.length": 16})
    shape = benchmark_programs.Shape(config=config, mesh=settings.mesh(config), batch=8, longest=longest)
    bare, writing = benchmark_parts.GROUPS["sampler"](shape)
    assert writing.bare == {bare.name: done} and writing.flops == done * bare.flops
    assert writing.name == ("sampler, 1,024 steps" if done == 1024 else "sampler, the first 64 of 1,024 steps")
    if done == 64:
        text = writing.run()
        assert text.shape == (8, 16) and int(text.max()) < shape.text_vocab and text.any()


def test_groups_and_flags():
    """Every group has its function; an unknown group, a missing file and a stray argument each give a one-line error."""
    for method, names in benchmark.GROUPS.items():
        assert set(names) == set(methods.METHODS[method].load("benchmark").GROUPS)
    for given, said in (
        (["--only=sampler,foo"], "--only=foo"),
        (["--config=configs/none.py"], "configs/none.py"),
        (["foo"], "foo"),
    ):
        found = subprocess.run([sys.executable, "-m", "launch.benchmark", *given], capture_output=True, text=True)
        assert found.returncode == 2 and said in found.stderr and len(found.stderr.splitlines()) == 1, found.stderr


def test_the_start_is_timed(tmp_path):
    """The command prints a table, and writes its numbers by config and device to the file."""
    command = [
        "-m",
        "launch.benchmark",
        "--config=configs/quickstart.py",
        "--only=start",
        "--rounds=1",
        f"--json={tmp_path}/b.json",
    ]
    found = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})
    assert found.returncode == 0 and "--help" in found.stdout, found.stderr
    ((name, entry),) = json.loads((tmp_path / "b.json").read_text()).items()
    assert name.startswith("quickstart ") and entry["groups"]["start"]["--help"]["seconds"]["median"] > 0
    assert entry["sizes"]["vocab"] == 3072 and entry["command"].startswith("python -m launch.benchmark")


IN_A_PROCESS = """
from tests import tiny
from tsdfm_jax.experiments.benchmark import command
done = []
command.memory.keep = lambda: done.append("kept")
command.measure = lambda *_: done.append("measured")
command.configs_to_time = lambda argv: [("configs/ntm_base.py", tiny.get_config())]
command.define()
command.flags.FLAGS(["benchmark"])
command.main(["benchmark"])
print(*done)
"""


def test_memory_is_kept_as_in_a_run():
    """Programs are timed in a process that keeps freed memory, as a run's does; without it a small update takes a fifth longer."""
    # A process of its own: the flags of two commands do not fit into one.
    done = subprocess.run([sys.executable, "-c", IN_A_PROCESS], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["kept", "measured"], done.stderr
