"""glibc's allocator keeps freed memory on a CPU, unless the user has set it otherwise."""

import platform
import subprocess
import sys

import pytest

from tsdfm_jax.runtime import memory

FAULTS = """
import resource
import numpy as np
from tsdfm_jax.runtime import memory
told = memory.keep()
count = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for turn in range(6):
    before = count()
    np.zeros(10_000_000, np.float32).fill(1.0)
print(told, count() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize(
    "env, told", [({"JAX_PLATFORMS": "cpu"}, True), ({"JAX_PLATFORMS": "cpu", "MALLOC_ARENA_MAX": "2"}, False)]
)
def test_freed_memory_is_taken_again(env, told):
    """Forty megabytes freed and allocated again cause at most 4 page faults, against thousands (tens, with huge pages)."""
    out = subprocess.run(
        [sys.executable, "-c", FAULTS], env=env, capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert out[0] == str(told)
    assert int(out[1]) <= 4 if told else int(out[1]) >= 10


@pytest.mark.parametrize(
    "platforms, plugins, told",
    [("", False, True), ("cpu", True, True), ("", True, False), ("cuda,cpu", False, False), ("tpu", True, False)],
)
def test_it_is_for_a_cpu_alone(platforms, plugins, told, monkeypatch):
    """Nothing is set with another platform, or with a JAX plugin installed and JAX_PLATFORMS unset."""
    asked = []
    monkeypatch.setattr(
        memory.ctypes, "CDLL", lambda name: type("C", (), {"mallopt": lambda self, *pair: asked.append(pair) or 1})()
    )
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(memory.importlib.util, "find_spec", lambda name: plugins or None)
    monkeypatch.setattr(memory.importlib.metadata, "entry_points", lambda group: ())
    monkeypatch.setattr(memory.os, "environ", {"JAX_PLATFORMS": platforms} if platforms else {})
    assert memory.keep() == told
    assert dict(asked) == (memory.OPTIONS if told else {})
