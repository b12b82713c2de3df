"""A hub dataset is read at one commit, file by file; without package or network one line says what to do."""

import sys
import types

import huggingface_hub
import pytest

from tsdfm_jax.data import corpus, hub

COMMIT = "0123456789" * 4
NAMES = ("README.md", "sample/10BT/000.jsonl", "sample/10BT/001.jsonl", "sample/100BT/000.jsonl", "data/a/b/c.jsonl")


class Api:
    """A stub of HfApi: a dataset of the files above, with its branch at `commit`."""

    commit = COMMIT

    def dataset_info(self, repo, revision, timeout):
        if repo != "owner/name":
            raise ConnectionError("no route\nto host")
        return types.SimpleNamespace(sha=self.commit if revision in ("main", "refs/pr/1") else revision)

    def list_repo_tree(self, repo, folder, *, recursive, revision, repo_type):
        assert recursive and repo_type == "dataset" and len(revision) == 40
        yield huggingface_hub.RepoFolder(path="sample", oid="0")
        for name in NAMES:
            if not folder or name.startswith(folder + "/"):
                yield huggingface_hub.RepoFile(path=name, size=1000, oid="0")


@pytest.fixture
def fetched(monkeypatch, tmp_path):
    """The hub replaced by a stub; a list that collects the names of fetched files."""
    names = []

    def download(repo_id, filename, repo_type, revision, etag_timeout):
        names.append(filename)
        file = tmp_path / revision / filename
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'{{"text": "{filename}"}}\n')
        return str(file)

    hub.matches.cache_clear()
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda **place: None)
    yield names
    hub.matches.cache_clear()


def config(glob="sample/10BT/*.jsonl", at="", **kwargs):
    return corpus.CorpusConfig(files=f"hf://datasets/owner/name{at}/{glob}", **kwargs)


def test_files_are_read_in_order_beside_local_ones(fetched, tmp_path):
    """Local files come first, then hub files, sorted, each once, each fetched only when it is read."""
    (tmp_path / "z.txt").write_text("local")
    both = config().files + f", {tmp_path}/*.txt, " + config("sample/*/000.jsonl").files
    stream = corpus.documents(corpus.CorpusConfig(files=both))
    assert next(stream) == "local" and fetched == []
    assert list(stream) == ["sample/100BT/000.jsonl", "sample/10BT/000.jsonl", "sample/10BT/001.jsonl"] == fetched
    assert corpus.size(config()) == 2000 and corpus.commits(config()) == [f"hf://datasets/owner/name@{COMMIT}"]


@pytest.mark.parametrize(
    "glob, numbers",
    [("**/*.jsonl", (4, 3, 1, 2)), ("**/000.jsonl", (3, 1)), ("data/**/c.jsonl", (4,)), ("data/a/b/c.jsonl", (4,)), ("*", (0,))],
)
def test_a_star_stays_in_its_folder(fetched, glob, numbers):
    """`*` matches within a folder, `**` any number of folders, zero included."""
    assert [file.name for file in hub.matches(config(glob).files)] == [NAMES[number] for number in numbers]


def test_the_commit_is_the_corpus(fetched, monkeypatch):
    """The fingerprint follows the commit: it changes when a branch moves, and is the same for the commit by its hash."""
    first = corpus.fingerprint(config())
    assert first == corpus.fingerprint(config(at="@" + COMMIT)) == corpus.fingerprint(config(at="@refs%2Fpr%2F1"))
    monkeypatch.setattr(Api, "commit", COMMIT[::-1])
    assert first == corpus.fingerprint(config())  # one process keeps the commit that it saw first
    hub.matches.cache_clear()
    assert first != corpus.fingerprint(config()) and first == corpus.fingerprint(config(at="@" + COMMIT))


def failing(**place):
    raise ConnectionError("the line is down\nfor good")


def test_what_cannot_be_had_is_one_line(fetched, monkeypatch):
    """No match, a bad address, no listing, no file, an unknown suffix and no package each give one line with a remedy."""
    for files, said in (
        ("hf://datasets/owner/name/none/*.jsonl", "none/*.jsonl"),
        ("hf://owner/name/*.jsonl", "hf://datasets/OWNER/NAME"),
        ("hf://datasets/other/name/*.jsonl", "no route.*local paths"),
        (config("*.md").files, "README.md.*suffix"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=said.replace("/*", "/[*]").replace("**", "*")) as error:
            corpus.documents(corpus.CorpusConfig(files=files))
        assert "\n" not in str(error.value)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", failing)
    with pytest.raises(ValueError, match="000.jsonl.*the line is down.*goes on.*local paths") as error:
        list(corpus.documents(config()))
    assert "\n" not in str(error.value)
    hub.matches.cache_clear()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[hf\]'.*local paths"):
        corpus.documents(config())
