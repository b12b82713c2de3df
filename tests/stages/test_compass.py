"""The stage `compass`: all held-out windows are measured, and its figures are numbers or null."""

import json
import os
import shutil

import numpy as np
import pytest

from tests.tiny import changed as config
from tsdfm_jax import main
from tsdfm_jax.runtime import signals
from tsdfm_jax.stages import compass as stage


@pytest.fixture
def begun(finished, tmp_path):
    """A work directory with the stages before the compass."""
    for name in ("tokenizer", "data", "judges", "teacher"):
        shutil.copytree(finished / name, tmp_path / name)
    return tmp_path


def figures(where):
    return json.loads((where / "compass/done.json").read_text())["figures"]


def test_a_part_of_a_batch_is_measured_too(finished, begun):
    """24 windows in batches of 16 give pairs of all 24 at each step size; a compass can be trained in microbatches."""
    changes = {"compass.heldout": 24, "compass.kind": "nce", "compass.optimiser.accumulate": 2}
    main.run(config(**changes), begun, ["compass"])
    found, of_16 = figures(begun), figures(finished)
    for row, other in zip(found["by_step_size"], of_16["by_step_size"], strict=True):
        assert row["pairs"] * 16 == other["pairs"] * 24 and 0 <= row["auc"] <= 1
    assert found["pairs"] * 16 == of_16["pairs"] * 24
    assert sum(row["pairs"] for row in found["by_depth"]) == found["pairs"] == sum(row["pairs"] for row in found["by_time"])
    assert found["recompilations"] == 0 and found["curve"][0][1] == pytest.approx(4 * np.log(2), rel=1e-4)  # it begins blind


def test_it_stops_between_two_batches(begun, monkeypatch):
    """A stop signal ends the measurement in one line."""
    monkeypatch.setattr(
        stage.windows, "heldout", lambda *args: os.kill(os.getpid(), signals.HANDLED[1]) or np.zeros((16, 16), np.int32)
    )
    with pytest.raises(signals.Interrupted, match="compass: stopped; the same command goes on from there"):
        main.run(config(), begun, ["compass"])


def test_a_correlation_with_a_constant_is_none():
    """The correlation is Pearson's; with a constant array there is none, and no warning."""
    ramp_N, noise_N = np.arange(8.0), np.random.default_rng(0).normal(size=8)
    assert stage.correlation(ramp_N, 2 * ramp_N - 1) == pytest.approx(1)
    assert stage.correlation(ramp_N, noise_N) == pytest.approx(np.corrcoef(ramp_N, noise_N)[0, 1])
    assert stage.correlation(ramp_N, np.ones(8)) is None and stage.correlation(np.zeros(8), ramp_N) is None
