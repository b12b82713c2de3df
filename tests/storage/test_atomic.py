"""New files: whole, and one of several that are written at once."""

import concurrent.futures
import errno
import os
import time
import types

import pytest

from tests import tiny
from tsdfm_jax.data import prompts
from tsdfm_jax.stages import sample
from tsdfm_jax.storage import atomic


@pytest.fixture(params=[True, False], ids=["links", "no links"])
def links(request, monkeypatch):
    """File systems with hard links and without."""

    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    if not request.param:
        monkeypatch.setattr(os, "link", refuse)


def test_create_leaves_what_is_there(tmp_path, links):
    """A new file is written whole; one that is there keeps its content, and no draft stays."""
    assert atomic.create(tmp_path / "x", b"first") and not atomic.create(tmp_path / "x", b"second")
    assert (tmp_path / "x").read_bytes() == b"first" and [file.name for file in tmp_path.iterdir()] == ["x"]


def write(workdir, *texts):
    """Write texts as the stage `sample` does; return the file's name."""
    made = [types.SimpleNamespace(ask=prompts.Ask(), index=i, tokens=[1], text=text, given=[]) for i, text in enumerate(texts)]
    return sample.write_jsonl(tiny.get_config(), workdir, made).name


def test_samples_do_not_overwrite_each_other(tmp_path, links):
    """Other texts go to the next number; the same texts change nothing but their file's time."""
    assert [write(tmp_path, *texts) for texts in (["a"], ["b"], ["a", "b"], ["b"], ["a"])] == [
        "sample.jsonl", "sample_2.jsonl", "sample_3.jsonl", "sample_2.jsonl", "sample.jsonl",
    ]  # fmt: skip
    file = tmp_path / "samples/sample_2.jsonl"
    before, inode = file.read_bytes(), file.stat().st_ino
    os.utime(file, (1, 1))
    assert write(tmp_path, "b") == "sample_2.jsonl" and file.read_bytes() == before and file.stat().st_ino == inode
    assert file.stat().st_mtime > time.time() - 60
    assert len(list((tmp_path / "samples").iterdir())) == 3


def test_samples_at_once(tmp_path, links):
    """Several that are written at one moment each get a file of their own."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda i: write(tmp_path, f"text {i}"), range(24)))
    assert len(set(names)) == 24 == len(list((tmp_path / "samples").iterdir()))
    for i, name in enumerate(names):
        assert f"text {i}" in (tmp_path / "samples" / name).read_text()
