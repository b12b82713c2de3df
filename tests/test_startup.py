"""The cost of a start: no import before it is needed, no second compilation of the same program."""

import json
import logging
import os
import pathlib
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from tests import tiny
from tsdfm_jax.distillation import generation, student_training
from tsdfm_jax.runtime import compile_cache, mesh as meshes, metrics
from tsdfm_jax.workspace import jobs, trained

ROOT = pathlib.Path(__file__).parent.parent
HEAVY = {"jax", "flax", "optax", "orbax", "grain", "scipy", "sentencepiece", "tensorboardX", "matplotlib"}
TELL = "import atexit, sys; atexit.register(lambda: print('loaded', *sys.modules)); "
RUN = TELL + "import runpy; sys.argv = sys.argv[1:]; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
CONFIG = ("tsdfm_jax.main", "--config=tests/tiny.py")
COMMANDS = [f"launch.{file.stem}" for file in sorted((ROOT / "launch").glob("*.py")) if "command_line.start(" in file.read_text()]
REFUSED = """
from tests import tiny
from tsdfm_jax import main
for key, value in {"flow.source": "foo", "teacher.batch": 7, "model.heads": 5}.items():
    try:
        main.run(tiny.changed(**{key: value}), main.pathlib.Path("nowhere"))
    except ValueError as error:
        main.explain(error, main.pathlib.Path("nowhere"))
"""


def loaded(code, *args):
    """Run Python code; return (the heavy modules loaded at its end, its stderr)."""
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run([sys.executable, "-c", code, *args], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    names = done.stdout.splitlines()[-1].split()
    assert names[0] == "loaded", done.stderr
    return HEAVY & set(names), done.stderr


@pytest.mark.parametrize("command, said", [
    (["tsdfm_jax.main", "--help"], ""),
    ([*CONFIG, "--workdri=x"], "workdir"),
    ([*CONFIG, "--config.data.legnth=3"], "length"),
    ([*CONFIG, "--stage=techer"], "--stage=techer is not one of"),
    (["tsdfm_jax.main", "--config=tests/ntm_tiny.py", "--stage=teacher"], "--stage=teacher is not one of images, autoencoder"),
    *(([name, "--help"], "") for name in COMMANDS),
])  # fmt: skip
def test_help_and_mistypes_load_nothing_heavy(command, said):
    """Help, and an unknown flag, key or stage, import neither JAX nor any other slow module."""
    heavy, err = loaded(RUN, *command)
    assert not heavy and said in err and (not said or len(err.splitlines()) == 1), err


def test_a_wrong_value_loads_no_more_than_the_networks():
    """An invalid value is refused before the modules for data, checkpoints and plots are imported."""
    heavy, err = loaded(TELL + REFUSED)
    assert heavy <= {"jax", "flax", "optax"}
    assert [word in line for word, line in zip(("flow.source", "teacher.batch=7", "heads"), err.splitlines())] == [True] * 3, err


@pytest.fixture
def unset(monkeypatch):
    """JAX without any cache setting; the tests' own settings come back afterwards."""
    names = ["jax_compilation_cache_dir", *compile_cache.SETTINGS]
    before = {name: getattr(jax.config, name) for name in names}
    for name in names:
        monkeypatch.delenv(name.upper(), raising=False)
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def kept(unset, tmp_path, monkeypatch):
    """The folder of a separate cache that keeps every program."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    where = pathlib.Path(compile_cache.enable())
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return where


def test_where_programs_are_kept(unset, tmp_path, monkeypatch):
    """The cache is in the user's cache folder, by kind of machine, with a maximum size; settings of the user stay."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", "12345")
    size = jax.config.jax_compilation_cache_max_size
    where = tmp_path / "tsdfm_jax" / compile_cache.machine()
    where.mkdir(parents=True)
    for name in ("whole-cache", "whole-atime", "half-cache"):
        (where / name).write_bytes(b"x")
    assert compile_cache.enable() == compile_cache.enable() == jax.config.jax_compilation_cache_dir == str(where)
    assert jax.config.jax_compilation_cache_max_size == size
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0.1
    assert {file.name for file in where.iterdir()} - {compile_cache.LOCK} == {"whole-cache", "whole-atime"}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_MAX_SIZE")
    assert compile_cache.enable() and jax.config.jax_compilation_cache_max_size == 2 << 30
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compile_cache.directory() == tmp_path / ".cache/tsdfm_jax" / compile_cache.machine()


def test_what_the_user_has_set_is_left_alone(unset, tmp_path, monkeypatch):
    """Where the user sets a cache folder, or disables the cache, no setting changes and nothing is written."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    before = {name: getattr(jax.config, name) for name in compile_cache.SETTINGS}
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    assert compile_cache.enable() == str(tmp_path / "own")
    jax.config.update("jax_compilation_cache_dir", None)
    with monkeypatch.context() as now:
        now.setattr(
            compile_cache.jax, "config", types.SimpleNamespace(jax_compilation_cache_dir=None, jax_enable_compilation_cache=False)
        )
        assert compile_cache.enable() is None
    assert jax.config.jax_compilation_cache_dir is None and not list(tmp_path.iterdir())
    assert before == {name: getattr(jax.config, name) for name in compile_cache.SETTINGS}


def test_a_folder_that_cannot_be_written_costs_a_line(unset, tmp_path, monkeypatch, caplog):
    """A cache folder that cannot be written gives no cache, one warning that says what to do, and no error."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(logging.getLogger("tsdfm_jax"), "propagate", True)
    assert compile_cache.enable() is None and jax.config.jax_compilation_cache_dir is None
    (record,) = {record for record in caplog.records if record.name == compile_cache.LOG.name}  # pytest may record it twice
    assert "JAX_COMPILATION_CACHE_DIR" in record.getMessage() and "\n" not in record.getMessage()


def test_a_damaged_entry_is_compiled_again(kept):
    """A compiled program is read from disk the next time; a damaged entry costs a compilation, not the run."""
    counts, argument = [], jnp.arange(3.0)
    for damage in (False, False, True):
        for entry in kept.glob("*-cache") if damage else ():
            entry.write_bytes(b"no program")
        jax.clear_caches()
        with metrics.count_compilations() as counted:
            assert jax.jit(lambda x: jnp.sin(x) * 3)(argument).tolist() == pytest.approx([0.0, 2.524413, 2.727892])
        counts.append((counted.count, counted.from_cache))
    assert counts == [(1, 0), (1, 1), (1, 0)]


def programs(seed, round_number):
    """Lowered programs of a student and of its records, at a size that compiles fast."""
    shape = {"model.blocks": 1, "model.width": 8, "model.heads": 1, "data.length": 8, "seed": seed}
    batches = {"teacher.batch": 2, "trajectories.batch": 2, "student.batch": 2}
    config, mesh = tiny.changed(**shape, **batches), meshes.make_mesh(meshes.MeshConfig(), jax.devices()[:1])
    net, split = trained.network(config, 20, mesh, step_conditioned=False), meshes.batch_sharding(mesh)
    row = lambda kind, *of: jax.ShapeDtypeStruct((2, *of), kind, sharding=split)
    whole = generation.program(config, 20, mesh, "whole", "blind", net.apply, round_number)
    weights = {"generator": net.params, "compass": None}
    yield whole.lower(weights, jax.ShapeDtypeStruct((), np.int32), row(np.int32, 8))
    born = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding), net.params)
    learner = student_training.learner(config, 20, mesh, net, born, round_number)
    learner.create()
    yield learner.lower({"whole": {"states": row(np.uint16, config.trajectories.midpoints + 1, 8)}})


def test_seeds_and_rounds_share_their_programs(kept):
    """Another seed and another round use the same programs for a student's initialisation, its update and its records."""
    counts = []
    for seed, round_number in ((0, 0), (7, 1)):
        with metrics.count_compilations() as counted:
            for lowered in programs(seed, round_number):
                lowered.compile()
        counts.append((counted.count, counted.from_cache))
    assert counts[0][1] == 0 and counts[1][0] == counts[1][1] >= 3, counts


def test_a_stage_tells_what_compiling_cost(tmp_path):
    """A stage's metrics and log count all its compilations, those before an interruption included."""
    compile_one = lambda n: jax.jit(lambda x: x * n)(jnp.arange(4))
    with pytest.raises(KeyboardInterrupt), jobs.job(tiny.get_config(), tmp_path, "tokenizer") as job:
        compile_one(2)
        raise KeyboardInterrupt
    before = json.loads((job.directory / "seconds.json").read_text())
    with jobs.job(tiny.get_config(), tmp_path, "tokenizer") as job:
        compile_one(3)
        job.finish({"made": 1, "hash": "0"})
    figures = json.loads((job.directory / "done.json").read_text())["figures"]
    assert before["compilations"] >= 1 and figures["compilations"] == before["compilations"] + 1
    assert before["compile_seconds"] < figures["compile_seconds"] < figures["seconds"] and figures["made"] == 1
    said = f"compiling {figures['compilations']} programs, {figures['from_cache']} of them from the cache"
    assert said in (tmp_path / "log.txt").read_text()
