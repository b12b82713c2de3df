"""Work started ahead and written in the background saves time and does not change results."""

import threading

import jax
import numpy as np
import pytest

from tests import tiny
from tsdfm_jax.config import settings
from tsdfm_jax.data import records, windows
from tsdfm_jax.distillation import generation, trajectory_records
from tsdfm_jax.lineage import bookkeeping
from tsdfm_jax.runtime import hosts, mesh as meshes, pipeline, signals
from tsdfm_jax.workspace import trained


class Program:
    """The result of a program that ends at a given time of a test clock; waiting for it advances the clock."""

    def __init__(self, clock, end):
        self._clock, self._end = clock, end

    def is_ready(self):
        return self._clock.now >= self._end

    def block_until_ready(self):
        self._clock.now = max(self._clock.now, self._end)


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize("script, share", [
    # ("begin", dispatched at, ends at); ("wait", program); ("look" or "end", at).
    ([("begin", 0, 4), ("wait", 0), ("begin", 4, 6), ("wait", 1)], 1.0),
    ([("begin", 0, 4), ("wait", 0), ("begin", 6, 8), ("wait", 1)], 6 / 8),
    ([("begin", 0, 2), ("begin", 4, 6), ("wait", 1), ("end", 8)], 2 / 8),
    ([("begin", 0, 3), ("begin", 2, 5), ("wait", 0), ("wait", 1), ("end", 10)], 5 / 10),
    ([("begin", 0, 3), ("look", 2), ("begin", 4, 8), ("wait", 1)], 6 / 8),
])  # fmt: skip
def test_busy_share(script, share):
    """An interval between two looks counts as busy if a program was unfinished at both of its ends."""
    clock, programs = Clock(), []
    busy = pipeline.Busy(clock)
    assert busy.share() is None and busy.seconds() == 0
    for what, *at in script:
        if what == "wait":
            busy.wait([programs[at[0]]])
            continue
        clock.now = 100.0 + at[0]
        if what == "begin":
            programs.append(Program(clock, 100.0 + at[1]))
            busy.dispatched([programs[-1]])
        elif what == "look":
            busy.poll()
    assert busy.share() == pytest.approx(share) and busy.seconds() == clock.now - 100.0


def test_busy_share_is_a_lower_bound():
    """For random programs the busy share is never above the true share, and equals it with many looks."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        starts = np.cumsum(rng.exponential(size=8))
        ends = np.zeros(8)
        for i in range(8):
            ends[i] = max(starts[i], ends[i - 1] if i else 0) + rng.exponential()
        last = ends[-1] + rng.exponential()
        truth = sum(min(ends[i], starts[i + 1] if i < 7 else last) - starts[i] for i in range(8)) / (last - starts[0])
        found = []
        for looks in (rng.uniform(starts[0], last, 6), np.linspace(starts[0], last, 4000)):
            clock = Clock()
            busy = pipeline.Busy(clock)
            for at, i in sorted([*((at, None) for at in looks), *zip(starts, range(8)), (last, None)], key=lambda event: event[0]):
                clock.now = at
                busy.poll() if i is None else busy.dispatched([Program(clock, ends[i])])
            found.append(busy.share())
        assert found[0] <= found[1] <= truth + 1e-9 and found[1] == pytest.approx(truth, abs=0.01)


def test_two_are_begun_before_one_is_awaited():
    """Results come in order; the next starts when the caller returns, and at most two are under way."""
    seen = []

    def start(x):
        seen.append(f"begin {x}")
        return {"x": jax.device_put(np.full(2, x))}

    for found in pipeline.ahead(start, range(4)):
        seen.append(f"have {found['x'][0]}")
    assert seen == "begin 0,begin 1,have 0,begin 2,have 1,begin 3,have 2,have 3".split(",")
    assert list(pipeline.ahead(start, [])) == []


def test_writing_behind_is_one_at_a_time_and_its_error_arrives():
    """A call returns while its write runs, the next waits for it; an error is raised once, at the next call."""
    going, seen = threading.Event(), []

    def slow():
        going.wait(10)
        seen.append("slow")

    def full():
        seen.append("full")
        raise OSError(28, "No space left on device")

    with pytest.raises(ZeroDivisionError), pipeline.BackgroundWriter() as behind:
        behind.call(slow)
        assert not seen
        going.set()
        behind.call(full)
        assert seen[0] == "slow"
        with pytest.raises(OSError, match="No space"):
            behind.call(lambda: seen.append("never"))
        behind.settle()
        going.clear()
        threading.Timer(0.1, going.set).start()
        behind.call(slow)
        raise ZeroDivisionError
    assert seen == ["slow", "full", "slow"]


def test_the_shards_are_those_of_a_loop_that_waits(finished, tmp_path):
    """The shards equal, to the byte, those of a loop that gathers each batch before the next; the set has its figures."""
    config = tiny.get_config()
    mesh, c, tok = settings.mesh(config), config.trajectories, trained.tokenizer(config, finished)
    teacher, where = trained.teacher(config, finished, mesh), finished / "trajectories/round_0/shaped/whole"
    data, store = windows.ordered(finished / "data", "train", config.seed), records.open_store(where)
    jitted = generation.program(config, tok.vocab_size, mesh, "whole", "shaped", teacher.apply)
    for shard in range(c.count // c.shard):
        x_1_BL = meshes.put_whole(mesh, data(range(shard * c.shard, (shard + 1) * c.shard)))
        rows = hosts.gather(jitted({"generator": teacher.params, "compass": None}, np.int32(shard * c.shard), x_1_BL))
        entry = records.write_shard(tmp_path, shard, store.schema, rows, store.manifest["provenance"])
        assert (tmp_path / entry["name"]).read_bytes() == (where / entry["name"]).read_bytes()
    figures = bookkeeping.done(finished / "trajectories/round_0")["figures"]["sets"]["shaped_whole"]
    assert 0 <= figures["device_busy"] <= 1 and figures["records_per_second"] * figures["seconds"] == pytest.approx(64)


class Bar:
    done = 0

    def advance(self, n):
        self.done += n


def test_a_stop_keeps_what_was_begun(monkeypatch):
    """On a stop request nothing new starts; work under way is gathered and its complete shards are written."""
    begun, written, c = [], [], tiny.changed(**{"trajectories.batch": 8, "trajectories.shard": 16}).trajectories

    def start(first):
        begun.append(first)
        return {"x": jax.device_put(np.arange(first, first + 8))}

    def write(shard, rows):
        written.append((shard, trajectory_records.joined(rows)["x"].tolist()))

    monkeypatch.setattr(signals, "stop_requested", lambda: len(begun) == 4)
    with pytest.raises(signals.Interrupted, match="stopped at shard 3 of 4"):
        trajectory_records.make(start, write, [0, 2, 3], 4, c, Bar())
    assert begun == [0, 8, 32, 40] and written == [(0, list(range(16))), (2, list(range(32, 48)))]
    monkeypatch.undo()
    figures = trajectory_records.make(start, write, [3], 4, c, Bar())
    assert written[2:] == [(3, list(range(48, 64)))] and figures["seconds"] > 0
    assert trajectory_records.make(start, write, [], 4, c, Bar())["device_busy"] is None
