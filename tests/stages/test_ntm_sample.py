"""Stage `sample` of NTM: what it writes, what it does not draw again, and what it refuses."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.ntm_tiny import changed
from tsdfm_jax import main
from tsdfm_jax.stages.ntm import sample as stage
from tsdfm_jax.storage import atomic


@pytest.fixture
def run(finished_ntm, tmp_path):
    """A copy that a test may change, and a function that samples there: the last line of its log."""
    workdir = shutil.copytree(finished_ntm, tmp_path / "run")

    def sample(**changes):
        main.run(changed(**{f"sample.{name}": value for name, value in changes.items()}), workdir, ["sample"])
        return (workdir / "log.txt").read_text().splitlines()[-1]

    return workdir / "samples", sample


def arrays(file):
    with np.load(file) as stored:
        return dict(stored)


def names(directory):
    return {file.name for file in directory.glob("sample*")}


def test_what_stands_on_disk(finished_ntm):
    """Images in [-1, 1] with their labels, a picture of all of them, and what was asked for."""
    directory = finished_ntm / "samples"
    found = arrays(directory / "sample.npz")
    assert found["images"].shape == (4, 8, 8, 1) and found["images"].dtype == np.float32 and np.abs(found["images"]).max() <= 1
    assert found["labels"].tolist() == [0, 1, 2, 3] and Image.open(directory / "sample.png").size == (119, 119)
    note = json.loads((directory / "sample.json").read_text())
    assert note["request"]["model"] == "ntm" and "batch" not in note["request"] and note["seconds"] > 0
    line = (finished_ntm / "log.txt").read_text().splitlines()[-1]
    assert "sample: 4 images in" in line and str(directory / "sample.npz").split("/")[-3] in line and "sample.png" in line


def test_a_request_is_drawn_once(run, monkeypatch):
    """The same request draws nothing; another one leaves its images where they were or under a further name."""
    directory, sample = run
    first = arrays(directory / "sample.npz")
    with monkeypatch.context() as patched:
        patched.setattr(stage, "draw", lambda *_: pytest.fail("drawn again"))
        assert "4 images as they were drawn before" in sample(batch=16)
    assert "sample: 6 images in" in sample(number=6)
    assert names(directory) == {f"{stem}{suffix}" for stem in ("sample", "sample_1") for suffix in stage.FILES}
    np.testing.assert_array_equal(arrays(directory / "sample_1.npz")["images"], first["images"])
    np.testing.assert_array_equal(arrays(directory / "sample.npz")["images"][:4], first["images"])  # of (seed, i) alone
    with monkeypatch.context() as patched:
        patched.setattr(stage, "draw", lambda *_: pytest.fail("drawn again"))
        assert sample().endswith(f"before, in {directory / 'sample_1.npz'}")


def test_images_of_another_network_are_replaced(run):
    """The same request to a network that was trained again; also what is damaged or half written is drawn anew."""
    directory, sample = run
    first = arrays(directory / "sample.npz")
    note = atomic.read_if_sealed(directory / "sample.json")
    atomic.write_sealed(directory / "sample.json", note | {"made_of": "another network"})
    assert "sample: 4 images in" in sample() and len(names(directory)) == 3
    (directory / "sample.png").write_bytes(b"damaged")
    assert "sample: 4 images in" in sample() and len(names(directory)) == 3
    np.testing.assert_array_equal(arrays(directory / "sample.npz")["images"], first["images"])
    (directory / "sample.json").unlink()  # a stop between the files
    assert "sample: 4 images in" in sample() and len(names(directory)) == 5


@pytest.mark.parametrize("changes, said", [
    ({"label": 12}, "label 12 is no class: take a number from 0 to 9"),
    ({"steps": 3}, "sample.steps 3 is not among ntm.steps (2,)"),
    ({"denoise": "best"}, "sample.denoise 'best' is not one of none, score, learned"),
    ({"number": 0}, "sample.number"),
])  # fmt: skip
def test_what_cannot_be_drawn_is_one_line(run, changes, said):
    """Nothing is written, and the line names the key."""
    directory, sample = run
    before = {file: file.read_bytes() for file in directory.iterdir()}
    with pytest.raises(ValueError) as caught:
        sample(**changes)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert before == {file: file.read_bytes() for file in directory.iterdir()}


def test_every_kind_of_request(run):
    """The learned denoiser, guidance with a noise-free last step, and flow matching in any number of steps."""
    directory, sample = run
    plain = arrays(directory / "sample.npz")["images"]
    for changes in ({"denoise": "learned"}, {"guidance": 0.5, "noise_free": True}, {"model": "flow_matching", "steps": 3}):
        sample(**changes, label=7)
        found = arrays(directory / "sample.npz")
        assert found["labels"].tolist() == [7] * 4 and found["images"].shape == (4, 8, 8, 1)
        assert np.isfinite(found["images"]).all() and np.abs(found["images"] - plain).max() > 1e-3
    assert len(names(directory)) == 12
