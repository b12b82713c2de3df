"""The training loop of every network."""

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
    unit="tokens",
    units_per_step=0,
    curve="",
):
    """Train to `steps` updates, from the newest checkpoint if there is one; returns (state, numbers).

    `learner` is a `state.Learner`; it creates a state only if there is no checkpoint. `batches` is a grain iterator over
    trees of this process's numpy rows. `evaluate(state)` returns a dict of numbers. `curve` is the network's directory of
    event files below `tensorboard/`, by default its name. `unit` is what its rate counts. See `Ledger.summary` for the numbers.
    Raises `signals.Interrupted` on SIGINT or SIGTERM at any moment, also after the last step, with the state saved; `evaluate`
    may raise it too. `ledger.Diverged` if the loss or its gradient is not finite; ValueError if the batches end early.
    """
    ledger = ledger_lib.Ledger(name=name, steps=steps, unit=unit, units_per_step=units_per_step, log_every=log_every)
    if checkpoints.latest() is None:
        state = learner.create()
    else:
        state, meta = checkpoints.restore(learner.abstract, batches)
        ledger.resume(meta)
    first_step = ledger.done
    due = lambda: evaluate is not None and (ledger.done == steps or ledger.done % evaluate_every == 0)
    drawn = metrics.curve(curve or name, first_step)
    with signals.stopping(), drawn as ledger.curve, metrics_lib.progress(name, steps, "step", first_step) as ledger.bar:
        stop = signals.stop_agreed()
        if first_step and due() and not ledger.has_evaluated() and not stop:  # an earlier run was stopped before it was done
            stop = _evaluate(ledger, evaluate, state)
        while ledger.done < steps and not stop:
            state = ledger.update(learner.step, state, _next(batches, name, ledger.done, steps), mesh)
            stop = signals.stop_agreed(ledger.done, every=10)
            if due() and not stop:
                stop = _evaluate(ledger, evaluate, state)
            if ledger.done == steps or stop or ledger.done % save_every == 0:
                ledger.save(checkpoints, state, batches)
                stop = stop or signals.stop_agreed()
                ledger.restart_clock()
        if first_step < ledger.done:
            checkpoints.wait()
        if stop or signals.stop_agreed():
            raise signals.Interrupted(f"{name}: stopped at step {ledger.done} of {steps}; the same command goes on from there")
    return state, ledger.summary()


def _evaluate(ledger, evaluate, state):
    """Evaluate, and return whether to stop. A broken-off evaluation leaves no trace: the next run repeats it."""
    try:
        ledger.evaluate(evaluate, state)
    except signals.Interrupted:
        return True
    return signals.stop_agreed()


def _next(batches, name, done, steps):
    try:
        return next(batches)
    except StopIteration:
        raise ValueError(f"{name}: the data ended after {done} of {steps} steps: repeat it, or train less") from None
