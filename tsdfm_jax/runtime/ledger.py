"""The record of a training run: losses, times, recompilations; kept across restarts."""

import contextlib
import copy
import dataclasses
import logging
import time

import jax
import numpy as np

from tsdfm_jax.runtime import curves, mesh as mesh_lib, metrics as metrics_lib
from tsdfm_jax.storage import atomic

LOG = logging.getLogger(__name__)


class Diverged(ValueError):
    """The loss or its gradient is not finite."""


def _empty_record():
    return {
        "seconds": 0.0,
        "seconds_to_first_step": None,
        "steady_seconds": 0.0,  # without first calls, evaluations and saves
        "steady_steps": 0,
        "recompilations": 0,
        "final_loss": None,
        "curve": [],
        "evaluations": [],
    }


@dataclasses.dataclass(kw_only=True)
class Ledger:
    """The record of one `loop.fit`; `meta()` goes into each checkpoint, `resume()` restores it."""

    name: str
    steps: int
    unit: str  # what the rate counts: tokens or images
    units_per_step: int
    log_every: int
    curve: curves.Curve | None = None  # where the numbers of updates and evaluations go too
    bar: object = None
    done: int = 0
    record: dict = dataclasses.field(default_factory=_empty_record)
    _pending: dict | None = None  # metrics of update number `done`, still on the device
    _has_stepped: bool = False  # whether this process has called the step before
    _started: float = dataclasses.field(default_factory=time.perf_counter)
    _compiled: metrics_lib.Compiled = dataclasses.field(default_factory=metrics_lib.compiled)  # before this run
    _clock_start: float | None = None  # when the last update was settled, or `restart_clock` called

    def resume(self, meta):
        """Continue the record of a checkpoint; raises ValueError if it is past the steps to train."""
        self.done, self.record = meta["done"], meta["record"]
        if self.done > self.steps:
            raise ValueError(
                f"{self.name}: the newest checkpoint is at step {self.done}, past the {self.steps} of the config: "
                f"use another --workdir, or delete that checkpoint"
            )
        LOG.info("%s: going on from step %d of %d", self.name, self.done, self.steps)

    def meta(self):
        """What to save beside the state, as JSON; a copy all through, for it is written while training goes on."""
        return {"done": self.done, "record": {**copy.deepcopy(self.record), "seconds": self._seconds()}}

    def update(self, step, state, batch, mesh):
        """Dispatch one update, then settle the one before it, so that the device has work queued while the host waits."""
        # Tracing may transfer constants; any later implicit transfer is a bug that costs time.
        with jax.transfer_guard("disallow") if self._has_stepped else contextlib.nullcontext():
            rows = mesh_lib.put_batch(mesh, batch)
            with metrics_lib.count_compilations() as compiled:
                state, values = step(state, rows)
        if self._has_stepped and compiled.count:
            self.record["recompilations"] += compiled.count
            LOG.warning("%s: step %d compiled again: a shape, type or sharding changed", self.name, self.done + 1)
        self._has_stepped = True
        self.settle()
        self.done, self._pending = self.done + 1, values
        return state

    def settle(self):
        """Wait for the newest update's metrics and record them; raises Diverged if they are not finite."""
        if self._pending is None:
            return
        values = {name: float(value) for name, value in jax.device_get(self._pending).items()}
        self._pending = None
        self._record_time()
        loss, norm = values["loss"], values.get("grad_norm", float("nan"))
        if not values.pop("finite", np.isfinite(loss)):
            raise Diverged(
                f"{self.name}: loss is {loss:g} with gradient norm {norm:g} at step {self.done}: lower the learning "
                f"rate or lengthen the warm-up; checkpoints from before are sound"
            )
        self.record["final_loss"] = loss
        if self.done in (1, self.steps) or self.done % self.log_every == 0:
            self.record["curve"].append([self.done, loss])
            self._write(values)
        if self.bar is not None:
            self.bar.advance(note=f"loss {loss:.4f}")

    def save(self, checkpoints, state, batches):
        """Save a checkpoint of the newest update, with the record and the curve up to it."""
        self.settle()
        if self.curve is not None:
            self.curve.flush()
        checkpoints.save(self.done, state, batches, self.meta())

    def evaluate(self, evaluate, state):
        """Call `evaluate(state)` without counting it in the training rate, and keep its numbers."""
        self.settle()
        numbers = {name: float(value) for name, value in evaluate(state).items()}
        self.record["evaluations"].append([self.done, atomic.finite(numbers)])
        self._write(numbers)
        text = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        LOG.info("%s step %d: %s", self.name, self.done, text)
        self.restart_clock()

    def has_evaluated(self):
        """Whether the record has the evaluation of the newest update."""
        return any(step == self.done for step, _ in self.record["evaluations"])

    def restart_clock(self):
        """Leave what happened since the last update out of the training rate."""
        self._clock_start = time.perf_counter()

    def summary(self):
        """The stage's numbers, over all restarts.

        seconds (wall clock), steps, tokens_per_second or images_per_second (after the first call, without evaluations and saves),
        seconds_to_first_step, recompilations, final_loss, curve [[step, loss], …], evaluations [[step, {…}], …].
        """
        record = dict(self.record)
        steady_steps, seconds = record.pop("steady_steps"), record.pop("steady_seconds")
        steps, seconds = (steady_steps, seconds) if steady_steps else (self.done, self._seconds())
        rate = self.units_per_step * steps / max(seconds, 1e-9)
        return {**record, "seconds": self._seconds(), "steps": self.done, f"{self.unit}_per_second": rate}

    def _write(self, numbers):
        if self.curve is not None:
            self.curve.scalars(self.done, numbers)

    def _seconds(self):
        return self.record["seconds"] + time.perf_counter() - self._started

    def _record_time(self):
        now = time.perf_counter()
        if self.record["seconds_to_first_step"] is None:
            self.record["seconds_to_first_step"] = now - self._started
        if self._clock_start is None:
            compiled = metrics_lib.compiled() - self._compiled
            LOG.info("%s: first step after %.1f s, of which %s", self.name, now - self._started, compiled)
        else:
            self.record["steady_seconds"] += now - self._clock_start
            self.record["steady_steps"] += 1
        self._clock_start = now
