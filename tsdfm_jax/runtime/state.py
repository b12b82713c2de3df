"""Training state: the optimiser and its schedule, sharded initialisation, the moving average, one jitted update."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from tsdfm_jax.runtime import mesh as mesh_lib

# Shape of the learning rate after the warm-up: progress in [0, 1] -> share of the way from the peak down to the end.
SCHEDULES = {
    "constant": lambda progress: jnp.zeros_like(progress),
    "linear": lambda progress: progress,
    "cosine": lambda progress: 0.5 * (1.0 - jnp.cos(jnp.pi * progress)),
}

# Parameters that weight decay applies to, by Flax's own names. Not by rank: under `nn.scan` the blocks' biases and norm
# weights are stacked, [blocks, D], and would pass for matrices.
DECAYED = ("kernel", "embedding")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """AdamW with clipping, warm-up and decay. `warmup` and `steps` count updates; `ema` is the decay per update."""

    learning_rate: float
    warmup: int
    steps: int
    final_fraction: float = 0.1
    b1: float = 0.9
    b2: float = 0.95
    weight_decay: float = 0.03
    clip: float = 1.0
    schedule: str = "cosine"
    ema: float = 0.9995
    accumulate: int = 1

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule '{self.schedule}' is unknown: take one of {', '.join(SCHEDULES)}")
        if self.accumulate < 1:
            raise ValueError(f"accumulate={self.accumulate} is not a number of microbatches: take 1 or more")
        if not 0.0 <= self.ema < 1.0:
            raise ValueError(f"ema={self.ema} is not a decay: take a number in [0, 1), such as 0.9995")
        if not self.learning_rate > 0 or not self.clip > 0 or not self.weight_decay >= 0:
            raise ValueError(
                f"learning_rate={self.learning_rate} and clip={self.clip} must be above 0, weight_decay={self.weight_decay} "
                f"0 or more"
            )
        if not (0.0 <= self.b1 < 1.0 and 0.0 <= self.b2 < 1.0 and 0.0 <= self.final_fraction <= 1.0):
            raise ValueError(f"b1={self.b1} and b2={self.b2} must be in [0, 1), final_fraction={self.final_fraction} in [0, 1]")


def learning_rate(cfg):
    """The schedule, count of past updates -> learning rate: linear warm-up to the peak, then `cfg.schedule`."""

    def rate(count):
        count = jnp.asarray(count, jnp.float32)
        # (count + 1), so that the first update is not wasted on a rate of zero.
        warm = jnp.minimum((count + 1.0) / max(cfg.warmup, 1), 1.0)
        progress = jnp.clip((count - cfg.warmup) / max(cfg.steps - cfg.warmup, 1), 0.0, 1.0)
        return cfg.learning_rate * warm * (1.0 - (1.0 - cfg.final_fraction) * SCHEDULES[cfg.schedule](progress))

    return rate


def make_optimiser(cfg):
    """Clipping by the global norm, then AdamW; weight decay on matrices only."""
    return optax.chain(
        optax.clip_by_global_norm(cfg.clip),
        optax.adamw(learning_rate(cfg), b1=cfg.b1, b2=cfg.b2, weight_decay=cfg.weight_decay, mask=decayed),
    )


def decayed(params):
    """Tree of bools: which parameters are decayed. Raises ValueError if none is."""

    def is_decayed(path, _):
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        return bool(names) and names[-1] in DECAYED

    mask = jax.tree_util.tree_map_with_path(is_decayed, params)
    if not any(jax.tree.leaves(mask)):
        raise ValueError(f"no parameter is named {' or '.join(DECAYED)}: weight decay would do nothing")
    return mask


@flax.struct.dataclass
class TrainState:
    """Everything that an update reads and writes.

    Attributes:
      step: int32 scalar, updates done.
      params: the network's weights, an unboxed tree of float32 arrays.
      ema: their moving average, the same tree in float32; None if the stage keeps none.
      opt_state: the state of optax, sharded like params.
    """

    step: jax.Array
    params: Any
    ema: Any
    opt_state: Any

    @property
    def averaged(self):
        """The weights to use: the average if there is one."""
        return self.params if self.ema is None else self.ema


def create(init_params, optimiser, mesh, *, ema, given=()):
    """Create an initial state in its shardings; returns (state, shardings). No device ever holds more than its own part.

    `init_params(*given)` returns boxed parameters; it runs inside a jit. `given` are arrays, such as a seed
    (`mesh.seed_word`), which is then not part of the program, or the weights that a student starts from; they stay valid
    for the caller.
    """
    init = lambda *given: _initial_state(init_params(*given), optimiser, ema)
    shardings = mesh_lib.shardings(mesh, jax.eval_shape(init, *given))
    # A copy, because a jit returns an unchanged input as it is: the first update would donate the caller's own buffers.
    jitted_init = jax.jit(lambda *given: mesh_lib.unbox(init(*jax.tree.map(jnp.copy, given))), out_shardings=shardings)
    return jitted_init(*given), shardings


def abstract(init_params, optimiser, mesh, *, ema, given=()):
    """The state that `create` would make, as ShapeDtypeStructs that carry their shardings: to restore or compile for."""
    return mesh_lib.abstract(mesh, lambda *given: _initial_state(init_params(*given), optimiser, ema), *given)


def _initial_state(params, optimiser, ema):
    """An initial state with these parameters, boxed or not: optax maps through boxes, so its moments have the same axes."""
    average = jax.tree.map(lambda p: p.astype(jnp.float32), params) if ema else None
    return TrainState(step=jnp.zeros((), jnp.int32), params=params, ema=average, opt_state=optimiser.init(params))


def _zeros(tree):
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learner:
    """A network in training.

    Attributes:
      create: () -> the initial TrainState.
      abstract: the same state as ShapeDtypeStructs with shardings.
      step: the jitted update, `step(state, batch) -> (state, metrics)`; see `make_step`.
      lower: batch (ShapeDtypeStructs) -> the update lowered for that batch, to compile it without running anything.
    """

    create: Callable[[], TrainState]
    abstract: TrainState
    step: Callable[..., Any]
    lower: Callable[[Any], jax.stages.Lowered]


def learner(init_params, loss_fn, cfg, mesh, seed, *, given=(), frozen=None, pass_ema=False, pass_progress=False):
    """The Learner of a network and its loss, from `create` and `make_step` with one optimiser and a moving average."""
    optimiser = make_optimiser(cfg)
    abstract_state = abstract(init_params, optimiser, mesh, ema=True, given=given)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state)
    step = make_step(loss_fn, optimiser, cfg, mesh, shardings, seed, frozen, pass_ema, pass_progress)
    return Learner(
        create=lambda: create(init_params, optimiser, mesh, ema=True, given=given)[0],
        abstract=abstract_state,
        step=step,
        lower=lambda batch: step.func.lower(frozen, abstract_state, batch),
    )


def make_step(loss_fn, optimiser, cfg, mesh, shardings, seed, frozen=None, pass_ema=False, pass_progress=False):
    """The jitted update `step(state, batch) -> (state, metrics)`; the state that goes in is donated.

    `loss_fn(key, params, batch)` returns a scalar and a dict of scalars, means over the batch; or it is a Counted. `frozen`, a
    tree of arrays such as another network's weights, is passed as a fourth argument (a closure would compile it in as
    constants); with `pass_ema` the moving average comes after it, and with `pass_progress` the share of all updates that are
    done. The key depends only on `seed` and the step; the program does not depend on the seed. Metrics are float32 scalars:
    loss, grad_norm, learning_rate, finite (1 or 0), and the loss function's own.
    """
    rate, gradients = learning_rate(cfg), _gradients(loss_fn, cfg.accumulate, mesh)

    def step(seed, frozen, state, batch):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        extra = (() if frozen is None else (frozen,)) + ((state.ema,) if pass_ema else ())
        extra += (state.step / cfg.steps,) if pass_progress else ()
        (loss, aux), grads = gradients(key, state.params, batch, *extra)
        new_state, norm = descend(optimiser, cfg.ema, state, grads)
        metrics = aux | {
            "loss": loss,
            "grad_norm": norm,
            "learning_rate": rate(state.step),
            "finite": jnp.isfinite(loss) & jnp.isfinite(norm),
        }
        return new_state, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), metrics)

    jitted = mesh_lib.seeded(
        mesh,
        step,
        seed,
        in_shardings=(None, shardings, mesh_lib.batch_sharding(mesh)),  # None: wherever the frozen arrays already are
        out_shardings=(shardings, mesh_lib.replicated(mesh)),
        donate_argnums=(1,),
    )
    return functools.partial(jitted, frozen)


def descend(optimiser, decay, state, grads):
    """The state after one update by a gradient, and the gradient's norm before clipping; `decay` is the average's."""
    updates, opt_state = optimiser.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = None if state.ema is None else moving_average(decay, state.step, state.ema, params)
    return TrainState(step=state.step + 1, params=params, ema=average, opt_state=opt_state), optax.tree.norm(grads)


def moving_average(decay, step, average, params):
    """Exponential moving average in float32, by a decay of min(decay, (1 + n) / (10 + n)) after n updates.

    The early decay is lower so that the average forgets the random start: at 0.9995 alone, a run of 1,000 updates
    would end with three fifths of its initialisation.
    """
    n = step.astype(jnp.float32)
    decay = jnp.minimum(decay, (1.0 + n) / (10.0 + n))
    return jax.tree.map(lambda a, p: a + (1.0 - decay) * (p.astype(jnp.float32) - a), average, params)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counted:
    """A loss function that divides by a count of its batch that varies, such as the positions that jumped.

    Microbatches that each divided by their own count would have another mean than the whole batch: each divides by its share
    of the whole batch's count instead.

    Attributes:
      prepare: (key, batch, *extra) -> rows, all that needs no gradient: it is made of the whole batch before any gradient.
      count: rows -> what is counted in them, a scalar.
      loss: (params, rows, count) -> (loss, its parts), where it divides by `count`, which is above 0.
    """

    prepare: Callable[..., Any]
    count: Callable[[Any], jax.Array]
    loss: Callable[..., Any]

    def __call__(self, key, params, batch, *extra):
        rows = self.prepare(key, batch, *extra)
        return self.loss(params, rows, jnp.maximum(self.count(rows), 1))

    def of_microbatches(self, key, microbatches, *extra):
        """(each microbatch's rows, the share of the count that each divides by)."""
        accumulate = len(jax.tree.leaves(microbatches)[0])
        prepare = lambda item: self.prepare(jax.random.fold_in(key, item[0]), item[1], *extra)
        rows = jax.lax.map(prepare, (jnp.arange(accumulate), microbatches))
        return rows, jnp.maximum(jax.vmap(self.count)(rows).sum(), 1) / accumulate


def _gradients(loss_fn, accumulate, mesh):
    """`loss_fn`'s value and gradient, as the mean over `accumulate` microbatches, run one after the other."""
    if accumulate == 1:
        return _gradient(loss_fn)

    def mean_gradient(key, params, batch, *extra):
        microbatches = jax.tree.map(lambda x: _microbatches(x, accumulate, mesh), batch)
        if isinstance(loss_fn, Counted):
            microbatches, count = loss_fn.of_microbatches(key, microbatches, *extra)
            gradient = _gradient(lambda key, params, rows: loss_fn.loss(params, rows, count))
            of_rows = lambda index, rows: gradient(None, params, rows)
        else:
            gradient = _gradient(loss_fn)
            of_rows = lambda index, rows: gradient(jax.random.fold_in(key, index), params, rows, *extra)

        def add(total, item):
            return jax.tree.map(jnp.add, total, of_rows(*item)), None

        shapes = jax.eval_shape(of_rows, 0, jax.tree.map(lambda x: x[0], microbatches))
        total, _ = jax.lax.scan(add, _zeros(shapes), (jnp.arange(accumulate), microbatches))
        return jax.tree.map(lambda x: x / accumulate, total)

    return mean_gradient


def _gradient(loss_fn):
    """`loss_fn`'s value and gradient, all scalars in float32."""

    def scalars(key, params, batch, *extra):
        loss, aux = loss_fn(key, params, batch, *extra)
        return loss.astype(jnp.float32), jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), aux)

    return jax.value_and_grad(scalars, argnums=1, has_aux=True)


def _microbatches(x, accumulate, mesh):
    """[B, …] -> [accumulate, B / accumulate, …], every accumulate-th row together, so that no row leaves its device."""
    rows, parts = x.shape[0], accumulate * mesh_lib.batch_devices(mesh)
    if rows % parts:
        raise ValueError(
            f"batch {rows} is not divisible by {accumulate} microbatches × {mesh_lib.batch_devices(mesh)} devices: "
            f"take a multiple of {parts}"
        )
    split = x.reshape(rows // accumulate, accumulate, *x.shape[1:]).swapaxes(0, 1)
    spec = PartitionSpec(None, *mesh_lib.batch_sharding(mesh).spec)
    return jax.lax.with_sharding_constraint(split, NamedSharding(mesh, spec))
