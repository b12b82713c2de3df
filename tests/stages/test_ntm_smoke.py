"""The smoke form of the paper's scale goes through every stage, on random latents."""

import json

import numpy as np

from configs import ntm_imagenet256
from tests.test_layout import written
from tsdfm_jax import main
from tsdfm_jax.config import methods


def test_every_stage(tmp_path):
    """Latents, smaller than the paper's, become samples, a table and a page; they are no pixels, and are written as arrays."""
    rng = np.random.default_rng(0)
    latents = {"image": rng.normal(size=(64, 4, 4, 32)).astype(np.float32), "label": rng.integers(0, 8, 64)}
    np.savez(tmp_path / "random.npz", **latents)
    config = ntm_imagenet256.get_config("smoke")
    with config.unlocked():
        config.images.files = str(tmp_path / "random.npz")
    stages = written(methods.NTM)
    main.run(config, tmp_path / "run", stages)
    if "sample" in stages:
        drawn = np.load(tmp_path / "run/samples/sample.npz")
        assert any(array.shape[1:] == (4, 4, 32) and np.isfinite(array).all() for array in drawn.values())
    rows = json.loads((tmp_path / "run/evaluate/rows.json").read_text())
    assert rows and (tmp_path / "run/report/index.html").exists()
    meta = json.loads((tmp_path / "run/ntm/model/meta.json").read_text())
    assert "bfloat16" in json.dumps(meta)
