"""Every message about a work directory names a remedy, and the remedy leads on."""

import json
import pathlib
import re
import shutil

import pytest

from tests.tiny import changed as config
from tsdfm_jax import main

REMEDIES = 12


def follow(workdir, stages=(), changes=None, remake=False):
    """Run, and do what each refusal says, until a run succeeds; returns the lines. AssertionError if they lead nowhere."""
    lines, todo = [], [(tuple(stages), remake)]
    while todo:
        assert len(lines) < REMEDIES, lines
        wanted, again = todo[-1]
        try:
            main.run(config(**(changes or {})), workdir, wanted, remake=again)
            todo.pop()
        except (ValueError, FileNotFoundError) as error:
            lines.append(line := str(error))
            assert "\n" not in line, line
            if delete := re.search(r"delete (that directory|it\b)", line):
                path = pathlib.Path(re.search(rf"{re.escape(str(workdir))}\S*[^\s:,;)]", line)[0])
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if stage := re.search(r"run --stage=(\w+)", line):
                todo.append(((stage[1],), again))
            elif "--remake" in line:
                todo[-1] = (wanted, True)
            else:
                assert delete, line
    return lines


def hashes(workdir):
    return {file.relative_to(workdir): json.loads(file.read_text())["hash"] for file in workdir.rglob("model/meta.json")}


def drop(*names):
    def damage(workdir):
        for name in names:
            path = workdir / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def foreign_shard(workdir):
    where = workdir / "trajectories/round_0/blind/whole"
    shutil.copy(where / "shard-00001.array_record", where / "shard-00009.array_record")
    shutil.rmtree(workdir / "student/blind")


def bad_checkpoints(workdir):
    drop("teacher/done.json", "teacher/model")(workdir)
    for file in (workdir / "teacher/checkpoints").glob("*/state/manifest.ocdbt"):
        file.write_bytes(b"")


def other_tokenizer(workdir):
    meta = workdir / "teacher/model/meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "tokenizer": "0" * 64}))


@pytest.mark.parametrize("damage, stages, said", [
    (drop("tokenizer/tokenizer.model"), ["sample"], "no tokenizer in .*run --stage=tokenizer"),
    (drop("tokenizer/tokenizer.model"), (), None),
    (drop("data/train-00000.array_record", "teacher"), ["teacher"], r"data is damaged \(.*train-00000.* is missing\).*--stage=data"),
    (drop("data/manifest.json", "data/lexicon.txt"), (), None),
    (drop("teacher/model"), ["compass"], "teacher is damaged .*--stage=teacher"),
    (drop("teacher/model", "student"), ["student"], "teacher is damaged .*--stage=teacher"),
    (drop("evaluate/rows.json", "report"), ["report"], r"evaluate is damaged \(.*rows.json is missing\).*--stage=evaluate"),
    (drop("evaluate/teacher_2_0.json", "report"), ["report"], "teacher_2_0.json is missing.*--stage=evaluate"),
    (drop("samples/student_blind_2_0.jsonl", "judges/0/model/meta.json"), (), None),
    (drop("trajectories/round_0/shaped/done.json", "trajectories/round_0/done.json", "student/shaped"), ["student"], "--stage=trajectories"),
    (foreign_shard, (), "shard-00009.* is foreign.*delete it"),
    (bad_checkpoints, (), "no checkpoint in .* can be read.*delete that directory"),
    (other_tokenizer, (), None),
    (drop("config.json", "log.txt", "compass/fingerprint.json", "compass/seconds.json"), (), None),
])  # fmt: skip
def test_a_remedy_leads_to_what_a_run_had(finished, copy, damage, stages, said):
    """After the damage, and after all that the messages say, every network is what it was, and all stages are done."""
    damage(copy)
    lines = follow(copy, stages)
    assert any(re.search(said, line) for line in lines) if said else not lines, lines
    assert follow(copy) == [] and hashes(copy) == hashes(finished)
    texts = "samples/student_shaped_2_0.jsonl"
    assert (copy / texts).read_bytes() == (finished / texts).read_bytes()


def test_each_stage_names_the_one_before_it(finished, tmp_path):
    """From an empty directory `--stage=sample` leads through all stages that it needs, in order."""
    lines = follow(tmp_path, ["sample"])
    named = [re.search(r"run --stage=(\w+)", line)[1] for line in lines]
    assert set(named) == {"tokenizer", "data", "judges", "teacher", "compass", "trajectories", "student"}
    shaped = pathlib.Path("student/shaped/round_0/model/meta.json")
    assert hashes(tmp_path)[shaped] == hashes(finished)[shaped]
    assert (tmp_path / "samples/sample.jsonl").read_bytes() == (finished / "samples/sample.jsonl").read_bytes()
