"""Windows hold exactly the corpus, and are the same after any interruption."""

import hashlib
import itertools
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys

import grain
import hypothesis
import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import strategies

from tsdfm_jax.data import corpus, tokenizer, windows
from tsdfm_jax.storage import atomic

_LENGTH = 16
_CFG = windows.WindowsConfig(length=_LENGTH, holdout=0.2, seed=3, windows_per_shard=120)


class _Bytes(tokenizer.Tokenizer):
    """A byte tokenizer with document end 256."""

    vocab_size, eos_id, content_hash = 257, 256, "bytes"

    def encode_batch(self, texts):
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]

    def _decode_known(self, ids):
        return bytes(ids).decode(errors="replace")


def _documents(count=60):
    rng = np.random.default_rng(0)
    return [f"{number:03d} " + " ".join(f"w{w:x}" for w in rng.integers(0, 4096, rng.integers(1, 60))) for number in range(count)]


def _prepare(directory, documents, cfg=_CFG, **kwargs):
    return windows.prepare(iter(documents), _Bytes(), directory, cfg, **kwargs)


def _files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def _tokens(directory, split):
    batch = windows.batches(directory, split, 1, 0, shuffle=False, repeat=False)
    return np.concatenate(list(batch)).reshape(-1)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    directory = tmp_path_factory.mktemp("windows")
    _prepare(directory, _documents())
    return directory


@hypothesis.given(
    sizes=strategies.lists(strategies.integers(1, 90), min_size=2, max_size=40),
    length=strategies.integers(1, 12),
    per_shard=strategies.integers(1, 9),
    seed=strategies.integers(0, 99),
)
@hypothesis.settings(max_examples=15, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
def test_the_splits_are_the_corpus(tmp_path_factory, sizes, length, per_shard, seed):
    """Every document is whole in one split; only tokens that fill no window are dropped, and they are counted."""
    directory = tmp_path_factory.mktemp("property")
    documents = [f"{number}" + "x" * (size + length) for number, size in enumerate(sizes)]
    cfg = windows.WindowsConfig(length=length, holdout=0.3, seed=seed, windows_per_shard=per_shard)
    found = _prepare(directory, documents, cfg)
    seen, left = [], []
    for split in ("train", "heldout"):
        account, tokens = found["splits"][split], _tokens(directory, split)
        assert account["windows"] * length == len(tokens) > 0
        assert account["dropped_tokens"] == account["tokens"] - len(tokens) < length
        assert all(entry["records"] == per_shard for entry in account["shards"][:-1])
        text = "".join("\0" if token == 256 else chr(token) for token in tokens)
        seen += text.split("\0")[:-1]
        left.append(text.split("\0")[-1])
    whole = set(seen)
    assert len(whole) == len(seen) and whole <= set(documents)
    assert len(documents) - len(whole) <= 2  # each is longer than a window, so a split's remainder touches only its last
    assert all(any(document.startswith(rest) for document in documents) for rest in left)
    assert found["documents"] == len(documents) and found["split_by"] == "documents"
    assert found["bytes"] == sum(map(len, documents)) == sum(part["bytes"] for part in found["splits"].values())


def test_a_stop_at_every_document_changes_nothing(tmp_path, prepared):
    """A run stopped after every document and restarted gives the same directory to the byte."""
    for _ in range(len(_documents())):
        with pytest.raises(InterruptedError):
            _prepare(tmp_path, _documents(), stop=lambda: True)
    _prepare(tmp_path, _documents(), stop=lambda: True)
    assert _files(tmp_path) == _files(prepared)


def test_a_kill_at_every_file_changes_nothing(tmp_path, prepared, monkeypatch):
    """A run killed before or after any renaming, with a partial temporary file left, gives the same result."""
    replace, moves = os.replace, 0

    class Killed(BaseException):
        pass

    for target, after in itertools.product(range(1000), (False, True)):
        moves = 0

        def dying(source, destination, target=target, after=after):
            nonlocal moves
            moves += 1
            if moves - 1 == target:
                if after:
                    replace(source, destination)
                raise Killed
            replace(source, destination)

        shutil.rmtree(tmp_path)
        monkeypatch.setattr(os, "replace", dying)
        try:
            _prepare(tmp_path, _documents())
            finished = True
        except Killed:
            finished = False
        monkeypatch.setattr(os, "replace", replace)
        (tmp_path / "train-00002.array_record.tmp").write_bytes(b"torn")
        progressed = []
        _prepare(tmp_path, _documents(), progress=progressed.append)
        (tmp_path / "train-00002.array_record.tmp").unlink(missing_ok=True)
        assert _files(tmp_path) == _files(prepared), (target, after)
        if finished:
            break
    assert target > 5


_SCRIPT = """
import sys, os, signal, pathlib
from tsdfm_jax.data import windows
sys.path.insert(0, sys.argv[1])
import test_windows
seen = []
def progress(bytes):
    seen.append(bytes)
    if len(seen) == 37: os.kill(os.getpid(), signal.SIGKILL)
test_windows._prepare(pathlib.Path(sys.argv[2]), test_windows._documents(), progress=progress)
"""


def test_a_true_kill_loses_no_closed_shard(tmp_path, prepared):
    """After SIGKILL the next run starts after the last closed shard and gives the same bytes."""
    here = pathlib.Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": str(here.parents[1])}
    done = subprocess.run([sys.executable, "-c", _SCRIPT, str(here), str(tmp_path)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    progressed = []
    _prepare(tmp_path, _documents(), progress=progressed.append)
    assert 0 < len(progressed) < 60
    assert _files(tmp_path) == _files(prepared)


def test_a_finished_directory_is_left_alone(tmp_path, prepared):
    """A second call returns the manifest without reading documents; another length or corpus is refused by name."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    assert _prepare(tmp_path, iter(int, 0)) == windows.manifest(prepared)
    with pytest.raises(ValueError, match="config"):
        _prepare(tmp_path, _documents(), windows.WindowsConfig(length=8))
    with pytest.raises(ValueError, match="corpus"):
        _prepare(tmp_path, _documents(), fingerprint="other")


def test_another_configuration_starts_afresh(tmp_path):
    """Files of an unfinished run with another length are not mixed in."""
    calls = iter([False] * 20 + [True])
    with pytest.raises(InterruptedError):
        _prepare(tmp_path / "a", _documents(), windows.WindowsConfig(length=8, windows_per_shard=15), stop=lambda: next(calls))
    assert len(list((tmp_path / "a").glob("*.array_record"))) > 15
    for name in "ab":
        _prepare(tmp_path / name, _documents())
    assert _files(tmp_path / "a") == _files(tmp_path / "b")


def test_one_document_is_split_by_windows(tmp_path):
    """A corpus of one document is split by windows into both splits, and the manifest says so."""
    text = " ".join(f"word{number}" for number in range(400))
    found = _prepare(tmp_path, [text])
    assert found["split_by"] == "windows" and found["documents"] == 1
    rows = np.concatenate([_tokens(tmp_path, split) for split in ("train", "heldout")]).reshape(-1, _LENGTH)
    expected = np.frombuffer(text.encode(), np.uint8)[: rows.size].reshape(-1, _LENGTH)
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, expected.tolist()))
    assert found["splits"]["heldout"]["windows"] == round(0.2 * len(rows))
    assert sum(part["tokens"] for part in found["splits"].values()) == len(text) + 1


def test_too_long_a_window_is_refused_with_both_numbers(tmp_path):
    """A window length beyond the corpus gives one line with the length and the number of tokens."""
    with pytest.raises(ValueError, match=r"length 999 .* 5 tokens|length 999 .* 6 tokens"):
        _prepare(tmp_path / "two", ["four", "fivey"], windows.WindowsConfig(length=999))
    with pytest.raises(ValueError, match=r"length 999 .* 8 tokens"):
        _prepare(tmp_path / "one", ["a small"], windows.WindowsConfig(length=999))
    assert not list(tmp_path.glob("*/manifest.json"))


def _take(iterator, count):
    return [next(iterator).copy() for _ in range(count)]


def test_an_epoch_is_a_permutation_and_the_next_is_another(prepared):
    """With a batch of one, each epoch holds every window once, in its own order, which the seed fixes."""
    total = windows.manifest(prepared)["splits"]["heldout"]["windows"]
    plain = sorted(map(tuple, _tokens(prepared, "heldout").reshape(-1, _LENGTH).tolist()))
    for other in (0, 1):
        stream = _take(windows.batches(prepared, "heldout", 1, other), 2 * total)
        again = _take(windows.batches(prepared, "heldout", 1, other), 2 * total)
        assert np.array_equal(stream, again)
        epochs = [[tuple(row[0].tolist()) for row in stream[start : start + total]] for start in (0, total)]
        assert sorted(epochs[0]) == sorted(epochs[1]) == plain and epochs[0] != epochs[1]
    assert not np.array_equal(stream, _take(windows.batches(prepared, "heldout", 1, 0), 2 * total))


@pytest.mark.parametrize("parts", [[(0,)], [(0,), (1,)], [(0,), (1,), (2,), (3,)], [(0, 2), (1, 3)], [(0,), (1, 2, 3)]])
def test_a_batch_does_not_depend_on_who_reads_it(prepared, parts):
    """Each process's share has its rows of the batch, over several epochs, for any split into parts."""
    of = sum(map(len, parts))
    steps = 3 * windows.manifest(prepared)["splits"]["train"]["windows"] // 8
    whole = _take(windows.batches(prepared, "train", 8, 5), steps)
    for mine in parts:
        iterator = windows.batches(prepared, "train", 8, 5, (mine, of))
        for step, share in enumerate(_take(iterator, steps)):
            assert np.array_equal(share.reshape(len(mine), -1, _LENGTH), whole[step].reshape(of, -1, _LENGTH)[list(mine)])
        assert iterator.get_state() == {"next_index": steps}  # the same for every share: a checkpoint keeps it once


def test_an_iterator_resumes_to_the_bit(prepared, tmp_path):
    """From a state, in memory or through Orbax, the batches go on unchanged, across an epoch's end."""
    steps = windows.manifest(prepared)["splits"]["train"]["windows"] // 8 + 3
    iterator = windows.batches(prepared, "train", 8, 0)
    _take(iterator, 5)
    state = iterator.get_state()
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(0, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(iterator)))
        manager.wait_until_finished()
        expected = _take(iterator, steps)
        resumed = windows.batches(prepared, "train", 8, 0)
        resumed.set_state(state)
        assert np.array_equal(_take(resumed, steps), expected)
        restored = windows.batches(prepared, "train", 8, 0)
        manager.restore(0, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(restored)))
        assert np.array_equal(_take(restored, steps), expected)


def test_bad_batches_are_refused(prepared):
    """A batch larger than its split or not divisible by its parts, and an unknown split, are refused with the values."""
    with pytest.raises(ValueError, match=r"batch 100000 .* \d+ windows in the heldout split"):
        windows.batches(prepared, "heldout", 100_000, 0)
    with pytest.raises(ValueError, match="batch 8 .* 3 parts"):
        windows.batches(prepared, "train", 8, 0, ((0,), 3))
    with pytest.raises(ValueError, match="'test'"):
        windows.batches(prepared, "test", 8, 0)


def test_held_out_windows_are_fixed_and_nested(prepared):
    """The first N held-out windows are the same for any number asked; too many are refused."""
    total = windows.manifest(prepared)["splits"]["heldout"]["windows"]
    rows = windows.heldout(prepared, total)
    assert rows.shape == (total, _LENGTH) and rows.dtype == np.int32
    assert np.array_equal(windows.heldout(prepared, 5), rows[:5])
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, _tokens(prepared, "heldout").reshape(-1, _LENGTH).tolist()))
    with pytest.raises(ValueError, match=f"{total + 1} .* {total}"):
        windows.heldout(prepared, total + 1)


def test_texts_are_the_windows_read(prepared):
    """The texts of a split are its decoded windows, in order, with document ends as empty lines."""
    read = list(windows.texts(prepared, "train", _Bytes()))
    rows = _tokens(prepared, "train").reshape(-1, _LENGTH)
    assert read == [_Bytes().decode_pretty(row) for row in rows] and any("\n\n" in text for text in read)


def _damage(directory, how):
    shard = directory / "train-00001.array_record"
    data = bytearray(shard.read_bytes())
    if how == "truncated":
        shard.write_bytes(data[:-100])
    elif how == "corrupted":
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
    elif how == "foreign":
        shutil.copy(shard, directory / "train-00099.array_record")
    elif how == "missing":
        shard.unlink()
    else:
        (directory / "lexicon.txt").write_text("other\n")


@pytest.mark.parametrize("how", ["truncated", "corrupted", "foreign", "missing", "lexicon"])
def test_damage_is_found_and_named(prepared, tmp_path, how):
    """A file that does not match the manifest is named in one line; `batches` also finds wrong sizes and files."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    windows.verify(tmp_path)
    _damage(tmp_path, how)
    name = {"foreign": "train-00099", "lexicon": "lexicon.txt"}.get(how, "train-00001")
    with pytest.raises(ValueError, match=name) as caught:
        windows.verify(tmp_path)
    assert "\n" not in str(caught.value)
    if how in ("truncated", "foreign", "missing"):
        with pytest.raises(ValueError, match=name):
            windows.batches(tmp_path, "heldout", 1, 0)


def test_an_unfinished_directory_is_said_to_be(tmp_path):
    """A directory without a manifest gives an error that says what to do."""
    with pytest.raises(FileNotFoundError, match="prepare"):
        windows.batches(tmp_path, "train", 1, 0)


def test_a_refusing_disk_leaves_nothing_half_written(tmp_path, prepared):
    """When a write fails, OSError is raised, no shard has its name, and the next run completes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            _prepare(tmp_path, _documents())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.glob("*.array_record")) and not list(tmp_path.glob("*.tmp"))
    _prepare(tmp_path, _documents())
    assert _files(tmp_path) == _files(prepared)


def test_the_lexicon_is_the_training_text_alone(tmp_path):
    """The lexicon has the words of the training documents and none that only held-out documents have."""
    names = [a + b for a, b in itertools.product("abcdefghij", repeat=2)]
    documents = [f"{name}{name}x {name.upper()}'s padding to fill a window or more" for name in names]
    _prepare(tmp_path, documents)
    stored, trained = windows.stored_lexicon(tmp_path).words, list(windows.texts(tmp_path, "train", _Bytes()))
    assert {"padding", "window"} <= stored
    held = "".join(windows.texts(tmp_path, "heldout", _Bytes()))
    for name in names:
        in_train = any(f"{name}{name}x" in text for text in trained)
        if f"{name}{name}x" in held:
            assert f"{name}{name}x" not in stored
        elif in_train:
            assert {f"{name}{name}x", f"{name}'s"} <= stored


def test_lexical_share_counts_whole_words():
    """The lexical share ignores case and each window's first and last word, which may be cut."""
    known = windows.lexicon(["The people don't ask.", "Why"])
    assert known.words == {"the", "people", "don't", "ask", "why"}
    assert windows.lexical_share(["eople THE people zzz as"], known) == pytest.approx(2 / 3)
    assert windows.lexical_share(["x the y", "x why y"], known) == 1.0
    assert windows.lexical_share(["two words"], known) is None


def test_the_lexicon_knows_every_script(tmp_path):
    """Words of Cyrillic, Greek, Devanagari and Chinese text are in the lexicon, and the manifest names their pattern."""
    text = "Мы, народ Штатов; ο λαός, we the people don\u2019t हम भारत के लोग, 我們人民。"
    _prepare(tmp_path, [f"{text} {i}" for i in range(20)])
    stored = windows.stored_lexicon(tmp_path)
    assert stored.words >= {"народ", "штатов", "λαός", "people", "don\u2019t", "लोग", "我們人民"}
    assert windows.manifest(tmp_path)["lexicon"]["pattern"] == stored.pattern == "letters"
    assert windows.lexical_share(["x народ Штатов лампа y"], stored) == pytest.approx(2 / 3)


def test_an_old_directory_keeps_its_words(tmp_path):
    """A manifest that names no pattern is of ASCII words, and the share of a text is counted with the same words."""
    _prepare(tmp_path, [f"the café of the people number {i}" for i in range(20)])
    body = {key: value for key, value in windows.manifest(tmp_path).items() if key != "sha256"}
    words = b"caf\nnumber\nof\npeople\nthe\n"
    (tmp_path / "lexicon.txt").write_bytes(words)
    body["lexicon"] = {"words": 5, "full": False, "sha256": hashlib.sha256(words).hexdigest()}
    atomic.write_sealed(tmp_path / "manifest.json", body)
    windows.verify(tmp_path)
    stored = windows.stored_lexicon(tmp_path)
    assert stored.pattern == "ascii"
    assert windows.lexical_share(["x the café of y"], stored) == 1.0
    assert windows.lexical_share(["x народ y"], stored) is None


def test_real_text_is_in_its_own_lexicon(tmp_path):
    """Between 80 % and 100 % of the words of held-out real English are in the training lexicon."""
    limited = corpus.CorpusConfig(limit_bytes=300_000)
    tokenizer.train(corpus.documents(limited), tmp_path, 512, 200_000, 0)
    loaded = tokenizer.load(tmp_path)
    windows.prepare(corpus.documents(limited), loaded, tmp_path / "data", windows.WindowsConfig(length=64))
    share = windows.lexical_share(windows.texts(tmp_path / "data", "heldout", loaded), windows.stored_lexicon(tmp_path / "data"))
    assert 0.8 < share < 1


@pytest.mark.parametrize(
    ("documents", "says"), [(["a"], "one document with 2 tokens"), (["a", "b"], "split of the corpus, \\d tokens")]
)
def test_a_corpus_of_letters_is_refused(tmp_path, documents, says):
    """Too little text for one window is a line with the two keys that can change it."""
    with pytest.raises(ValueError, match=f"data.length {_LENGTH} .*{says}.*data.files") as caught:
        _prepare(tmp_path, documents)
    assert "\n" not in str(caught.value)
