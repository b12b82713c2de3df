"""Several processes of one run: what they agree on, and what only the first of them does."""

import contextlib
import functools
import itertools
import logging
import os
import pickle
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

PATIENCE = 7 * 24 * 3600  # seconds to wait for process 0's own work, such as tokenising a corpus; a dead process is noticed earlier
SECONDS_TO_LEAVE = 5
_barrier_numbers = itertools.count()  # barrier names must be new, and the same in every process


class OtherProcessFailed(RuntimeError):
    """Another process of the run failed; its own output says how."""


def is_first():
    """Whether this is process 0, which does the work that only one process may do."""
    return jax.process_index() == 0


def writes(number):
    """Whether this process writes file `number`: the processes take turns."""
    return number % jax.process_count() == jax.process_index()


def start(coordinator, processes, process, heartbeat):
    """Join the other processes of a run; JAX detects values that are empty or -1 from the cluster.

    A process that is silent for `heartbeat` seconds counts as dead, and JAX ends the others. Raises ValueError if the
    processes do not find each other.
    """
    options = {"coordinator_address": coordinator or None, "num_processes": processes, "process_id": process}
    options = {name: value for name, value in options.items() if value not in (None, -1)}
    try:
        jax.distributed.initialize(**options, heartbeat_timeout_seconds=heartbeat)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"--multihost: the processes did not find each other ({str(error).splitlines()[0]}): "
            f"give --coordinator=host:port --processes=N --process=I to each"
        ) from error


def leave(code):
    """End this process with an exit code; after an error it waits SECONDS_TO_LEAVE at most for the others to end too."""
    sys.stdout.flush(), sys.stderr.flush(), logging.shutdown()
    if code == 0:
        sys.exit(0)
    # A process that fails alone must not wait long for the others: they wait for it in a collective, and notice the broken
    # connection only when it ends.
    with contextlib.suppress(Exception):
        if jax.distributed.is_initialized():
            wait(SECONDS_TO_LEAVE)
            sys.exit(code)
    os._exit(code)


def wait(seconds=PATIENCE):
    """Return when every process has reached this call."""
    if jax.process_count() > 1:
        from orbax.checkpoint import multihost as orbax_multihost  # imported late: a single process does not need it

        orbax_multihost.sync_global_processes(f"tsdfm {next(_barrier_numbers)}", timeout=seconds)


def first(call):
    """Run `call()` in process 0 alone; every process returns its result or raises its error.

    The others wait. The result must be picklable.
    """
    if jax.process_count() == 1:
        return call()
    outcome = (None, None)
    if is_first():
        try:
            outcome = (None, call())
        except Exception as error:
            outcome = (error, None)
    wait()  # not in the broadcast: a collective that waits for long counts as hanging
    error, value = pickle.loads(_broadcast(pickle.dumps(outcome)))
    if error is not None:
        raise error
    return value


def together(call):
    """Run `call()` in every process; raises OtherProcessFailed if it succeeded here and failed in another process."""
    if jax.process_count() == 1:
        return call()
    try:
        value = call()
    except Exception:
        any_of(True)
        raise
    if any_of(False):
        raise OtherProcessFailed("another process of this run failed: its own output says how; the same command goes on")
    return value


def any_of(flag):
    """Whether the flag is set in any process: the same answer in each. Every process must call it at the same points."""
    if jax.process_count() == 1:
        return bool(flag)
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def start_any_of(flag):
    """Begin `any_of(flag)` without waiting; `finish_any_of` of the result gives the answer.

    `any_of` waits for all work on the devices, `finish_any_of` only for work dispatched before `start_any_of`. Every process
    must call both at the same points.
    """
    devices = np.array(jax.devices())
    sharding = NamedSharding(jax.sharding.Mesh(devices, ("all",)), PartitionSpec("all"))
    return start_gather(jax.make_array_from_callback(devices.shape, sharding, lambda index: np.full(1, flag)))


def finish_any_of(flags):
    """The answer to a `start_any_of`: the same in each process."""
    return bool(np.any(gather(flags)))


def start_gather(tree):
    """Begin to copy a tree of arrays to every process and into host memory, after the work dispatched so far.

    `gather` of the result then does not wait for work dispatched later.
    """
    return jax.tree.map(_start_copy, tree)


def _start_copy(leaf):
    if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        leaf = _replicate(NamedSharding(leaf.sharding.mesh, PartitionSpec()))(leaf)
    leaf.copy_to_host_async()
    return leaf


@functools.cache
def _replicate(sharding):
    return jax.jit(lambda x: x, out_shardings=sharding)


def gather(tree):
    """A tree of arrays, however they are split over devices and processes, as numpy arrays in every process."""
    return jax.tree.map(_gather_leaf, tree)


def _gather_leaf(leaf):
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(jax.device_get(leaf))
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))


def _broadcast(data):
    """Process 0's bytes, in every process."""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    padded = np.frombuffer(data[:size].ljust(size, b"\0"), np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(padded)).astype(np.uint8).tobytes()
