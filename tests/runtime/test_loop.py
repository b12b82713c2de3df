"""The training loop: the same bits after a stop and resume, one compilation, and clear errors.

Also a program, `python test_loop.py WORKDIR STEPS`, for the test that kills processes.
"""

import dataclasses
import functools
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import sys
import time

import flax.linen as nn
import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from tsdfm_jax.runtime import checkpoint, ledger, loop, mesh as mesh_lib, metrics, signals, state as state_lib

CONFIG = state_lib.OptimiserConfig(learning_rate=0.02, warmup=2, steps=12)


class Toy(nn.Module):
    @nn.compact
    def __call__(self, x_BD):
        kernel = nn.with_logical_partitioning(nn.initializers.lecun_normal(), ("embed", "mlp"))
        return nn.Dense(16, kernel_init=kernel)(x_BD)


def loss_fn(key, params, batch):
    noisy_BD = batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape)
    return jnp.mean((Toy().apply({"params": params}, noisy_BD) - jnp.flip(batch["x"], 1)) ** 2), {}


def dataset():
    rows = [{"x": row} for row in np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32)]
    return grain.MapDataset.source(rows).shuffle(5).repeat().batch(8).to_iter_dataset()


@functools.cache
def pieces():
    """(the toy's Learner, its mesh), compiled once for the whole file."""
    optimiser = state_lib.make_optimiser(CONFIG)
    # Two devices: sharded, and cheap to save.
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(data=1, fsdp=2), jax.devices()[:2])
    init = lambda: Toy().init(jax.random.key(0), jnp.zeros((1, 16)))["params"]
    state, shardings = state_lib.create(init, optimiser, mesh, ema=True)
    copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=shardings)
    step = state_lib.make_step(loss_fn, optimiser, CONFIG, mesh, shardings, seed=1)
    abstract = state_lib.abstract(init, optimiser, mesh, ema=True)
    return state_lib.Learner(create=lambda: copy(state), abstract=abstract, step=step, lower=None), mesh


def fit(workdir, steps=12, batches=None, save_every=5, changes=None, **kwargs):
    sound, mesh = pieces()
    batches = iter(dataset()) if batches is None else batches
    store = checkpoint.Checkpoints(pathlib.Path(workdir) / "checkpoints")
    try:
        with metrics.Metrics(workdir, "toy") as out:
            return loop.fit(
                dataclasses.replace(sound, **(changes or {})), batches, name="toy", steps=steps, checkpoints=store, metrics=out, mesh=mesh,
                log_every=4, save_every=save_every, units_per_step=8, **kwargs,
            )  # fmt: skip
    finally:
        store.close()


def assert_same_bits(one, other):
    def compare(path, a, b):
        a, b = jax.device_get((a, b))
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes(), f"{jax.tree_util.keystr(path)} differs"

    jax.tree_util.tree_map_with_path(compare, one, other)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Twelve uninterrupted steps: (state, figures, data iterator, workdir)."""
    workdir, batches = tmp_path_factory.mktemp("straight"), iter(dataset())
    return *fit(workdir, batches=batches), batches, workdir


def test_figures_tell_the_run(straight):
    """The loss falls, nothing recompiles, and curve, rate, times, log, events and last checkpoint are there."""
    state, figures, _, workdir = straight
    curve = figures["curve"]
    assert [n for n, _ in curve] == [1, 4, 8, 12] and curve[-1][1] == figures["final_loss"] < curve[0][1]
    assert figures["recompilations"] == 0 and figures["steps"] == int(state.step) == 12
    assert 0 < figures["seconds_to_first_step"] < figures["seconds"] and figures["tokens_per_second"] > 0
    assert checkpoint.Checkpoints(workdir / "checkpoints").latest() == 12
    log = (workdir / "log.txt").read_text()
    assert (
        "toy 12/12  loss " in log and len(re.findall(r"toy: first step after .* s compiling \d+ programs, \d+ of them", log)) == 1
    )
    events = b"".join(path.read_bytes() for path in (workdir / "tensorboard" / "toy").iterdir())
    assert all(name in events for name in (b"loss", b"grad_norm", b"learning_rate"))


def test_stopped_and_resumed_is_never_stopped(straight, tmp_path):
    """A run with SIGTERM at step 3 and SIGINT at step 8 ends with the same state, data position and curve to the bit."""
    for number, after in ((signal.SIGTERM, 3), (signal.SIGINT, 8)):
        kill = lambda state: os.kill(os.getpid(), number) or {}
        line = f"toy: stopped at step {after} of 12; the same command"
        with pytest.raises(signals.Interrupted, match=line) as stop:
            fit(tmp_path, evaluate=kill, evaluate_every=after)
        assert stop.value.signum == number
    batches = iter(dataset())
    state, figures = fit(tmp_path, batches=batches)
    assert_same_bits(straight[0], state)
    assert batches.get_state() == straight[2].get_state()
    assert figures["curve"] == straight[1]["curve"] and figures["final_loss"] == straight[1]["final_loss"]
    assert figures["recompilations"] == 0 and [n for n, _ in figures["evaluations"]] == [3, 8]


def test_a_stopped_evaluation_is_made_up_for(straight, tmp_path):
    """A run that is stopped in an evaluation saves the state of that update, and makes up for the evaluation when it goes on."""

    def stopped(state):
        raise signals.Interrupted("toy: stopped")

    for step in (7, 12):  # between two checkpoints, and after the last update
        with pytest.raises(signals.Interrupted):
            fit(tmp_path, evaluate=stopped, evaluate_every=7, save_every=100)
        assert checkpoint.Checkpoints(tmp_path / "checkpoints").latest() == step
        only_once = lambda state: {"at": int(state.step)} if int(state.step) == step else stopped(state)
        if step == 7:
            with pytest.raises(signals.Interrupted):
                fit(tmp_path, evaluate=only_once, evaluate_every=7, save_every=100)
    state, figures = fit(tmp_path, evaluate=only_once, evaluate_every=7, save_every=100)
    assert_same_bits(straight[0], state)
    assert figures["evaluations"] == [[7, {"at": 7.0}], [12, {"at": 12.0}]] and figures["curve"] == straight[1]["curve"]


def test_a_killed_run_draws_no_point_twice(tmp_path):
    """After a kill behind a checkpoint each step of the resumed curve stands once; training anew removes the old curve."""

    def killed(state):
        if int(state.step) == 9:
            raise KeyboardInterrupt
        return {"heldout": 1.0}

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, evaluate=killed, evaluate_every=3, curve="nets/toy")
    assert [step for step, _ in points(tmp_path / "tensorboard/nets/toy", "loss")] == [1, 4, 8]
    _, figures = fit(tmp_path, evaluate=lambda state: {"heldout": 1.0}, evaluate_every=3, curve="nets/toy")
    assert checkpoint.Checkpoints(tmp_path / "checkpoints").latest() == 12 and len(files(tmp_path / "tensorboard/nets/toy")) == 2
    found = points(tmp_path / "tensorboard/nets/toy", "loss")
    assert [step for step, _ in found] == [1, 4, 8, 12]
    assert [value for _, value in found] == pytest.approx([loss for _, loss in figures["curve"]])
    assert [step for step, _ in points(tmp_path / "tensorboard/nets/toy", "heldout")] == [3, 6, 9, 12]
    assert not files(tmp_path / "tensorboard/toy") and not files(tmp_path / "tensorboard/nets")
    fit(tmp_path, curve="nets/toy")  # nothing left to do, and nothing to write
    assert len(files(tmp_path / "tensorboard/nets/toy")) == 2
    shutil.rmtree(tmp_path / "checkpoints")
    fit(tmp_path, steps=5, curve="nets/toy", changes={})
    assert len(files(tmp_path / "tensorboard/nets/toy")) == 1
    assert [step for step, _ in points(tmp_path / "tensorboard/nets/toy", "loss")] == [1, 4, 5]


def files(directory):
    return sorted(directory.glob("events*"))


def points(directory, tag):
    """[(step, value)] of a curve as TensorBoard reads it: a restart takes back the points from its step on."""
    found = []
    for file in files(directory):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack("<Q", data[at : at + 8])
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
            at += 16 + size
            if event.session_log.status == event_pb2.SessionLog.START:
                found = [(step, value) for step, value in found if step < event.step]
            found += [(event.step, value.simple_value) for value in event.summary.value if value.tag == tag]
    return found


def test_a_finished_run_is_not_run_again(straight):
    """With the last checkpoint there, no step runs, and the curve is that of the run."""
    never = lambda *_: pytest.fail("a step was taken, or a newborn state made")
    state, figures = fit(straight[3], changes={"step": never, "create": never})
    assert_same_bits(straight[0], state)
    assert figures["curve"] == straight[1]["curve"]


def norm(state):
    """A number of the state: an evaluation that is the same where the state is the same to the bit."""
    return {"norm": float(sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(state.averaged)))}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Twelve uninterrupted steps with an evaluation every five: (state, figures)."""
    return fit(tmp_path_factory.mktemp("evaluated"), evaluate=norm, evaluate_every=5)


def ask(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("step", [5, 12])
@pytest.mark.parametrize("breaks_off", [False, True])
def test_stopped_in_an_evaluation(evaluated, tmp_path, step, breaks_off):
    """A signal in an evaluation, also in the last, whether it ends or breaks off, stops at that step; resumed, all is the same."""
    calls = []

    def evaluate(state):
        calls.append(int(state.step))
        if step == calls[-1] and calls[0] == 5:
            ask(signal.SIGINT)
            if breaks_off:
                raise signals.Interrupted("broken off")
        return norm(state)

    with pytest.raises(signals.Interrupted, match=f"toy: stopped at step {step} of 12; the same command") as stop:
        fit(tmp_path, evaluate=evaluate, evaluate_every=5)
    assert stop.value.signum == signal.SIGINT and checkpoint.Checkpoints(tmp_path / "checkpoints").latest() == step
    calls = [None]
    state, figures = fit(tmp_path, evaluate=evaluate, evaluate_every=5)
    assert calls == [None, *[n for n in (5, 10, 12) if n > step or (n == step and breaks_off)]]
    assert_same_bits(evaluated[0], state)
    same = ("curve", "evaluations", "final_loss", "steps")
    assert [figures[name] for name in same] == [evaluated[1][name] for name in same]
    assert [n for n, _ in figures["evaluations"]] == [5, 10, 12]


@pytest.mark.parametrize("call, number", [("save", 5), ("save", 12), ("wait", 12)])
def test_stopped_in_a_save(straight, tmp_path, monkeypatch, call, number):
    """A signal while a checkpoint is being written, also the last, stops there; the next run finishes without one more step."""
    original, asked = getattr(checkpoint.Checkpoints, call), []

    def slow(self, *args):
        original(self, *args)
        if not asked and (call == "wait" or args[0] == number):
            ask(signal.SIGTERM)
            asked.append(number)

    with monkeypatch.context() as patch, pytest.raises(signals.Interrupted, match=f"stopped at step {number} of 12") as stop:
        patch.setattr(checkpoint.Checkpoints, call, slow)
        fit(tmp_path)
    assert stop.value.signum == signal.SIGTERM
    state, figures = fit(tmp_path, changes={"step": None} if number == 12 else {})  # None: a step more would fail
    assert_same_bits(straight[0], state)
    assert figures["curve"] == straight[1]["curve"]


def test_stopped_before_the_first_step(tmp_path):
    """A signal that came before the training stops it before it compiles anything."""
    with signals.stopping(), pytest.raises(signals.Interrupted, match="toy: stopped at step 0 of 12"):
        ask(signal.SIGTERM)
        fit(tmp_path, changes={"step": None})


def test_what_a_checkpoint_tells_is_not_changed_by_later_steps():
    """Orbax writes it in the background, by when the curve may have grown by points that are past the checkpoint's step."""
    account = ledger.Ledger(name="toy", steps=2, unit="tokens", units_per_step=1, log_every=1)
    account.record["curve"].append([1, 2.0])
    meta = account.meta()
    account.record["curve"].append([2, 1.0])
    assert meta["record"]["curve"] == [[1, 2.0]]


def test_a_damaged_newest_checkpoint_costs_steps_not_bits(straight, tmp_path):
    """After a damaged newest checkpoint the run resumes from the one before and ends in the same bits."""
    with pytest.raises(signals.Interrupted):
        fit(tmp_path, evaluate=lambda state: os.kill(os.getpid(), signal.SIGTERM) or {}, evaluate_every=7)
    newest = tmp_path / "checkpoints" / "7" / "state"
    max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size).write_bytes(b"\0" * 100)
    state, figures = fit(tmp_path)
    assert_same_bits(straight[0], state)
    assert figures["curve"] == straight[1]["curve"]
    assert "going back to the one before" in (tmp_path / "log.txt").read_text()


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    """A loss that is NaN stops the run with one line on stage, step and remedy; the newest checkpoint is from before."""
    rows = [{"x": np.full((8, 16), np.nan if n == 6 else 1.0, np.float32)} for n in range(12)]
    batches = iter(grain.MapDataset.source(rows).to_iter_dataset())
    with pytest.raises(ledger.Diverged, match="toy: loss is nan .* at step 7: lower the learning rate") as error:
        fit(tmp_path, batches=batches)
    assert "\n" not in str(error.value)
    assert checkpoint.Checkpoints(tmp_path / "checkpoints").latest() == 5


def test_recompilations_are_counted(tmp_path):
    """A step with changed shapes is logged and counted as a recompilation."""
    learner, mesh = pieces()
    grown = [{"x": np.ones((8 * (n // 3 + 1), 16), np.float32)} for n in range(6)]
    batches = iter(grain.MapDataset.source(grown).to_iter_dataset())
    shardings = jax.tree.map(lambda x: x.sharding, learner.abstract)
    step = state_lib.make_step(loss_fn, state_lib.make_optimiser(CONFIG), CONFIG, mesh, shardings, seed=2)
    _, figures = fit(tmp_path, steps=6, batches=batches, changes={"step": step})
    assert figures["recompilations"] >= 1
    assert "step 4 compiled again" in (tmp_path / "log.txt").read_text()


def test_data_that_ends_is_one_line(tmp_path):
    """If the data ends early, the error names the steps done and the total."""
    batches = iter(grain.MapDataset.source([{"x": np.ones((8, 16), np.float32)}] * 2).to_iter_dataset())
    with pytest.raises(ValueError, match="toy: the data ended after 2 of 12 steps"):
        fit(tmp_path, batches=batches)


def test_fewer_steps_than_done_are_refused(straight):
    """A checkpoint past the config's last step is refused."""
    with pytest.raises(ValueError, match="checkpoint is at step 12, past the 6 of the config"):
        fit(straight[3], steps=6)


def program(workdir, steps):
    """Start this file as a program."""
    root = pathlib.Path(__file__).resolve().parents[2]
    # The same XLA flags as in this process, since the bits depend on them.
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    path = {"PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    environment = {**flags, **os.environ, **path}
    return subprocess.Popen(
        [sys.executable, __file__, str(workdir), str(steps)], env=environment, stderr=subprocess.PIPE, text=True
    )


def has_saved(workdir):
    directory = workdir / "checkpoints"
    return directory.exists() and any(path.name.isdigit() for path in directory.iterdir())


def test_killed_processes_go_on_to_the_same_bits(tmp_path):
    """Runs of two processes, one with SIGTERM, one with SIGKILL, resumed here, end in the bits of an unstopped run."""
    numbers = {tmp_path / "asked": signal.SIGTERM, tmp_path / "shot": signal.SIGKILL}
    processes = {workdir: program(workdir, 100_000) for workdir in numbers}
    deadline = time.monotonic() + 120
    for workdir, process in processes.items():
        while time.monotonic() < deadline and process.poll() is None and not has_saved(workdir):
            time.sleep(0.01)
        process.send_signal(numbers[workdir])
    told = {workdir: process.communicate(timeout=60)[1] for workdir, process in processes.items()}
    done = {workdir: checkpoint.Checkpoints(workdir / "checkpoints").latest() for workdir in numbers}
    asked, shot = numbers
    assert processes[asked].returncode == 143 and processes[shot].returncode == -signal.SIGKILL, told
    assert f"stopped at step {done[asked]} of 100000" in told[asked]
    steps = max(done.values()) + 3
    reference, _ = fit(tmp_path / "reference", steps=steps, save_every=10_000)
    for workdir in numbers:
        assert_same_bits(reference, fit(workdir, steps=steps, save_every=10_000)[0])


if __name__ == "__main__":
    try:
        fit(sys.argv[1], int(sys.argv[2]), save_every=2)
    except signals.Interrupted as interrupted:
        print(interrupted, file=sys.stderr)
        sys.exit(128 + interrupted.signum)
