"""NTM over two processes: one process's curve, and the same bits after a kill."""

import shutil
import signal

import numpy as np
import pytest

from tests.pod import processes, small_ntm
from tests.pod.test_processes import checkpoints, done, ended, model_hash, same_curve
from tsdfm_jax import main

STAGES = "flow_matching,ntm"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """(images alone; the same with both networks trained by two processes of two devices each)."""
    images, where = tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("pair") / "run"
    main.run(small_ntm.get_config(), images, ["images"])
    shutil.copytree(images, where)
    ended(processes.run(where, STAGES, 2, config="tests/pod/small_ntm.py"), 0, 0)
    return images, where


def test_two_processes_get_what_one_gets(pair, tmp_path):
    """Losses agree with those of one process on eight devices to 1e-5, whose likelihood is the same to 1e-4."""
    images, where = pair
    alone = shutil.copytree(images, tmp_path / "alone")
    main.run(small_ntm.get_config(), alone, STAGES.split(","))
    for stage in STAGES.split(","):
        same_curve(where, alone, stage)
    bits = [done(at, "ntm")["likelihoods"][0]["trajectory_bits"] for at in (where, alone)]
    np.testing.assert_allclose(*bits, rtol=1e-4)


def test_killed_in_training(pair, tmp_path):
    """After kill -9 of one process the other ends too, and a restart of both gives the bits of a run that never stopped."""
    images, where = pair
    again = shutil.copytree(images, tmp_path / "again")
    shutil.copytree(where / "flow_matching", again / "flow_matching")
    killed = processes.run(again, "ntm", 2, config="tests/pod/small_ntm.py", accident="killed_in_training", victim=1)
    ended(killed, None, -signal.SIGKILL)
    assert 4 in checkpoints(again, "ntm") and not (again / "ntm/done.json").exists()
    ended(processes.run(again, "ntm", 2, config="tests/pod/small_ntm.py"), 0, 0)
    assert model_hash(again, "ntm") == model_hash(where, "ntm") and done(again, "ntm")["curve"] == done(where, "ntm")["curve"]
