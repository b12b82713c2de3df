"""A stage's files on disk, signals, and a run's metrics and log."""

import os
import pathlib
import signal

import jax
import jax.numpy as jnp
import pytest

from tests import earlier
from tsdfm_jax.lineage import bookkeeping
from tsdfm_jax.lineage.artefact import Artefact
from tsdfm_jax.runtime import metrics, signals
from tsdfm_jax.storage import atomic


def record(**keys):
    return bookkeeping.made_of(Artefact(name="teacher", stage="teacher", keys=keys), {})


def test_an_artefact_is_done_only_when_finished(tmp_path):
    """done gives None until finish, then the record with its figures and the stamps of its files."""
    bookkeeping.begin(tmp_path / "teacher", record(steps=10))
    assert bookkeeping.done(tmp_path / "teacher") is None
    (tmp_path / "teacher/model").write_text("weights")
    bookkeeping.finish(tmp_path, "teacher", record(steps=10), {"seconds": 1.5}, "content")
    done = bookkeeping.done(tmp_path / "teacher")
    assert done["figures"] == {"seconds": 1.5} and done["content"] == "content" and list(done["files"]) == ["teacher/model"]
    assert bookkeeping.require(tmp_path / "teacher", "teacher") == {"seconds": 1.5}


@pytest.mark.parametrize(
    "damage", [lambda text: text[:40], lambda text: text.replace("1.5", "1.6"), lambda text: "[]", lambda text: ""]
)
def test_a_damaged_record_counts_as_none(tmp_path, damage):
    """A done.json that is cut, or in which a number was changed, is not believed."""
    bookkeeping.begin(tmp_path / "teacher", record(steps=10))
    bookkeeping.finish(tmp_path, "teacher", record(steps=10), {"seconds": 1.5}, "content")
    file = tmp_path / "teacher/done.json"
    file.write_text(damage(file.read_text()))
    assert bookkeeping.done(tmp_path / "teacher") is None


def test_a_stage_that_made_nothing_does_not_bind(tmp_path):
    """What an artefact was begun with counts only once something of it is made."""
    bookkeeping.begin(tmp_path / "tokenizer", record(vocab_size=3))
    atomic.overwrite(tmp_path / "tokenizer" / bookkeeping.SECONDS, "0.1")
    assert bookkeeping.begun(tmp_path / "tokenizer") is None
    (tmp_path / "tokenizer" / "tokenizer.model").touch()
    assert bookkeeping.begun(tmp_path / "tokenizer")["fingerprint"] == {"vocab_size": 3}


def test_checkpoints_and_drafts_are_no_files_of_an_artefact(tmp_path):
    """Only what others read is stamped: not checkpoints, not the records, not half-written files."""
    for name in ("0/model/meta.json", "0/checkpoints/4/state", "checkpoints.damaged/4/state", "seconds.json", ".x.json.7.tmp"):
        (tmp_path / "judges" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "judges" / name).write_text("x")
    assert bookkeeping.owned(tmp_path / "judges") == ["0/model/meta.json"]


def test_a_record_of_an_earlier_version_is_read(tmp_path):
    """It has a fingerprint and figures, and no seal."""
    earlier.finish(tmp_path / "teacher", {"steps": 10}, {"hash": "a"})
    assert bookkeeping.done(tmp_path / "teacher") == {"fingerprint": {"steps": 10}, "figures": {"hash": "a"}}


def test_an_unfinished_stage_names_the_remedy(tmp_path):
    """An unfinished earlier stage gives an error that names the stage to run."""
    bookkeeping.begin(tmp_path / "teacher", record())
    with pytest.raises(ValueError, match="is unfinished: run --stage=teacher first"):
        bookkeeping.require(tmp_path / "teacher", "teacher")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    """atomic.overwrite replaces a file whole or not at all, and leaves no temporary file."""
    atomic.overwrite(tmp_path / "a.json", "old")

    def fails(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError):
        atomic.overwrite(tmp_path / "a.json", b"new")
    assert (tmp_path / "a.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_raises_the_flag_and_no_more(number):
    """Inside `stopping` a signal only sets a flag; afterwards the old handler is back."""
    before = signal.getsignal(number)
    with signals.stopping(), signals.stopping():
        assert not signals.stop_requested()
        os.kill(os.getpid(), number)
        assert signals.stop_requested() and signals.stop_agreed(3)
        assert signals.Interrupted("stopped").signum == number
    assert signal.getsignal(number) is before


def test_a_second_interrupt_stops_at_once():
    """A second Ctrl-C raises KeyboardInterrupt at once; the next block starts without the flag."""
    with pytest.raises(KeyboardInterrupt), signals.stopping():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    with signals.stopping():
        assert not signals.stop_requested()


def test_compilations_are_counted_by_the_block_that_causes_them():
    """A new shape compiles, a known one does not."""
    double = jax.jit(lambda x: x * 2)
    small, large = jnp.ones(3), jnp.ones(4)
    with metrics.count_compilations() as first:
        double(small)
    with metrics.count_compilations() as again:
        double(small)
    with metrics.count_compilations() as other:
        double(large)
    assert (first.count, again.count, other.count) == (1, 0, 1)
    told = metrics.compiled()
    assert told.count >= 2 and told.seconds > 0 and told.count >= told.from_cache


def test_peak_memory_sees_what_was_allocated():
    """Filling 64 MB raises the peak to more than that, in bytes."""
    metrics.reset_peak_memory()
    ballast = bytearray(64 << 20)
    assert len(ballast) < metrics.peak_memory_bytes() < 1 << 40


def test_a_stage_writes_log_and_events(tmp_path):
    """log.txt has lines and progress, TensorBoard has curves and texts, and closing releases both."""
    with metrics.Metrics(tmp_path, "teacher") as out:
        out.line("seven updates")
        with out.curve("teacher", 0) as curve:
            curve.scalars(1, {"loss": 2.0})
        out.text(1, "sample", "my fellow citizens")
        with metrics.progress("teacher", 3, "step") as bar:
            for _ in range(3):
                bar.advance(note="loss 2.0")
    log = (tmp_path / "log.txt").read_text()
    assert "teacher: seven updates" in log and "teacher 3/3  loss 2.0" in log
    events = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard" / "teacher").iterdir())
    assert b"loss" in events and b"my fellow citizens" in events
    with metrics.Metrics(tmp_path / "other", "compass") as out:
        out.line("elsewhere")
    assert "elsewhere" not in pathlib.Path(tmp_path / "log.txt").read_text()


def test_a_terminal_gets_a_bar_with_rate_and_time_left(monkeypatch, capsys):
    """On a terminal the bar shows count, rate and remaining time."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with metrics.progress("teacher", 4, "step") as bar:
        for _ in range(4):
            bar.advance(note="loss 1.5")
    shown = capsys.readouterr().err
    assert "4/4" in shown and "step/s" in shown and "loss 1.5" in shown and "0:00:00" in shown
