"""The training loop of teacher, compass, students and judges."""

import contextlib

from tsdfm_jax.runtime import ledger as ledger_lib, metrics as metrics_lib, signals


def fit(
    learner,
    batches,
    *,
    name,
    steps,
    checkpoints,
    metrics,
    mesh,
    log_every=100,
    save_every=1000,
    evaluate=None,
    evaluate_every=1000,
    tokens_per_step=0,
    curve="",
):
    """Train to `steps` updates, from the newest checkpoint if there is one; returns (state, numbers).

    `learner` is a `state.Learner`; it creates a state only if there is no checkpoint. `batches` is a grain iterator over
    trees of this process's numpy rows. `evaluate(state)` returns a dict of numbers. `curve` is the network's directory of
    event files below `tensorboard/`, by default its name. See `Ledger.summary` for the numbers.
    Raises `signals.Interrupted` on SIGINT or SIGTERM, after saving the state; `ledger.Diverged` if the loss or its gradient
    is not finite; ValueError if the batches end early.
    """
    ledger = ledger_lib.Ledger(name=name, steps=steps, tokens_per_step=tokens_per_step, log_every=log_every)
    if checkpoints.latest() is None:
        state = learner.create()
    else:
        state, meta = checkpoints.restore(learner.abstract, batches)
        ledger.resume(meta)
    first_step = ledger.done
    drawn = metrics.curve(curve or name, first_step)
    with signals.stopping(), drawn as ledger.curve, metrics_lib.progress(name, steps, "step", first_step) as ledger.bar:
        due = first_step and (first_step == steps or first_step % evaluate_every == 0)
        if evaluate is not None and due and not ledger.has_evaluated():  # it was stopped in this evaluation
            ledger.evaluate(evaluate, state)
        while ledger.done < steps:
            state = ledger.update(learner.step, state, _next(batches, name, ledger.done, steps), mesh)
            last, stop = ledger.done == steps, signals.stop_agreed(ledger.done, every=10)
            if evaluate is not None and (last or ledger.done % evaluate_every == 0):
                with _saved_if_stopped(ledger, checkpoints, state, batches):
                    ledger.evaluate(evaluate, state)
            if last or stop or ledger.done % save_every == 0:
                ledger.save(checkpoints, state, batches)
                ledger.restart_clock()
            if stop:
                checkpoints.wait()
                raise signals.Interrupted(f"{name}: stopped at step {ledger.done} of {steps}; the same command goes on from there")
    if first_step < steps:
        checkpoints.wait()
    return state, ledger.summary()


@contextlib.contextmanager
def _saved_if_stopped(ledger, checkpoints, state, batches):
    """Save the state where the block is asked to stop: an evaluation may end long after the newest checkpoint."""
    try:
        yield
    except signals.Interrupted:
        ledger.save(checkpoints, state, batches)
        checkpoints.wait()
        raise


def _next(batches, name, done, steps):
    try:
        return next(batches)
    except StopIteration:
        raise ValueError(f"{name}: the data ended after {done} of {steps} steps: repeat it, or train less") from None
