"""Eight CPU devices, and JAX's strictest habits, for every test."""

import atexit
import os
import shutil
import tempfile

# Small programs, compiled once and run briefly: less optimising makes the suite faster.
CHEAP = " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8" + CHEAP
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# What one test, worker or child process has compiled, another need not compile again; gone when the tests are.
if "PYTEST_XDIST_WORKER" not in os.environ:
    CACHE = tempfile.mkdtemp(prefix="tsdfm-tests-")
    atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import jax  # noqa: E402  after the flags that it reads
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


def pytest_addoption(parser):
    parser.addoption("--write-laws", metavar="FILE", help="write what tests/laws measured to this JSON file (with -n 0)")


# The files that take longest, begun first, so that no worker is left alone with one at the end.
LONGEST = ("test_stages", "test_processes", "test_meshes", "test_invariance", "test_compass", "test_student", "test_robustness")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def pytest_configure(config):
    if config.getoption("--write-laws") and getattr(config.option, "numprocesses", None):
        raise pytest.UsageError("--write-laws gathers what one process measured: add -n 0")
