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

PATIENCE = 7 * 24 * 3600  # seconds to wait for process 0's own work, such as tokenising a corpus; a dead one is noticed
SECONDS_TO_LEAVE = 5
_numbers = itertools.count()  # barriers have names, which must be new and the same on every process


class Elsewhere(RuntimeError):
    """Another process of the run failed; its own output says how."""


def is_first():
    """Whether this is process 0, the one that keeps the books."""
    return jax.process_index() == 0


def takes(number):
    """Whether this process is the one that writes file `number`: they take turns."""
    return number % jax.process_count() == jax.process_index()


def start(coordinator, processes, process, heartbeat):
    """Join the other processes of a run; empty or negative values are left to what the cluster tells of itself.

    A process that is silent for `heartbeat` seconds is taken for dead, and JAX ends the others. Raises ValueError where
    neither the flags nor the cluster say who the others are.
    """
    given = {"coordinator_address": coordinator or None, "num_processes": processes, "process_id": process}
    given = {name: value for name, value in given.items() if value not in (None, -1)}
    try:
        jax.distributed.initialize(**given, heartbeat_timeout_seconds=heartbeat)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"--multihost: the processes did not find each other ({str(error).splitlines()[0]}): "
            f"give --coordinator=host:port --processes=N --process=I to each"
        ) from error


def leave(code):
    """End this process with an exit code: together with the others where they end too, else at once."""
    sys.stdout.flush(), sys.stderr.flush(), logging.shutdown()
    if code == 0:
        sys.exit(0)
    # A process that fails alone must not wait for the others in the way out: they wait for it in a collective, and are
    # told of a broken connection by nothing but its end.
    with contextlib.suppress(Exception):
        if jax.distributed.is_initialized():
            wait(SECONDS_TO_LEAVE)
            sys.exit(code)
    os._exit(code)


def wait(seconds=PATIENCE):
    """Return when every process has come here."""
    if jax.process_count() > 1:
        from orbax.checkpoint import multihost as orbax_multihost  # late: a lone process should not wait for it

        orbax_multihost.sync_global_processes(f"tsdfm {next(_numbers)}", timeout=seconds)


def first(call):
    """What `call()` returns in process 0, in every process; what it raises there is raised in every one.

    Only process 0 calls it, the others wait. Its result must be picklable.
    """
    if jax.process_count() == 1:
        return call()
    outcome = (None, None)
    if is_first():
        try:
            outcome = (None, call())
        except Exception as error:
            outcome = (error, None)
    wait()  # not in the broadcast: a collective that waits for long is taken for one that hangs
    error, value = pickle.loads(_broadcast(pickle.dumps(outcome)))
    if error is not None:
        raise error
    return value


def together(call):
    """`call()` of this process; raises Elsewhere where it went well here, and not in another process."""
    if jax.process_count() == 1:
        return call()
    try:
        value = call()
    except Exception:
        any_of(True)
        raise
    if any_of(False):
        raise Elsewhere("another process of this run failed: its own output says how; the same command goes on")
    return value


def any_of(flag):
    """Whether the flag is set in any process: the same answer in each. Every process must ask at the same points."""
    if jax.process_count() == 1:
        return bool(flag)
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def asking(flag):
    """Begin to ask `any_of(flag)`, which waits for all that the devices have to do before; `heard` of what it returns does not.

    It waits for what was dispatched before the asking alone. Every process must ask, and hear, at the same points.
    """
    devices = np.array(jax.devices())
    split = NamedSharding(jax.sharding.Mesh(devices, ("all",)), PartitionSpec("all"))
    return spread(jax.make_array_from_callback(devices.shape, split, lambda index: np.full(1, flag)))


def heard(asked):
    """The answer to what `asking` has begun: the same in each process."""
    return bool(np.any(gather(asked)))


def spread(tree):
    """Begin to bring a tree of arrays to every process and into host memory, behind what is dispatched by now.

    `gather` of what it returns then waits for nothing that is dispatched later.
    """
    return jax.tree.map(_begun, tree)


def _begun(leaf):
    if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        leaf = _replicate(NamedSharding(leaf.sharding.mesh, PartitionSpec()))(leaf)
    leaf.copy_to_host_async()
    return leaf


@functools.cache
def _replicate(everywhere):
    return jax.jit(lambda x: x, out_shardings=everywhere)


def gather(tree):
    """A tree of arrays, however they are split over devices and processes, as numpy arrays in every process."""
    return jax.tree.map(_whole, tree)


def _whole(leaf):
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(jax.device_get(leaf))
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))


def _broadcast(data):
    """Process 0's bytes, in every process."""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    padded = np.frombuffer(data[:size].ljust(size, b"\0"), np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(padded)).astype(np.uint8).tobytes()
