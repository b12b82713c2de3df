"""Text from a trained network, batch by batch, in calls short enough to be stopped between."""

import time

import jax
import numpy as np

from tsdfm_jax import workspace
from tsdfm_jax.flow import sampler
from tsdfm_jax.runtime import hosts, mesh as meshes, signals

STEPS_A_CALL = 64


class Sampler:
    """Draws from networks of one architecture: one compiled program, `advance`, for any number of steps and any weights."""

    def __init__(self, apply, path, mesh, length, batch, cfg):
        self._mesh, self._path, self._length, self._batch = mesh, path, length, batch
        split = meshes.batch_sharding(mesh)

        def born(seed, first, given_BL, fixed_BL):
            return sampler.start(workspace.sample_keys(seed, first, batch), path, given_BL, fixed_BL)

        def advance(params, key_B, x_BL, first, last, steps, given_BL, fixed_BL):
            posterior = lambda x_BL, t_B, h_B: apply(params, x_BL, t_B, h_B)
            return sampler.advance(key_B, path, posterior, x_BL, first, last, steps, given_BL, fixed_BL, cfg)

        scalars = meshes.replicated(mesh)
        self._born = jax.jit(born, in_shardings=(scalars, scalars, split, split), out_shardings=split)
        shardings = (None, split, split, scalars, scalars, scalars, split, split)
        self.advance = meshes.jit(mesh, advance, in_shardings=shardings, out_shardings=split, donate_argnums=2)

    def __call__(self, params, seed, number, steps, *, given_L=None, advanced=lambda jumps: None):
        """`number` texts [N, L] int32 and the seconds they took, the compilation left out.

        Text i is a function of (seed, i): not of `number`, the batch or the devices. `given_L` holds symbols that stay
        as they are, -1 where free. `advanced` hears of finished jumps. Raises signals.Interrupted when asked to stop.
        """
        given_L = np.full(self._length, -1, np.int32) if given_L is None else given_L
        given_BL = np.broadcast_to(np.maximum(given_L, 0), (self._batch, self._length)).astype(np.int32)
        fixed_BL = np.broadcast_to(given_L >= 0, (self._batch, self._length))
        given_BL, fixed_BL = meshes.put_whole(self._mesh, (given_BL, fixed_BL))
        self._walk(params, seed, 0, 1, given_BL, fixed_BL, lambda jumps: None)  # compiles
        begun, found = time.perf_counter(), []
        for first in range(0, number, self._batch):
            found.append(self._walk(params, seed, first, steps, given_BL, fixed_BL, advanced))
        return np.concatenate(found)[:number], time.perf_counter() - begun

    def _walk(self, params, seed, first, steps, given_BL, fixed_BL, advanced):
        x_BL, key_B = self._born(np.uint32(seed), np.int32(first), given_BL, fixed_BL)
        for i in range(0, steps, STEPS_A_CALL):
            last = min(i + STEPS_A_CALL, steps)
            x_BL = self.advance(params, key_B, x_BL, np.int32(i), np.int32(last), np.int32(steps), given_BL, fixed_BL)
            jax.block_until_ready(x_BL)
            if signals.stop_agreed():
                raise signals.Interrupted("sampling: stopped; the same command goes on from there")
            advanced(last - i)
        return hosts.gather(x_BL)
