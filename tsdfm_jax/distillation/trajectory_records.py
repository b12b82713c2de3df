"""Records of trajectories: their fields, and the loop that makes them shard by shard."""

import functools
import itertools

import numpy as np

from tsdfm_jax.data import records
from tsdfm_jax.flow import chain
from tsdfm_jax.runtime import hosts, pipeline, signals


def schema(config, path, kind, candidates):
    """The fields of a record; S is its number of jumps."""
    length, token_type = config.data.length, "uint16" if path.vocab <= 65536 else "int32"
    s = config.trajectories.midpoints if kind == "whole" else len(chain.CHAINS[config.trajectories.chain].links)
    fields = {"energy": ("float32", (s, candidates)), "index": ("int16", (s,))}
    if kind == "whole":
        return records.Schema(fields=fields | {"states": (token_type, (s + 1, length))})
    if chain.CHAINS[config.trajectories.chain].weights is None:
        fields |= {"left": ("bool", (s, length))}
    scalars = {"t": ("float32", ()), "h": ("float32", ())}
    return records.Schema(
        fields=fields
        | scalars
        | {"states": (token_type, (s, length)), "x_1": (token_type, (length,)), "x_t": (token_type, (length,))}
    )


def make(start, write, missing, shards, c, bar):
    """Make and write the missing shards; returns `seconds`, `records_per_second` and `device_busy` of this session.

    `start(first)` dispatches the batch of records from `first` on, `write(shard, rows)` writes a shard's batches to disk. The
    next batches are dispatched ahead, and a shard is written while the next is computed. `seconds` counts from the first
    dispatch, after compilation, to the last shard written, pauses included. `device_busy` is a lower bound (pipeline.Busy).
    If nothing was missing, `seconds` is 0 and the other two are None.
    Raises signals.Interrupted when asked to stop; by then every whole shard is written.
    """
    busy, stop = pipeline.Busy(), signals.DelayedStop()
    firsts = (first for shard in missing for first in range(shard * c.shard, (shard + 1) * c.shard, c.batch))
    batches = pipeline.ahead(start, itertools.takewhile(lambda _: not stop(), firsts), busy)
    with signals.stopping(), pipeline.BackgroundWriter() as behind:
        for shard in missing:
            rows = []
            for row in itertools.islice(batches, c.shard // c.batch):
                rows.append(row)
                bar.advance(c.batch)
            if len(rows) < c.shard // c.batch:
                behind.settle()
                raise signals.Interrupted(
                    f"trajectories: stopped at shard {shard} of {shards}; the same command goes on from there"
                )
            behind.call(functools.partial(write, shard, rows) if hosts.writes(shard) else lambda: None)
        behind.settle()
    seconds, count = busy.seconds(), len(missing) * c.shard
    return {"seconds": seconds, "records_per_second": count / seconds if count else None, "device_busy": busy.share()}


def joined(rows):
    """The fields of several batches, each as one array; the batches are emptied meanwhile, so that memory holds no field twice."""
    return {name: np.concatenate([row.pop(name) for row in rows]) for name in list(rows[0])}
