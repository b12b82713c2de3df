"""The histories notice a run that lies, hangs, breaks or sends its user in circles."""

import json
import os
import pathlib
import random
import shutil
import signal
import time

import pytest

from tests.histories import actions, disk as disks, fresh as fresh_runs, history as histories, memo, mini, walk
from tsdfm_jax import main
from tsdfm_jax.runtime import checkpoint

FAMILY = "autoregressive"  # the cheapest


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """Two fresh runs; on the tests' eight devices a batch has eight texts."""
    patch = pytest.MonkeyPatch()
    plain = mini.get_config

    def for_eight_devices(state):
        config = plain(state)
        with config.unlocked():
            config.evaluate.batch = 8
        return config

    patch.setattr(mini, "get_config", for_eight_devices)
    with memo.installed():
        runs = fresh_runs.Fresh(tmp_path_factory.mktemp("fresh"))
        for steps in (2, 3):
            runs.directory(mini.start(FAMILY) | {"judges.optimiser.steps": steps})
        yield runs
    patch.undo()


@pytest.fixture
def history(fresh, tmp_path, monkeypatch):
    """A history of the smallest family that begins with a finished run, and whose runs do nothing but say that they are done."""
    seed = next(
        s for s in range(1000) if random.Random(f"{s}").choices(list(mini.FAMILIES), list(mini.FAMILIES.values()))[0] == FAMILY
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(main, "run", lambda config, workdir, stages=(), remake=False: None)
    with disks.watched(tmp_path / "W") as disk:
        played = histories.History(seed, disk, fresh)
        for name in ("W", "input"):
            shutil.copytree(fresh.directory(played.state) / name, name)
        yield played


def end(history):
    """How the history ends: (kind, text) of its finding; None if all is right."""
    try:
        history.settle()
        history.compare()
    except histories.Finding as finding:
        return finding.kind, finding.text


def edit(file, old, new):
    file = pathlib.Path(file)
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))


def number(text):
    """Another number for the first "samples" of a report."""
    report = json.loads(text)
    report["rows"][0]["ppl_token"] += 1e-9
    return json.dumps(report)


def test_an_untouched_run_is_right(history):
    """What follows is not noticed by chance: without it nothing is."""
    assert end(history) is None


LIES = {
    "rows.0.ppl_token": lambda w: (w / "report/report.json").write_text(number((w / "report/report.json").read_text())),
    "config/": lambda w: edit(w / "config.json", '"vocab_size": 300', '"vocab_size": 310'),
    "samples/autoregressive_8_0.jsonl": lambda w: edit(w / "samples/autoregressive_8_0.jsonl", '"text": "', '"text": "x'),
    "samples/sample.jsonl": lambda w: (w / "samples/sample.jsonl").unlink(),
    "autoregressive/model: hash": lambda w: edit(w / "autoregressive/model/meta.json", '"hash": "', '"hash": "0'),
    "data/train-00000.array_record": lambda w: os.truncate(w / "data/train-00000.array_record", 100),
    "tokenizer/tokenizer.model": lambda w: (w / "tokenizer/tokenizer.model").write_bytes(b""),
}


@pytest.mark.parametrize("name", LIES)
def test_a_false_result_is_wrong(history, name):
    """A number, a text, a network or a record that is not a fresh run's is named."""
    LIES[name](histories.W)
    kind, text = end(history)
    assert kind == "wrong" and name in text


def test_a_run_that_skips_what_is_stale_is_wrong(history):
    """The harness does not take a run's word for it that everything is done."""
    history.change("judges.optimiser.steps", 3)
    kind, text = end(history)
    assert kind == "wrong" and "judges/0/model: hash" in text


def test_a_network_that_no_change_concerns_must_be_kept(history, monkeypatch):
    """A run that makes the judges again for other samples has wasted their time."""
    history.whole = history.state
    monkeypatch.setattr(main, "run", lambda *_, **__: edit(histories.W / "judges/0/model/meta.json", "{", "{"))
    history.change("evaluate.samples", 3)
    assert end(history)[0] == "wrong"


def test_a_network_that_an_earlier_command_made_otherwise_may_be_made_again(history, monkeypatch):
    """The judges of a value that is gone are stale, though the value is what it was when all was whole."""
    history.whole = history.state
    meta = histories.W / "judges/0/model/meta.json"
    monkeypatch.setattr(main, "run", lambda *_, **__: meta.write_text(meta.read_text()))
    history.change("judges.optimiser.steps", 3)
    history.run(("judges",))
    history.change("judges.optimiser.steps", 2)
    history.run()
    with pytest.raises(histories.Finding, match="nothing alone changed"):
        history.run()


def refuse(line):
    def run(config, workdir, stages=(), remake=False):
        raise ValueError(line)

    return run


@pytest.mark.parametrize(
    "line", ("this is not right", "run again with --remake", "run --stage=judges first", "the same command goes on")
)
def test_a_refusal_that_leads_nowhere_is_a_dead_end(history, monkeypatch, line):
    """No remedy, or one that does not help however often it is followed."""
    monkeypatch.setattr(main, "run", refuse(line))
    kind, text = end(history)
    assert kind == "dead_ends" and line in text


def test_a_remedy_is_followed(history, monkeypatch):
    """`delete PATH` and `--remake` are done once and lead on."""
    calls = []

    def run(config, workdir, stages=(), remake=False):
        calls.append(remake)
        if (workdir / "judges").exists():
            raise ValueError(
                f"{workdir.absolute()}/judges is damaged: delete {workdir}/judges, and the same command makes it again"
            )
        if not remake:
            raise ValueError("W/teacher is stale: --remake makes it again")

    monkeypatch.setattr(main, "run", run)
    history.settle()
    assert calls[-1] and not (histories.W / "judges").exists()


@pytest.mark.parametrize("error", (TypeError("x"), ValueError("two\nlines"), KeyError("x"), checkpoint.Misfit("a\nb")))
def test_anything_but_one_line_is_a_traceback(history, monkeypatch, error):
    def run(*_, **__):
        raise error

    monkeypatch.setattr(main, "run", run)
    assert end(history)[0] == "tracebacks"


def test_a_run_that_does_not_end_hangs(history, monkeypatch):
    """Also where a lock waits."""
    monkeypatch.setattr(main, "run", lambda *_, **__: time.sleep(20))
    with histories.limited(1):
        assert end(history)[0] == "hangs"


def test_two_commands_at_once_are_wrong(history, monkeypatch):
    """A second command that is let in is noticed; one that is refused is not held against the run."""
    held = []

    def run(config, workdir, stages=(), remake=False):
        if held and lock:
            raise ValueError("another command runs here")
        held.append(1)
        for i in range(70):
            (workdir / "log.txt").write_text(str(i))
        held.pop()

    monkeypatch.setattr(main, "run", run)
    lock = True
    actions.second(history)
    lock = False
    with pytest.raises(histories.Finding, match="two commands"):
        actions.second(history)


def test_after_a_crash_nothing_is_written(history, monkeypatch):
    """Neither by what the run does when it is stopped, nor by a thread that it leaves behind."""
    written = []

    def run(config, workdir, stages=(), remake=False):
        try:
            for i in range(40):
                (workdir / f"part_{i}").write_text("x")
                written.append(i)
        finally:
            (workdir / "cleaned_up").write_text("x")

    monkeypatch.setattr(main, "run", run)
    assert history.interrupted(history.disk.die, at=12) == ("killed", "")
    assert written == list(range(11)) and sorted(f.name for f in histories.W.glob("part_*")) == sorted(f"part_{i}" for i in written)
    assert not (histories.W / "cleaned_up").exists()
    run(None, histories.W)  # the next process can write
    assert (histories.W / "cleaned_up").exists()


def test_a_signal_comes_where_it_is_aimed(history, monkeypatch):
    """A run that does not handle SIGINT is stopped at that very change."""

    def run(config, workdir, stages=(), remake=False):
        for i in range(40):
            (workdir / f"part_{i}").write_text("x")

    monkeypatch.setattr(main, "run", run)
    assert history.interrupted(lambda: os.kill(os.getpid(), signal.SIGINT), at=12)[0] == "stopped"
    assert len(list(histories.W.glob("part_*"))) in (11, 12)


def test_a_command_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    """Finished histories are not played again, and the counts are of all of them."""
    asked = []

    def play_all(seeds, jobs, cache, scratch, keep, report):
        for seed in seeds:
            asked.append(seed)
            if seed == 3 and len(asked) == 4:
                raise KeyboardInterrupt
            outcome = {"outcome": "wrong", "what": "a\nb", "history": ["c"]} if seed == 1 else {"outcome": "right"}
            report({"seed": seed, "refused": 2, "actions": ["lose"], "seconds": 1.0, "fresh": 0, **outcome})

    monkeypatch.setattr(walk, "play_all", play_all)
    command = ["--walks=6", f"--out={tmp_path / 'out.json'}", f"--cache={tmp_path}"]
    assert walk.main(command) == 130
    assert walk.main(command) == 1
    assert asked == [0, 1, 2, 3, 3, 4, 5]
    found = json.loads((tmp_path / "out.json").read_text())
    assert list(found)[:5] == ["walks", "wrong", "tracebacks", "dead_ends", "hangs"]
    assert (found["walks"], found["wrong"], found["refused"], found["actions"]) == (6, 1, 12, {"lose": 6})
    assert found["failed"] == [{"seed": 1, "outcome": "wrong", "what": "a\nb", "history": ["c"]}]
