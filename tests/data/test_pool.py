"""Tokenising in several processes gives the same bytes as in one, with bounded read-ahead, and survives stops and kills."""

import hashlib
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
import tokenizers

from tests import plain, tiny
from tsdfm_jax import main
from tsdfm_jax.data import ingest, packer, pool, tokenizer, windows
from tsdfm_jax.stages import data as stage

CFG = windows.WindowsConfig(length=16, holdout=0.2, seed=3, windows_per_shard=40)
BATCH = 1500  # characters: a few documents, so that a small corpus has many batches
ROOT = pathlib.Path(__file__).parents[2]
# SHA-256 of the lexicon and tokens of `whole`, as made by the code of commit 912e2f0.
GOLDEN = "0505576d297c542a15cbfb019d9df0820d5dd24226c012a4a92a8b4f96e77ab5"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Small batches, and a lexicon that is full in mid-corpus, so that a wrong order shows."""
    monkeypatch.setattr(ingest, "_BATCH_CHARACTERS", BATCH)
    monkeypatch.setattr(packer, "_LEXICON", 700)


def prepare(directory, documents, **kwargs):
    return windows.prepare(iter(documents), plain.Bytes(), directory, CFG, **kwargs)


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The files that one process makes of the documents."""
    directory = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packer, "_LEXICON", 700)
        prepare(directory, plain.documents(150))
    return files(directory)


def test_several_processes_stopped_and_restarted_give_the_same_bytes(tmp_path, whole):
    """Two processes, stopped after some documents, then three to the end give the same files as one process."""
    after = iter([False] * 50 + [True])
    with pytest.raises(InterruptedError):
        prepare(tmp_path, plain.documents(150), workers=2, stop=lambda: next(after))
    assert (tmp_path / "progress.npz").exists()
    taken, costs = [], ingest.Costs()
    found = prepare(tmp_path, plain.documents(150), workers=3, progress=taken.append, costs=costs)
    assert files(tmp_path) == whole and found["lexicon"]["full"]
    assert len(taken) == 99 and costs.workers == 3  # the first 51 were not tokenised again
    assert costs.bytes == sum(len(text) for text in plain.documents(150)[51:]) == costs.tokens - 99
    assert min(costs.reading, costs.tokenising, costs.packing) > 0 and costs.elapsed > costs.reading + costs.packing


def test_the_bytes_are_those_of_the_first_version(tmp_path, whole):
    """Tokens and lexicon are those of the first version, before there were several processes; the manifest has its keys."""
    for name, data in whole.items():
        (tmp_path / name).write_bytes(data)
    digest = hashlib.sha256(whole["lexicon.txt"])
    for split in ("train", "heldout"):
        digest.update(np.concatenate(list(windows.batches(tmp_path, split, 1, 0, shuffle=False, repeat=False))).astype("<u2"))
    assert digest.hexdigest() == GOLDEN
    assert set(windows.manifest(tmp_path)) == {
        *("schema", "config", "tokenizer", "vocab_size", "eos_id", "corpus", "dtype"),
        *("documents", "bytes", "split_by", "splits", "lexicon", "sha256"),
    }


def test_the_reader_stays_near_the_writer(tmp_path):
    """With slow workers, at most `ahead` batches are read and not yet packed."""
    read, packed, most = itertools.count(), itertools.count(), 0

    def reading():
        nonlocal most
        for text in plain.documents(80, "WAIT"):
            # The repr of a counter gives its value without advancing it.
            most = max(most, int(repr(read)[6:-1]) - int(repr(packed)[6:-1]))
            next(read)
            yield text

    prepare(tmp_path, reading(), workers=2, progress=lambda taken: next(packed))
    a_batch = 1 + BATCH // min(map(len, plain.documents(80)))
    assert a_batch < most <= (pool.most_in_progress(2) + 1) * a_batch < 100


def test_what_waits_for_its_shard_holds_no_more_than_itself(tmp_path):
    """A few held-out tokens of each large batch do not keep those batches in memory."""
    pack = packer.Packer(tmp_path, {}, length=16, windows_per_shard=1 << 20, dtype="uint16")
    tracemalloc.start()
    for _ in range(50):
        pack.add("heldout", np.zeros(200_000, "<u2")[:100], size=100, documents=1)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert pack.splits["heldout"].tokens == 5000 and held < 400_000


def test_a_worker_loads_little_and_its_error_is_one_line(tmp_path):
    """A worker imports no heavy library, uses one thread, and its error arrives in one line."""
    with pytest.raises(ValueError) as error:
        prepare(tmp_path, [*plain.documents(4), "TELL me"], workers=2)
    assert one_line(error) == "[] 1"


def test_a_worker_that_dies_is_one_line(tmp_path, whole):
    """A killed worker gives one line, no hang, and the same call goes on; during a stop it counts as a stop."""
    documents = plain.documents(150)
    begun = time.monotonic()
    with pytest.raises(ValueError, match="has died.*--config.data.workers") as error:
        prepare(tmp_path, [*documents[:100], "DIE", *documents[100:]], workers=2)
    assert one_line(error) and time.monotonic() - begun < 30
    asked = []
    with pytest.raises(InterruptedError):
        prepare(
            tmp_path.with_name("stopped"), [*documents[:9], "DIE"], workers=2, stop=lambda: bool(asked.append(0)) or len(asked) > 12
        )
    prepare(tmp_path, documents)
    assert files(tmp_path) == whole


SCRIPT = """
import multiprocessing, pathlib, signal, sys
sys.path.insert(0, sys.argv[1])
from tests import plain
from tsdfm_jax.data import ingest, packer, windows
ingest._BATCH_CHARACTERS, packer._LEXICON = 1500, 700
cfg = windows.WindowsConfig(length=16, holdout=0.2, seed=3, windows_per_shard=40)
stopped, seen = [], []
signal.signal(signal.SIGINT, lambda *_: stopped.append(1))
def progress(taken):
    seen.append(taken)
    if len(seen) == 20:
        print(*(p.pid for p in multiprocessing.active_children()), flush=True)
        sys.stdin.readline()
try:
    choices = dict(workers=2, progress=progress, stop=lambda: bool(stopped))
    windows.prepare(iter(plain.documents(150)), plain.Bytes(), pathlib.Path(sys.argv[2]), cfg, **choices)
except InterruptedError as error:
    print(error, flush=True)
"""


def gone(number):
    """Whether a process has ended; a zombie counts as ended."""
    try:
        return pathlib.Path(f"/proc/{number}/stat").read_text().rsplit(")")[-1].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_to_the_terminal_or_a_kill_leaves_no_one_behind(tmp_path, whole, how):
    """Ctrl-C stops the main process cleanly, a kill ends its workers too; a restart gives the same bytes."""
    command = [sys.executable, "-c", SCRIPT, str(ROOT), str(tmp_path)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, start_new_session=True) as process:
        workers = [int(number) for number in process.stdout.readline().split()]
        assert len(workers) == 2 and not any(map(gone, workers))
        if how == signal.SIGINT:
            os.killpg(process.pid, how)
            said, _ = process.communicate("\n", timeout=60)
            assert "stopped after 20 documents" in said and process.returncode == 0
        else:
            process.kill()
    until = time.monotonic() + 30
    while not all(map(gone, workers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert all(map(gone, workers))
    prepare(tmp_path, plain.documents(150))
    assert files(tmp_path) == whole


def test_little_text_has_no_pool():
    """Much text gets one process per core, little text one process; an explicit number is used as it is."""
    assert pool.processes(0, 10**6) == 1 and pool.processes(0, 10**12) == pool.cores() >= 1
    assert pool.processes(3, 1) == 3 and pool.processes(1, 10**12) == 1


def test_a_tokenizer_json_is_the_same_in_a_worker(tmp_path):
    """A tokenizer.json gives the same tokens in workers; text that spells the document end stays text."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    model.train_from_iterator(plain.documents(9), trainer)
    words = tokenizer.Json(model.to_str().encode())
    documents = [*plain.documents(20), "one <|endoftext|> two"]
    for workers in (1, 2):
        windows.prepare(iter(documents), words, tmp_path / str(workers), CFG, workers=workers)
    assert files(tmp_path / "1") == files(tmp_path / "2")
    rows = [windows.batches(tmp_path / "2", split, 1, 0, shuffle=False, repeat=False) for split in ("train", "heldout")]
    assert sum(int((batch == words.eos_id).sum()) for split in rows for batch in split) <= len(documents)


def test_the_slowest_part_is_the_one_nearest_its_limit():
    """The slowest part is the one with the highest load per process; the log line has rates, seconds and that part."""
    costs = ingest.Costs(workers=2, bytes=8_000_000, tokens=2_000_000, reading=0.9, tokenising=7.6, packing=1.0, elapsed=4.0)
    assert costs.slowest() == ("tokenising", 1.9, 2)
    assert stage.costs_line(costs).startswith(
        "8.0 MB in 4.0 s, 2.0 MB/s, 500,000 tokens/s; reading 0.9 s, tokenising 7.6 s in 2 processes"
    )
    assert stage.costs_line(costs).endswith("slowest: tokenising, 1.9 of 2")
    costs.packing = 3.9
    assert costs.slowest()[0] == stage.rates(costs)["slowest"]["part"] == "packing"


def test_the_stage_leaves_its_costs_and_does_not_mind_other_workers(tmp_path, monkeypatch):
    """done.json has rates and seconds; with another number of workers the stage is still finished; a bad number is refused."""
    config = tiny.changed(**{"data.limit_bytes": 60_000, "data.workers": 1})
    main.run(config, tmp_path, ["tokenizer", "data"])
    done = json.loads((tmp_path / "data/done.json").read_text())["figures"]
    assert done["costs"]["bytes"] == windows.manifest(tmp_path / "data")["bytes"] == 60_000
    assert done["costs"]["tokens"] == sum(split["tokens"] for split in done["splits"].values())
    assert sum(done["costs"]["seconds"].values()) > 0 and "slowest: " in (tmp_path / "log.txt").read_text()
    monkeypatch.setattr(windows, "prepare", None)
    config.data.workers = 3
    main.run(config, tmp_path, ["data"])
    config.data.workers = -1
    with pytest.raises(ValueError, match="data.workers -1 .* at least 0"):
        main.run(config, tmp_path, ["data"])
