"""Robustness: any config builds or is refused, any text survives, any damage is found or harmless."""

import collections
import itertools
import json
import re
import sys

import hypothesis
import numpy as np
import pytest
from absl import flags
from hypothesis import strategies
from ml_collections import config_flags

from tests.laws import building
from tsdfm_jax.config import validation
from tsdfm_jax.data import corpus, packer, records, tokenizer, windows


def some(max_examples):
    """Hypothesis settings with the same examples in every run."""
    every = list(hypothesis.HealthCheck)
    return hypothesis.settings(max_examples=max_examples, deadline=None, derandomize=True, suppress_health_check=every)


def one_line(error, *names):
    """Assert that an error's text is one line that contains one of the names."""
    assert "\n" not in str(error) and any(str(name) in str(error) for name in names), str(error)


def accepted(changes):
    """Whether a config is accepted; a refusal must be one line with a changed key or value."""
    try:
        validation.validate(building.config(changes))
        return True
    except ValueError as error:
        one_line(error, *(key.split(".")[-1] for key in changes), *changes.values())
        return False


@pytest.mark.parametrize("section", sorted({key.split(".")[0] for key, _ in building.LEAVES}))
def test_every_value_of_every_key_is_accepted_or_refused(section):
    """Any single changed value is accepted or refused in one line; the values of NEVER are always refused."""
    for key, default in building.LEAVES:
        if key.split(".")[0] == section:
            for value in building.pool(default):
                accepted({key: value})
            assert not any(accepted({key: value}) for value in building.NEVER[type(default)]), key


TYPED = ["many", "", "-1", "1e400", "nan", "True", "(", "()", "(1, 'a')", "[[1]]", "9" * 30]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_whatever_is_typed_is_accepted_or_refused(monkeypatch):
    """Any text typed for any key gives an accepted config or a one-line error."""
    for key, _ in building.LEAVES:
        for text in TYPED:
            values = flags.FlagValues()
            monkeypatch.setattr(sys, "argv", ["tsdfm_jax", "--config=tests/tiny.py", f"--config.{key}={text}"])
            config_flags.DEFINE_config_file("config", flag_values=values)
            try:
                values(sys.argv)
                validation.validate(values.config)
            except (flags.Error, ValueError) as error:
                one_line(error, key.split(".")[-1], text)


def test_any_combination_builds_or_is_refused(figures, monkeypatch):
    """Every accepted config can be traced: initialisation, every stage's loss, generation and sampling.

    A random config is built if it has a choice that no earlier one had, until every choice has been built.
    """
    for module, apply in building.TRACED.items():
        monkeypatch.setattr(module, "apply", apply)
    left = {(key, value) for key, values in building.CHOICES.items() for value in values}
    built = 0
    for seed in range(200):
        changes = building.drawn(seed)
        if left & changes.items() and accepted(changes):
            building.builds(building.config(changes))
            left, built = left - changes.items(), built + 1
    assert not left
    figures.setdefault("robustness", {})["configs_built"] = built


def texts(least=0):
    """A strategy of documents: any Unicode, and typical parts of text files."""
    piece = strategies.one_of(
        strategies.text(max_size=30), strategies.sampled_from(["\u2581", "\n\n", "\r\n", " ", "</s>", "the end"])
    )
    return strategies.lists(strategies.lists(piece, max_size=5).map("".join), min_size=least, max_size=8)


def trained(documents, directory, size):
    """A tokenizer of this size, or of the size that a refusal names; None where the text is too short for any."""
    try:
        tokenizer.train(iter(documents), directory, size, 10_000, 0)
    except ValueError as error:
        one_line(error, size, "no text")
        if not (named := re.search(r"(?:need|at most) (\d+)", str(error))):
            return None
        tokenizer.train(iter(documents), directory, int(named[1]), 10_000, 0)
    return tokenizer.load(directory)


@hypothesis.given(documents=texts(1), others=texts(1), size=strategies.integers(2, 600))
@some(40)
def test_a_tokenizer_of_any_text_keeps_any_other(tmp_path_factory, documents, others, size):
    """A tokenizer trained on any text decodes that text and any other exactly; a size that a refusal names works."""
    tok = trained(documents, tmp_path_factory.mktemp("any"), size)
    for text in documents + others if tok else ():
        ids = tok.encode(text)
        assert tok.decode(ids) == text and tok.eos_id not in ids and (ids < tok.vocab_size).all()


PATTERNS = strategies.one_of(
    strategies.sampled_from(["", "all.jsonl", "*", "*.jsonl, *.jsonl", "[", "**", ",", "..", "jax", "tsdfm_jax", "text", "sotu"]),
    strategies.text(strategies.characters(codec="utf-8", exclude_characters="/\0"), max_size=6),
)


def written(documents, directory, kind):
    """Write the documents as .jsonl or .txt; return the corpus config."""
    if kind == "jsonl":
        lines = (json.dumps({"text": text}, ensure_ascii=len(text) % 2 == 0) for text in documents)
        (directory / "all.jsonl").write_text("\n".join(lines), newline="")
    else:
        for number, text in enumerate(documents):
            (directory / f"{number:03d}.txt").write_text(text, newline="")
    return corpus.CorpusConfig(files=str(directory / f"*.{kind}"))


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A tokenizer of real text."""
    where = tmp_path_factory.mktemp("words")
    tokenizer.train(corpus.documents(corpus.CorpusConfig(limit_bytes=100_000)), where, 330, 50_000, 0)
    return tokenizer.load(where)


@hypothesis.given(texts(), strategies.sampled_from(["txt", "jsonl"]), strategies.integers(1, 9), strategies.integers(0, 9))
@some(40)
def test_any_documents_come_back(tmp_path_factory, words, documents, kind, length, seed):
    """Each split's windows are its documents, in order and token for token, except for an incomplete last window."""
    where, cfg = (
        tmp_path_factory.mktemp("documents"),
        windows.WindowsConfig(length=length, seed=seed, holdout=0.3, windows_per_shard=5),
    )
    try:
        windows.prepare(corpus.documents(written(documents, where, kind)), words, where / "data", cfg)
    except (ValueError, FileNotFoundError) as error:
        return one_line(error, "empty", f"length {length} ", "no file matches")
    # A byte-order mark at a file's start marks the encoding and is not text.
    kept = [text for text in (t.removeprefix("\ufeff") if kind == "txt" else t for t in documents) if text.strip()]
    rows = {split: everything(where / "data", split) for split in packer.SPLITS}
    ids = [np.append(words.encode(text), words.eos_id) for text in kept]
    assert [words.decode_pretty(stream) for stream in ids] == [text + tokenizer.BREAK for text in kept]
    if len(kept) == 1:  # split by windows
        whole_NL = ids[0][: len(ids[0]) // length * length].reshape(-1, length)
        assert sorted(map(tuple, np.concatenate(list(rows.values())))) == sorted(map(tuple, whole_NL))
        return
    for split, rows_NL in rows.items():
        stream = np.concatenate([stream for i, stream in enumerate(ids) if packer.split_of(i, seed, 0.3) == split])
        assert (rows_NL.ravel() == stream[: rows_NL.size]).all() and 0 <= len(stream) - rows_NL.size < length


def everything(directory, split):
    """All windows of a split in batch order; reading by number must give the same windows."""
    batches = windows.batches(directory, split, 1, 0, shuffle=False, repeat=False)
    rows_NL = np.concatenate(list(batches))
    other_NL = windows.ordered(directory, split, 3)(range(len(rows_NL)))
    assert sorted(map(tuple, other_NL)) == sorted(map(tuple, rows_NL))
    return rows_NL


SCHEMA = records.Schema(fields={"states": ("uint16", (2, 4)), "energy": ("float32", (2,))})


@pytest.fixture(scope="module")
def built(tmp_path_factory, words):
    """A directory with a store of trajectory records and one of windows."""
    root = tmp_path_factory.mktemp("built")
    for number in range(2):
        states = np.arange(24).reshape(3, 2, 4) + 300 * number
        records.write_shard(
            root / "records", number, SCHEMA, {"states": states, "energy": (states[:, :, 0] / 7).astype(np.float32)}
        )
    records.seal(root / "records", SCHEMA, seed=0, config={"a": 1}, sources={"teacher": "x"}, shards=2)
    documents = [f"document {number} speaks of {'peace ' * number}" for number in range(4)]
    windows.prepare(iter(documents), words, root / "windows", windows.WindowsConfig(length=4, holdout=0.3, windows_per_shard=9))
    return root


def read_records(where):
    """([all records, manifest], shards that count as finished)."""
    store = records.open_store(where)
    rows = [field.tolist() for i in range(len(store)) for field in store[i].values()]
    return [rows, store.manifest], records.finished_shards(where, SCHEMA)


def read_windows(where):
    """([all windows, manifest, lexicon], None)."""
    rows = [everything(where, "train").tolist(), windows.heldout(where, 1).tolist()]
    return [rows, windows.manifest(where), windows.stored_lexicon(where)], None


READERS = {"records": read_records, "windows": read_windows}


def outcome(root, name, content, good):
    """Damage one file and read its store: "found" (named in one line), "made again" (its shard) or "harmless"."""
    file, reader = root / name, READERS[name.split("/")[0]]
    before = file.read_bytes()
    file.write_bytes(content)
    try:
        found, finished = reader(file.parent)
        assert found == good[0]
        return "harmless" if finished == good[1] else "made again"
    except (ValueError, FileNotFoundError) as error:
        one_line(error, file.name)
        return "found"
    finally:
        file.write_bytes(before)


FILES = ["records/manifest.json", "records/shard-00000.json", "records/shard-00000.array_record"]
FILES += ["windows/manifest.json", "windows/train-00000.array_record", "windows/lexicon.txt"]


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_byte_is_found_or_harmless(built, figures, name):
    """A flipped bit in any nonzero byte, or in every 2048th byte, never causes a crash or silently different data."""
    data, good = (built / name).read_bytes(), READERS[name.split("/")[0]]((built / name).parent)
    places = sorted({*np.flatnonzero(np.frombuffer(data, np.uint8)).tolist(), *range(0, len(data), 2048), len(data) - 1})
    flipped = (data[:i] + bytes([data[i] ^ 1 << i % 8]) + data[i + 1 :] for i in places)
    found = collections.Counter(outcome(built, name, content, good) for content in flipped)
    figures.setdefault("robustness", {})[f"flips of {name}"] = found
    assert (
        set(found) == {"made again"}
        if "shard-00000.json" in name
        else found["found"] == len(places) or name.startswith("windows/train")
    )


@hypothesis.given(
    strategies.sampled_from(FILES),
    strategies.sampled_from(["flip", "cut", "insert", "drop"]),
    strategies.floats(0, 1),
    strategies.integers(1, 255),
)
@some(150)
def test_any_damage_is_found_or_harmless(built, name, how, place, value):
    """A changed, added or missing byte or a cut anywhere never causes a crash or silently different data."""
    data = (built / name).read_bytes()
    i = min(int(place * len(data)), len(data) - 1)
    content = {"flip": data[:i] + bytes([data[i] ^ value]) + data[i + 1 :], "cut": data[:i]}
    content |= {"insert": data[:i] + bytes([value]) + data[i:], "drop": data[:i] + data[i + 1 :]}
    outcome(built, name, content[how], READERS[name.split("/")[0]]((built / name).parent))


def test_a_damaged_note_of_progress_is_no_progress(tmp_path, words):
    """With any byte of its progress file damaged, an interrupted packing restores all of its state or nothing."""
    documents, stops, cfg = ["one of them", "another", "and a third one"], iter([False, True]), windows.WindowsConfig(length=4)
    with pytest.raises(InterruptedError):
        windows.prepare(iter(documents), words, tmp_path, cfg, stop=lambda: next(stops))
    file = tmp_path / "progress.npz"
    data = file.read_bytes()
    identity = json.loads(np.load(file)["state"].tobytes())["identity"]

    def taken(restored):
        state = packer.Packer(tmp_path, identity, length=4, windows_per_shard=cfg.windows_per_shard, dtype=identity["dtype"])
        if restored:
            state.restore()
        return state.documents, state.bytes, state.words, [part.joined().tolist() for part in state.splits.values()]

    whole, nothing = taken(True), taken(False)
    assert whole[0] == 2
    for i, flip in itertools.product(range(len(data)), (1, 64)):
        file.write_bytes(data[:i] + bytes([data[i] ^ flip]) + data[i + 1 :])
        assert taken(True) in (whole, nothing)


@hypothesis.given(strategies.fixed_dictionaries({}, optional=dict.fromkeys(("package", "files", "field"), PATTERNS)))
@hypothesis.example({"files": "0 "})
@hypothesis.example({"files": "all.jsonl, 0 ,*"})
@some(60)
def test_any_corpus_setting_reads_or_is_refused(tmp_path_factory, monkeypatch, fields):
    """Any package, glob or field name gives documents or a one-line error."""
    where = tmp_path_factory.mktemp("corpus")
    written(["a", "b c"], where, "jsonl")
    with monkeypatch.context() as patched:
        patched.chdir(where)
        try:
            assert all(isinstance(text, str) for text in corpus.documents(corpus.CorpusConfig(**fields, limit_bytes=100)))
        except (ValueError, FileNotFoundError) as error:
            # Of several globs the message names the one without a match, without its spaces.
            globs = filter(None, (glob.strip() for glob in fields.get("files", "").split(",")))
            one_line(error, *(repr(value)[1:-1] for value in (*fields.values(), *globs)))
