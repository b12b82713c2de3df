"""Whole, missing, damaged, stale and why: the states of a small chain of artefacts, a -> b -> c, with d beside b."""

import dataclasses
import os
import shutil

import pytest

from tests import earlier
from tsdfm_jax.lineage import bookkeeping, drafts, stamps
from tsdfm_jax.lineage.artefact import Artefact, differences, digest
from tsdfm_jax.lineage.states import Kind, not_adopted, roots, state


def chain(a=1, b=1, c=1, text="one", more=()):
    """The artefacts; `c` only measures with `d`."""
    made = {"a": Artefact(name="a", stage="a", keys={"a.key": a}, sources={"files": {"x.txt": text}})}
    made["b"] = Artefact(name="b", stage="b", keys={"b": {"deep": b, "list": [1, 2]}}, inputs={"a": made["a"]})
    made["d"] = Artefact(name="d", stage="d", keys={"d.key": 1}, inputs={"a": made["a"]})
    made["c"] = Artefact(
        name="c", stage="c", keys={"c.key": c}, inputs={"b": made["b"]}, figures_of={"d": made["d"]}, additions={"more": list(more)}
    )
    return made


def build(root, made, content=lambda name: f"content of {name}"):
    """Make all of them on disk."""
    contents = {name: content(name) for name in {*made, *"abcd"}}
    for name, artefact in made.items():
        record = bookkeeping.made_of(artefact, contents)
        bookkeeping.begin(root / name, record)
        (root / name / "file").write_text(f"{name} {artefact.identity}")
        bookkeeping.finish(root, name, record, {"seconds": 1.0}, contents[name])


def states(root, made):
    found = {}
    for name, artefact in made.items():
        found[name] = state(root, artefact, found)
    return found


def kinds(root, made):
    return {name: one.kind for name, one in states(root, made).items()}


ALL_DONE = dict.fromkeys("abdc", Kind.DONE)


def test_what_was_made_is_done(tmp_path):
    """A second look finds all whole, and the identity depends on nothing but what it is made of."""
    assert set(kinds(tmp_path, chain()).values()) == {Kind.MISSING}
    build(tmp_path, chain())
    assert kinds(tmp_path, chain()) == ALL_DONE
    assert chain()["c"].identity == chain()["c"].identity != chain(a=2)["c"].identity


@pytest.mark.parametrize("change, stale, said", [
    ({"a": 2}, "abdc", "a.key=1, but the config now says 2"),
    ({"b": 2}, "bc", "b.deep=1, but the config now says 2"),
    ({"c": 2}, "c", "c.key=1, but the config now says 2"),
    ({"text": "two"}, "abdc", "other data: x.txt has changed"),
])  # fmt: skip
def test_a_change_reaches_all_that_depends_on_it_and_nothing_else(tmp_path, change, stale, said):
    """The stale ones are exactly those downstream; only the first has a reason of its own, which names key and values."""
    build(tmp_path, chain())
    found = states(tmp_path, chain(**change))
    assert {name for name, one in found.items() if one.kind is Kind.STALE} == set(stale)
    assert [(one.artefact.name, one.reasons) for one in roots(found, found)] == [(stale[0], (said,))]


def test_only_its_figures_depend_on_what_it_is_measured_with(tmp_path):
    """d anew makes c stale in its figures alone: what is made from c stays."""
    made = chain()
    made["e"] = Artefact(name="e", stage="e", keys={}, inputs={"c": made["c"]})
    build(tmp_path, made)
    made["d"] = dataclasses.replace(made["d"], keys={"d.key": 2})
    made["c"] = dataclasses.replace(made["c"], figures_of={"d": made["d"]})
    made["e"] = dataclasses.replace(made["e"], inputs={"c": made["c"]})
    found = states(tmp_path, made)
    assert [name for name, one in found.items() if one.kind is Kind.STALE] == ["d", "c"] and found["c"].remeasured
    assert found["e"].kind is Kind.DONE


def test_what_was_made_of_something_that_is_gone_names_the_key(tmp_path):
    """Deleting an artefact does not hide that another is wanted in its place: what was made of it says which key differs."""
    build(tmp_path, chain())
    shutil.rmtree(tmp_path / "b")
    assert kinds(tmp_path, chain())["c"] is Kind.DONE
    found = states(tmp_path, chain(b=2))
    assert found["b"].kind is Kind.MISSING and found["c"].kind is Kind.STALE
    assert found["c"].reasons == ("another b than this config makes (b.deep=1, but the config now says 2)",)
    shutil.rmtree(tmp_path / "a")
    assert "another a than this config makes (a.key=1" in states(tmp_path, chain(a=2))["d"].reasons[0]


def test_another_input_of_the_same_content_is_another(tmp_path):
    """An input that was made again by another key, with the same result by chance: what was made of the first is stale."""
    build(tmp_path, chain())
    build(tmp_path, {name: chain(b=2)[name] for name in "b"})
    found = states(tmp_path, chain(b=2))
    assert found["b"].kind is Kind.DONE and found["c"].kind is Kind.STALE
    assert found["c"].reasons == ("another b than the one that is here now",)


def test_more_is_asked_for(tmp_path):
    """Additions make nothing wrong."""
    build(tmp_path, chain())
    assert kinds(tmp_path, chain(more=["judge"])) == ALL_DONE | {"c": Kind.MORE}


def test_the_same_name_with_another_content(tmp_path):
    """An artefact that was made again with another result, as on another mesh, makes stale what was made from the first."""
    build(tmp_path, chain())
    other = tmp_path / "other"
    build(other, chain(), lambda name: f"other content of {name}")
    shutil.rmtree(tmp_path / "b")
    shutil.copytree(other / "b", tmp_path / "b")
    found = states(tmp_path, chain())
    assert found["b"].kind is Kind.STALE and "another a than the one that is here now" in found["b"].reasons[0]
    record = bookkeeping.made_of(chain()["b"], {"a": "content of a"})
    bookkeeping.finish(tmp_path, "b", record, {}, "other content of b")
    found = states(tmp_path, chain())
    assert found["b"].kind is Kind.DONE and found["c"].kind is Kind.STALE and "another b" in found["c"].reasons[0]


def test_a_directory_of_another_run_is_stale_and_an_exchange_is_seen(tmp_path):
    """b of another config in b's place; d in b's place."""
    build(tmp_path, chain())
    build(tmp_path / "other", chain(b=2))
    shutil.rmtree(tmp_path / "b")
    shutil.copytree(tmp_path / "other/b", tmp_path / "b")
    assert kinds(tmp_path, chain())["b"] is Kind.STALE
    twins = {name: Artefact(name=name, stage="twin", keys={"key": 1}, inputs={"a": chain()["a"]}) for name in ("shaped", "blind")}
    build(tmp_path, chain() | twins)
    (tmp_path / "shaped/done.json").rename(tmp_path / "aside")
    shutil.copy(tmp_path / "blind/done.json", tmp_path / "shaped/done.json")
    found = kinds(tmp_path, chain() | twins)
    assert found["shaped"] is Kind.STALE and found["blind"] is Kind.DONE


@pytest.mark.parametrize("damage, said", [
    (lambda file: file.unlink(), "b/file is missing"),
    (lambda file: file.write_text("short"), "b/file has 5 bytes"),
    (lambda file: file.write_bytes(file.read_bytes()[::-1]), "b/file is not what was written"),
])  # fmt: skip
def test_a_damaged_file_is_named(tmp_path, damage, said):
    """A file that is gone, cut or altered; what is made from it keeps its own, sound result."""
    build(tmp_path, chain())
    damage(tmp_path / "b/file")
    found = states(tmp_path, chain())
    assert found["b"].kind is Kind.DAMAGED and said in found["b"].reasons[0] and found["c"].kind is Kind.DONE


def test_a_touched_file_is_read_once(tmp_path, monkeypatch):
    """Another time and the same bytes are no damage, and are remembered."""
    build(tmp_path, chain())
    os.utime(tmp_path / "b/file", ns=(1, 1))
    assert state(tmp_path, chain()["b"], states(tmp_path, chain()), restamp=True).kind is Kind.DONE
    monkeypatch.setattr(stamps.atomic, "sha256", lambda path: pytest.fail(f"{path} is read again"))
    assert kinds(tmp_path, chain()) == ALL_DONE


def test_an_unfinished_one_of_another_config_is_stale(tmp_path):
    """Hours of training are not thrown away because of a mistyped key."""
    build(tmp_path, chain())
    (tmp_path / "b/done.json").unlink()
    assert kinds(tmp_path, chain())["b"] is Kind.UNFINISHED
    assert kinds(tmp_path, chain(b=2))["b"] is Kind.STALE


def test_what_an_earlier_version_made(tmp_path):
    """Its keys are compared; what it was made of is not known, and nothing is made of it unseen."""
    earlier.finish(tmp_path / "b", {"b": {"deep": 1, "list": [1, 2]}, "a key that is gone": 3}, {"hash": "x"})
    (tmp_path / "a/file").parent.mkdir()
    (tmp_path / "a/file").touch()
    (tmp_path / "a/fingerprint.json").write_text('{"a.key": 1}')
    found = states(tmp_path, chain())
    assert found["b"].kind is Kind.EARLIER and found["b"].content is None and found["a"].kind is Kind.UNFINISHED
    assert kinds(tmp_path, chain(a=2, b=2))["b"] is Kind.STALE and kinds(tmp_path, chain(a=2))["a"] is Kind.STALE
    assert not_adopted(found["b"]).kind is Kind.STALE


def test_files_elsewhere_are_read_once(tmp_path, monkeypatch):
    """Size and time first; a new time or size is read again; a damaged memory costs only time."""
    file, memory = tmp_path / "text.txt", tmp_path / "sources.json"
    file.write_text("one")
    first = stamps.Memory(memory)
    digest_of_one = first.sha256(file)
    first.save()
    with monkeypatch.context() as patch:
        patch.setattr(stamps.atomic, "sha256", lambda path: pytest.fail("read again"))
        assert stamps.Memory(memory).sha256(file) == digest_of_one and stamps.Memory(memory).unread_bytes([file]) == 0
    file.write_text("two")
    os.utime(file, ns=(1, 1))
    assert stamps.Memory(memory).unread_bytes([file]) == 3 and stamps.Memory(memory).sha256(file) != digest_of_one
    memory.write_text('{"broken')
    assert stamps.Memory(memory).sha256(file) != digest_of_one


def test_a_draft_takes_the_place_when_it_is_whole(tmp_path):
    """The old one stays until then, and nothing is left over."""
    build(tmp_path, chain())
    build(drafts.root(tmp_path), chain(b=2))
    old = (tmp_path / "b/file").read_text()
    assert (tmp_path / "b/file").read_text() == old
    for name in "bc":
        drafts.install(tmp_path, name)
    assert (tmp_path / "b/file").read_text() != old and kinds(tmp_path, chain(b=2))["c"] is Kind.DONE
    for name in "ad":
        drafts.discard(tmp_path, name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("steps", range(8))
def test_a_kill_at_any_rename_loses_neither(tmp_path, monkeypatch, steps):
    """After a kill between any two steps of an exchange, `recover` gives the old one or the new one, whole."""
    build(tmp_path, chain())
    build(drafts.root(tmp_path), {"b": chain(b=2)["b"]})
    left = [steps]

    def step(call):
        def or_die(*given, **named):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return call(*given, **named)

        return or_die

    with monkeypatch.context() as patch:
        for name in ("rename", "mkdir", "rmdir"):
            patch.setattr(drafts.pathlib.Path, name, step(getattr(drafts.pathlib.Path, name)))
        patch.setattr(drafts.shutil, "rmtree", step(shutil.rmtree))
        try:
            drafts.install(tmp_path, "b")
        except KeyboardInterrupt:
            pass
    wanted = chain(b=2)["b"]
    drafts.recover(tmp_path, "b", wanted.identity)
    assert bookkeeping.done(tmp_path / "b")["identity"] == wanted.identity
    drafts.recover(tmp_path, "b", wanted.identity)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c", "d"]


def test_an_exchange_that_is_not_wanted_any_more_is_undone(tmp_path):
    """Killed when the old one was moved away, and then the old config again: the old one comes back."""
    build(tmp_path, chain())
    build(drafts.root(tmp_path), {"b": chain(b=2)["b"]})
    old = tmp_path / drafts.REPLACED / "b"
    old.parent.mkdir()
    (tmp_path / "b").rename(old)
    drafts.recover(tmp_path, "b", chain()["b"].identity)
    assert kinds(tmp_path, chain()) == ALL_DONE


def test_nothing_is_written_through_a_link(tmp_path):
    """A linked folder above an artefact becomes a folder of links, and a linked artefact is removed before it is made here."""
    common, run = tmp_path / "common", tmp_path / "run"
    for name in ("shaped", "blind"):
        (common / "student" / name).mkdir(parents=True)
        (common / "student" / name / "file").write_text(name)
    run.mkdir()
    (run / "student").symlink_to("../common/student")
    drafts.unlink(run, "student/shaped")
    assert not (run / "student").is_symlink() and not (run / "student/shaped").exists()
    assert (run / "student/blind/file").read_text() == "blind" and (common / "student/shaped/file").exists()


def test_differences_name_the_keys():
    """Nested keys are dotted; a missing one is unset."""
    assert list(differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "d": 3}})) == [("a.c", 2, "(unset)"), ("a.d", "(unset)", 3)]
    with pytest.raises(ValueError):
        digest({"a": float("nan")})
