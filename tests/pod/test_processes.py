"""Several real processes on the loopback address give the results of one process, and recover from accidents."""

import json
import shutil
import signal

import jax
import numpy as np
import pytest

from tests.pod import processes, small
from tsdfm_jax import main
from tsdfm_jax.config import settings
from tsdfm_jax.data import records
from tsdfm_jax.runtime import mesh as meshes

STAGES = "teacher,compass,trajectories,student,evaluate,report"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A work directory with tokenizer, data and judges."""
    where = tmp_path_factory.mktemp("prepared")
    main.run(small.get_config(), where, ["tokenizer", "data", "judges"])
    return where


@pytest.fixture(scope="module")
def alone(prepared, tmp_path_factory):
    """A work directory with every stage run by this one process on its eight devices."""
    where = shutil.copytree(prepared, tmp_path_factory.mktemp("alone") / "run")
    main.run(small.get_config(), where, STAGES.split(","))
    return where


@pytest.fixture(scope="module")
def pair(prepared, tmp_path_factory):
    """A work directory with every stage run by two processes of two devices each, without accidents."""
    where = shutil.copytree(prepared, tmp_path_factory.mktemp("pair") / "run")
    ended(processes.run(where, STAGES, 2), 0, 0)
    return where


@pytest.fixture
def before(pair, tmp_path):
    """A copy of the pair's directory as it was before a stage: `before(stage)`."""

    def copied(stage):
        where = shutil.copytree(pair, tmp_path / "run")
        for later in STAGES.split(",")[STAGES.split(",").index(stage) :]:
            shutil.rmtree(where / later, ignore_errors=True)
        shutil.rmtree(where / "samples")
        (where / "log.txt").unlink()
        return where

    return copied


def ended(outcome, *codes):
    """Assert that every process ended with its code (None: any but 0); return their messages."""
    for (code, said), wanted in zip(outcome, codes, strict=True):
        assert code == wanted if wanted is not None else code != 0, (code, said[-3000:])
    return [said for _, said in outcome]


def done(where, stage):
    return json.loads((where / stage / "done.json").read_text())["figures"]


def same_curve(where, other, stage="teacher"):
    """Assert that two runs have the same losses, update by update, to 1e-5."""
    one, two = (np.array(done(at, stage)["curve"]) for at in (where, other))
    np.testing.assert_allclose(one, two, rtol=1e-5)
    assert len(one) == 12


def model_hash(where, stage="teacher"):
    return json.loads((where / stage / "model/meta.json").read_text())["hash"]


def shards(where):
    return {file.name: file.read_bytes() for file in sorted((where / "trajectories/round_0/shaped/whole").glob("*.array_record"))}


def tokens(where, variant):
    store = records.open_store(where / f"trajectories/round_0/{variant}/whole")
    return np.stack([store[i]["states"] for i in range(len(store))])


def checkpoints(where, stage="teacher"):
    """Steps of a network's finished checkpoints."""
    return sorted(int(path.name) for path in (where / stage / "checkpoints").iterdir() if path.name.isdigit())


def alike(where, alone):
    """Assert that two runs of every stage have the same curves, records, texts and table."""
    for stage in ("teacher", "student/shaped/round_0", "student/blind/round_0"):
        same_curve(where, alone, stage)
    for variant in ("shaped", "blind"):
        np.testing.assert_array_equal(tokens(where, variant), tokens(alone, variant))
    texts = {file.name: file.read_text() for file in (where / "samples").glob("*.jsonl")}
    assert len(texts) == 5 and texts == {file.name: file.read_text() for file in (alone / "samples").glob("*.jsonl")}
    tables = (json.loads((at / "report/report.json").read_text())["rows"] for at in (where, alone))
    for row, other in zip(*tables, strict=True):
        for name in row.keys() - {"tokens_per_second"}:
            assert row[name] == (pytest.approx(other[name], rel=1e-4) if name.startswith("ppl") else other[name])


def test_two_processes_get_what_one_gets(alone, pair):
    """Two processes give one process's curves to 1e-5, and the same records, texts and report rows."""
    alike(pair, alone)


def test_four_processes_share_the_weights(alone, prepared, tmp_path):
    """Four processes, batch over all and weights over pairs (data = fsdp = 2), give the same curve and records."""
    where = shutil.copytree(prepared, tmp_path / "run")
    flags = ("--config.mesh.data=2", "--config.mesh.fsdp=2")
    ended(processes.run(where, "teacher,compass,trajectories", 4, *flags, devices=1), 0, 0, 0, 0)
    same_curve(where, alone)
    for variant in ("shaped", "blind"):
        np.testing.assert_array_equal(tokens(where, variant), tokens(alone, variant))


def test_killed_in_training(pair, before):
    """After kill -9 of one process the other ends too, finished checkpoints stay, and a restart gives the same bits."""
    where = before("teacher")
    ended(processes.run(where, "teacher", 2, accident="killed_in_training", victim=1), None, -signal.SIGKILL)
    assert 4 in checkpoints(where) and max(checkpoints(where)) <= 8 and not (where / "teacher/done.json").exists()
    ended(processes.run(where, "teacher", 2), 0, 0)
    assert model_hash(where) == model_hash(pair) and done(where, "teacher")["curve"] == done(pair, "teacher")["curve"]


def test_killed_in_a_checkpoint_and_resumed_alone(alone, before):
    """A checkpoint killed before it gets its name does not count; a single process goes on from the one before."""
    where = before("teacher")
    ended(processes.run(where, "teacher", 2, accident="killed_in_a_checkpoint", victim=0), -signal.SIGKILL, None)
    assert checkpoints(where) == [4]
    main.run(small.get_config(), where, ["teacher"])
    assert "going on from step 4 of 12" in (where / "log.txt").read_text()
    same_curve(where, alone)


def test_terminated_and_resumed_on_half_the_devices(alone, before, monkeypatch):
    """On SIGTERM to one process both save, log it and exit with 143; two devices instead of four go on."""
    where = before("teacher")
    told = ended(processes.run(where, "teacher", 2, accident="terminated", victim=1), 143, 143)
    assert all("stopped at step 10 of 12; the same command goes on from there" in said for said in told)
    assert checkpoints(where)[-1] == 10
    half = meshes.make_mesh(meshes.MeshConfig(data=1, fsdp=2), jax.devices()[:2])
    monkeypatch.setattr(settings, "mesh", lambda config: half)
    main.run(small.get_config(), where, ["teacher"])
    same_curve(where, alone)


def test_a_full_disk_at_a_checkpoint_and_twice_the_devices(alone, before):
    """A full disk at a checkpoint gives one line per process and keeps earlier checkpoints; with room, eight devices go on."""
    where = before("teacher")
    told = ended(processes.run(where, "teacher", 2, accident="full_at_a_checkpoint", victim=0), 2, 2)
    assert all("no room" in said or "disk is full" in said for said in told), told
    assert checkpoints(where)[-1] == 8
    main.run(small.get_config(), where, ["teacher"])
    same_curve(where, alone)


def test_a_corrupted_newest_checkpoint(pair, before):
    """After one flipped byte all processes go back to the checkpoint before, log one line, and end at the same bits."""
    where = before("teacher")
    shutil.copytree(pair / "teacher", where / "teacher")
    shutil.rmtree(where / "teacher/model")
    (where / "teacher/done.json").unlink()
    victim = max((where / "teacher/checkpoints/12/state").rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    ended(processes.run(where, "teacher", 2), 0, 0)
    lines = [line for line in (where / "log.txt").read_text().splitlines() if "is damaged" in line]
    assert len(lines) == 1 and "checkpoints/12" in lines[0] and "going back to the one before" in lines[0]
    assert (where / "teacher/checkpoints.damaged/12").is_dir()
    assert model_hash(where) == model_hash(pair)


def test_killed_in_a_shard(pair, before):
    """A shard killed half way gets no name; finished shards stay, and a restart makes the rest to the bit."""
    where = before("trajectories")
    ended(processes.run(where, "trajectories", 2, accident="killed_in_a_shard", victim=1), None, -signal.SIGKILL)
    first = shards(where)
    assert "shard-00001.array_record" in first and "shard-00003.array_record" not in first
    assert all(shards(pair)[name] == content for name, content in first.items())
    stamp = (where / "trajectories/round_0/shaped/whole/shard-00001.array_record").stat().st_mtime_ns
    ended(processes.run(where, "trajectories", 2), 0, 0)
    assert shards(where) == shards(pair)
    assert (where / "trajectories/round_0/shaped/whole/shard-00001.array_record").stat().st_mtime_ns == stamp


def test_a_full_disk_at_a_shard(alone, before):
    """A full disk at a shard ends both processes, each with a message; finished shards stay, and a restart makes the rest."""
    where = before("trajectories")
    told = ended(processes.run(where, "trajectories", 2, accident="full_at_a_shard", victim=1), 1, 2)
    assert "another process of this run failed" in told[0] and "disk is full" in told[1]
    assert "shard-00001.array_record" in shards(where) and "shard-00003.array_record" not in shards(where)
    main.run(small.get_config(), where, ["trajectories"])
    for variant in ("shaped", "blind"):
        np.testing.assert_array_equal(tokens(where, variant), tokens(alone, variant))
