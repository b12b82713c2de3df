"""Every test runs on eight CPU devices with JAX's strict checks."""

import atexit
import fcntl
import os
import shutil
import tempfile

from tests import CHEAP

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8" + CHEAP
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Tests, workers and child processes share one compilation cache, which is deleted at the end.
if "PYTEST_XDIST_WORKER" not in os.environ:
    CACHE = tempfile.mkdtemp(prefix="tsdfm-tests-")
    atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

from tsdfm_jax.runtime import memory  # noqa: E402

memory.keep()  # as a run does: before JAX starts threads

import jax  # noqa: E402  JAX reads the flags set above
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


def pytest_addoption(parser):
    parser.addoption("--write-laws", metavar="FILE", help="write what tests/laws measured to this JSON file (with -n 0)")


# The slowest files start first, so that no worker runs one alone at the end.
LONGEST = (
    "test_histories",
    "test_stages",
    "test_processes",
    "test_meshes",
    "test_invariance",
    "test_compass",
    "test_student",
    "test_robustness",
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def made_once(factory, name, mark, make):
    """A copy of the work directory that `make(directory)` leaves; the first worker that needs it makes it for all."""
    base = factory.getbasetemp()
    made = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"made_{name}"
    with open(f"{made}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made / mark).exists():
            make(made)
    return shutil.copytree(made, base / name)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A work directory in which every stage of the tiny config has run, on eight devices; each worker has its own copy."""
    from tests import tiny
    from tsdfm_jax import main

    return made_once(tmp_path_factory, "finished", "samples/sample.jsonl", lambda made: main.run(tiny.get_config(), made))


NTM_STAGES = ("images", "flow_matching", "ntm", "denoiser", "sample")


@pytest.fixture(scope="session")
def finished_ntm(tmp_path_factory):
    """A work directory in which the tiny config of NTM has run on eight devices, but for evaluation and report."""
    from tests import ntm_tiny
    from tsdfm_jax import main

    make = lambda made: main.run(ntm_tiny.get_config(), made, NTM_STAGES)
    return made_once(tmp_path_factory, "finished_ntm", "samples/sample.json", make)


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of `finished` that a test may damage."""
    return shutil.copytree(finished, tmp_path / "run")


def pytest_configure(config):
    if config.getoption("--write-laws") and getattr(config.option, "numprocesses", None):
        raise pytest.UsageError("--write-laws gathers what one process measured: add -n 0")
