"""New files: whole, and one of several that are written at once."""

import concurrent.futures
import errno
import json
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


def write(workdir, text, seed=0):
    """Write a text as the stage `sample` does."""
    ask = prompts.Ask(seed=seed)
    sample.write_jsonl(tiny.get_config(), workdir, [types.SimpleNamespace(ask=ask, index=0, tokens=[1], text=text, given=[])])


def texts(workdir):
    """The text in each file of samples, by its name."""
    return {file.name: json.loads(file.read_text())["text"] for file in (workdir / "samples").glob("*.jsonl")}


def test_samples_do_not_overwrite_each_other(tmp_path, links):
    """The newest texts are in sample.jsonl, those of other requests beside it; the same texts change nothing but the time."""
    write(tmp_path, "a", 0), write(tmp_path, "b", 1), write(tmp_path, "a", 0), write(tmp_path, "b", 1)
    assert texts(tmp_path) == {"sample.jsonl": "b", "sample_1.jsonl": "a", "sample_2.jsonl": "b"}
    file = tmp_path / "samples/sample.jsonl"
    before, inode = file.read_bytes(), file.stat().st_ino
    os.utime(file, (1, 1))
    write(tmp_path, "b", 1)
    assert file.read_bytes() == before and file.stat().st_ino == inode and file.stat().st_mtime > time.time() - 60


def test_another_network_replaces_what_it_was_asked_before(tmp_path):
    """The same request, other texts: those of a network that is no longer here go."""
    write(tmp_path, "old"), write(tmp_path, "new")
    assert texts(tmp_path) == {"sample.jsonl": "new"}


def test_samples_at_once(tmp_path, links):
    """Several that are written at one moment are all there."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: write(tmp_path, f"text {i}", i), range(24)))
    assert sorted(texts(tmp_path).values()) == sorted(f"text {i}" for i in range(24))
