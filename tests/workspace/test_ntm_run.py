"""A run of NTM in its work directory, with stand-ins for its stages: what is made, what goes on, what a change makes stale."""

import json
import logging
import pathlib
import shutil

import pytest

from tests import ntm_standin
from tests.ntm_tiny import changed
from tsdfm_jax import main
from tsdfm_jax.lineage.states import Kind
from tsdfm_jax.runtime import signals
from tsdfm_jax.workspace import graph, ntm_artefacts, plan, record, status

NETWORKS = {"flow_matching", "ntm", "ntm_identity", "denoiser"}
AFTER_NTM = {"denoiser", "evaluate"}
LATENT = {"autoencoder.channels": 4}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run with an autoencoder."""
    workdir = tmp_path_factory.mktemp("ntm") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        ntm_standin.install(monkeypatch)
        main.run(changed(**LATENT), workdir)
        assert ntm_standin.calls(workdir) == ["images", "autoencoder", "flow_matching", "ntm", "ntm_identity", "denoiser",
                                              "evaluate", "report", "sample"]  # fmt: skip
    return workdir


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    """A copy of it that a test may damage, with the stand-ins in place."""
    ntm_standin.install(monkeypatch)
    return shutil.copytree(made, tmp_path / "run")


def stale(config, workdir):
    states = plan.make(config, workdir, change=False).states
    return {name for name, one in states.items() if one.kind is Kind.STALE} - {"report"}


def test_what_stands_on_disk(run):
    """Models, their meta without a tokenizer, records; the rate of a training counts images; a second command does nothing."""
    meta = json.loads((run / "ntm_identity/model/meta.json").read_text())
    assert meta["network"] == {"shape": {"width": 16}} and "tokenizer" not in meta
    figures = json.loads((run / "flow_matching/done.json").read_text())["figures"]
    assert figures["images_per_second"] > 0 and "tokens_per_second" not in figures and figures["hash"] == json.loads(
        (run / "flow_matching/model/meta.json").read_text()
    )["hash"]  # fmt: skip
    assert list((run / "tensorboard/ntm").iterdir()) and record.config(run).method == "ntm"
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*/done.json")}
    main.run(changed(**LATENT), run)
    assert ntm_standin.calls(run) == ["sample"] and before == {file: file.stat().st_mtime_ns for file in before}
    assert stale(changed(**LATENT), run) == set()


@pytest.mark.parametrize("key, value, depend", [
    ("seed", 1, {"images", "autoencoder", *NETWORKS, "evaluate"}),
    ("images.limit", 64, {"images", "autoencoder", *NETWORKS, "evaluate"}),
    ("images.patch", 1, NETWORKS | {"evaluate"}),
    ("autoencoder.width", 16, {"autoencoder", *NETWORKS, "evaluate"}),
    ("autoencoder.channels", 2, {"autoencoder", *NETWORKS, "evaluate"}),
    ("model.blocks", 3, NETWORKS | {"evaluate"}),
    ("transporter.blocks", 2, {"ntm"} | AFTER_NTM),
    ("ntm.optimiser.steps", 9, {"ntm", "ntm_identity"} | AFTER_NTM),
    ("ntm.t_sample", 0.03, {"flow_matching", "ntm", "ntm_identity"} | AFTER_NTM),
    ("evaluate.heldout", 8, {"flow_matching", "ntm", "ntm_identity", "evaluate"}),
    ("denoiser.batch", 8, AFTER_NTM),
    ("denoiser.clip", 0.5, AFTER_NTM),
    ("evaluate.samples", 16, {"evaluate"}),
    ("evaluate.classifier.width", 4, {"evaluate"}),
    ("evaluate.steps", (2, 3), set()),
    ("evaluate.guidance", (0.0, 0.5), set()),
    ("models", ("flow_matching", "ntm"), set()),
    ("sample.number", 2, set()),
    ("mesh.fsdp", 2, set()),
    ("log_every", 2, set()),
])  # fmt: skip
def test_what_a_key_makes_stale(made, monkeypatch, key, value, depend):
    """Exactly what depends on it; the network without a transporter has nothing of the transporter's keys."""
    ntm_standin.install(monkeypatch)
    assert stale(changed(**{**LATENT, key: value}), made) == depend


def test_no_autoencoder(run):
    """Without latents nothing depends on the autoencoder's keys, and what was trained on latents is refused by the key."""
    pixels = stale(changed(), run)
    assert pixels == NETWORKS | {"evaluate"}
    with pytest.raises(ValueError, match="autoencoder.channels=4, but the config now says 0.*--remake"):
        main.run(changed(), run)
    made = graph.artefacts(changed(), lambda name, stage: {})
    other = graph.artefacts(changed(**{"autoencoder.width": 16, "autoencoder.batch": 8}), lambda name, stage: {})
    assert {n: one.identity for n, one in made.items()} == {n: one.identity for n, one in other.items()}


def test_a_remake_and_a_measurement(run):
    """--remake makes what depends on the key and no more; a key that measures trains nothing again."""
    main.run(changed(**LATENT, **{"transporter.blocks": 2}), run, remake=True)
    assert ntm_standin.calls(run) == ["ntm", "denoiser", "evaluate", "report", "sample"]
    weights = {name: (run / name / "model/meta.json").read_bytes() for name in ("flow_matching", "ntm")}
    c = changed(**LATENT, **{"transporter.blocks": 2, "evaluate.heldout": 8})
    main.run(c, run, remake=True)
    assert ntm_standin.calls(run) == ["flow_matching", "ntm", "ntm_identity", "evaluate", "report", "sample"]
    assert weights == {name: (run / name / "model/meta.json").read_bytes() for name in weights} and stale(c, run) == set()


def test_stopped_and_resumed(made, tmp_path, monkeypatch):
    """A training that is asked to stop goes on from its checkpoint, to the same weights."""
    ntm_standin.install(monkeypatch)
    with monkeypatch.context() as patch, pytest.raises(signals.Interrupted, match="flow_matching: stopped at step 4 of 8"):
        patch.setattr(signals, "stop_agreed", lambda step=0, every=1: step == 4)
        main.run(changed(**LATENT), tmp_path / "run")
    main.run(changed(**LATENT), tmp_path / "run", ["flow_matching"])
    assert "flow_matching: going on from step 4 of 8" in (tmp_path / "run/log.txt").read_text()
    hashes = [json.loads((at / "flow_matching/model/meta.json").read_text())["hash"] for at in (made, tmp_path / "run")]
    assert hashes[0] == hashes[1]


def test_a_damaged_record_of_images(run):
    """Another record under the same name is noticed, and made again; what stands on it stays, for it is the same."""
    (run / "images/train/manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="images is damaged .*--stage=images"):
        main.run(changed(**LATENT), run, ["evaluate"])
    main.run(changed(**LATENT), run)
    assert ntm_standin.calls(run) == ["images", "sample"] and stale(changed(**LATENT), run) == set()


def test_images_of_another_content(tmp_path, monkeypatch):
    """Images of a folder are known by their files' content; a change is refused with the file's name."""
    ntm_standin.install(monkeypatch)
    folder = tmp_path / "pictures"
    for name in ("a/0.png", "a/1.png", "b/0.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    c, run = changed(**{"images.files": str(folder)}), tmp_path / "run"
    with pytest.raises(FileNotFoundError, match="images.files=.*nowhere holds no image"):
        main.run(changed(**{"images.files": "nowhere"}), run)
    assert not run.exists()
    main.run(c, run, ["images"])
    assert stale(c, run) == set()
    (folder / "a/1.png").write_text("another")
    with pytest.raises(ValueError, match="other data: .*a/1.png has changed"):
        main.run(c, run, ["images"])
    shutil.rmtree(folder)  # what was made from them stays
    assert stale(c, run) == set()


def test_large_folders_are_known_together():
    """A folder of many files has one hash, which depends on every name and content; a small one has one for each file."""
    many = {f"x/{i}.png": str(i) for i in range(ntm_artefacts.PER_FOLDER + 1)}
    few = {"y/0.png": "0", "/z.png": "1", "w.npz": "2"}
    found = ntm_artefacts.by_folder(many | few)
    assert found.items() >= few.items() and len(found) == len(few) + 1
    assert found["x/ (101 files)"] != ntm_artefacts.by_folder(many | {"x/3.png": "4"})["x/ (101 files)"]
    assert found["x/ (101 files)"] == ntm_artefacts.by_folder(dict(reversed(many.items())))["x/ (101 files)"]


def test_the_status_of_a_run(run, capsys):
    """Each artefact with its state and reason; the directory's own config does for `launch.status`."""
    assert status.show(record.config(run), run)
    assert not status.show(changed(**LATENT, **{"ntm.batch": 8}), run)
    said = " ".join(capsys.readouterr().out.split())
    assert all(name in said for name in NETWORKS | {"images", "autoencoder"}) and "ntm.batch=16, but the config now says 8" in said


def test_what_sample_asks_for(run):
    """Sampling alone reads the model, and the denoiser where it is asked for; it changes no config.json."""
    before = (run / "config.json").read_text()
    main.run(changed(**LATENT, **{"sample.number": 2}), run, ["sample"])
    assert ntm_standin.calls(run) == ["sample"] and (run / "config.json").read_text() == before
    learned = {"sample.denoise": "learned", "denoiser.batch": 8}
    with pytest.raises(ValueError, match="denoiser.batch=16, but the config now says 8"):
        main.run(changed(**LATENT, **learned), run, ["sample"])
    main.run(changed(**LATENT, **{"denoiser.batch": 8}), run, ["sample"])
    assert ntm_standin.calls(run) == ["sample"]


def test_a_stage_that_no_model_needs(run, caplog, monkeypatch):
    """It is skipped with the reason: the key that says so."""
    monkeypatch.setattr(logging.getLogger("tsdfm_jax"), "propagate", True)
    few = {"models": ("flow_matching",), "sample.model": "flow_matching"}
    main.run(changed(**LATENT, **few), run, ["ntm", "denoiser"])
    assert {"ntm: skipped, since models is flow_matching", "denoiser: skipped, since models is flow_matching"} <= {
        one.getMessage() for one in caplog.records
    }
    caplog.clear()
    main.run(changed(), pathlib.Path(run).parent / "pixels", ["images", "autoencoder"])
    assert "autoencoder: skipped, since autoencoder.channels is 0" in {one.getMessage() for one in caplog.records}
    assert ntm_standin.calls(pathlib.Path(run).parent / "pixels") == ["images"]


def test_only_the_keys_of_a_command_s_stages_are_taken_over():
    """config.json keeps what later stages were made with; keys of no stage are the command's."""
    stored, wanted = (json.loads(changed(**changes).to_json()) for changes in ({}, {
        "flow_matching.batch": 8, "ntm.batch": 8, "evaluate.samples": 16, "sample.number": 2, "log_every": 2,
    }))  # fmt: skip
    merged = record.merged(stored, wanted, ["flow_matching"])
    assert (merged["flow_matching"]["batch"], merged["log_every"]) == (8, 2)
    assert (merged["ntm"]["batch"], merged["evaluate"]["samples"], merged["sample"]["number"]) == (16, 32, 4)
