"""The launch scripts for one machine and for Slurm, run against stubs: what they start, stop, refuse and report."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sysconfig

import pytest

from tests.cluster import LAUNCH, MAIN, PYTHON, TRICKY, WORKS, Cluster, assert_one_line, parsed

SCRIPTS = ("gpu_node.sh", "slurm_gpu.sbatch", "tpu_pod.sh", "gke_jobset.sh")


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path)


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck(script):
    """shellcheck finds nothing in any script."""
    found = shutil.which("shellcheck", path=f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}")
    assert found, "shellcheck is missing: pip install -e '.[test]'"
    done = subprocess.run([found, "--shell=bash", LAUNCH / script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_every_option(cluster, script):
    """--help names every option that the script knows, and starts nothing."""
    code, out, _ = cluster.run(script, "--help")
    cases = re.findall(r"^    (-[^()\"]*)\)", (LAUNCH / script).read_text(), re.M)
    options = set(re.findall(r"--[a-z-]+", " ".join(cases))) - {"--help"}
    assert code == 0 and {"--dry-run"} <= options and options <= set(re.findall(r"--[a-z-]+", out)) and not cluster.calls()
    assert "set -" not in out


TPU, GKE = ["--name=n", "--zone=z"], ["--name=n", "--image=i", "--accelerator=a", "--topology=2x4", "--claim=c"]


@pytest.mark.parametrize("script, args, env, said", [
    ("gpu_node.sh", [], {}, "--config is missing: try --config="),
    ("gpu_node.sh", ["--config=c", "--processes=two"], {}, "--processes=two is not a whole number from 1"),
    ("gpu_node.sh", ["--config=c", "--processes=0"], {}, "--processes=0"),
    ("gpu_node.sh", ["--config=c", "--processes"], {}, "--processes has no value"),
    ("gpu_node.sh", ["--config=c", "--processes=3"], {"CUDA_VISIBLE_DEVICES": "0,1"}, "--processes=3 does not divide 2 GPUs"),
    ("gpu_node.sh", ["--config=c"], {"CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES is empty: unset it"),
    ("slurm_gpu.sbatch", ["--workdir=/w"], {"SLURM_JOB_ID": "1"}, "--config is missing"),
    ("slurm_gpu.sbatch", ["--config=c", "--config.workdir=1"], {"SLURM_JOB_ID": "1"}, "--workdir is missing"),
    ("slurm_gpu.sbatch", ["--config=c", "--workdir=/w"], {}, "hand this file to sbatch"),
    ("slurm_gpu.sbatch", ["--config=c", "--workdir=/w"], {"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "2"}, "SLURM_GPUS_ON_NODE"),
    ("tpu_pod.sh", ["--name=n", "--config=c", "--workdir=/w"], {}, "--zone is missing"),
    ("tpu_pod.sh", ["--zone=z", "--config=c", "--workdir=/w"], {}, "--name is missing"),
    ("tpu_pod.sh", [*TPU, "--workdir=/w"], {}, "--config is missing"),
    ("tpu_pod.sh", [*TPU, "--config=c", "--workdir=runs/x"], {}, "--workdir=runs/x is not a path from the root"),
    ("tpu_pod.sh", [*TPU, "--config=c", "--workdir=/w", "--commit=nowhere"], {}, "--commit=nowhere is no commit"),
    ("tpu_pod.sh", [*TPU, "--stop", "--config=c"], {}, "'--config=c' goes to main, and --stop"),
    ("gke_jobset.sh", GKE[1:], {}, "--name is missing"),
    ("gke_jobset.sh", ["--name=My_run"], {}, "--name=My_run is no name"),
    ("gke_jobset.sh", GKE[:-1], {}, "--claim is missing"),
    ("gke_jobset.sh", [*GKE, "--workdir=/mnt/shared/x"], {}, "--config is missing"),
    ("gke_jobset.sh", [*GKE, "--config=c", "--workdir=/tmp/x"], {}, "--workdir=/tmp/x is not below /mnt/shared"),
    ("gke_jobset.sh", [*GKE, "--config=c", "--workdir=/mnt/shared/x", "--topology=big"], {}, "--topology=big is not like 4x4"),
    ("gke_jobset.sh", [*GKE, "--config=c", "--workdir=/mnt/shared/x", "--chips=3"], {}, "--chips=3 does not divide the 8"),
    ("gke_jobset.sh", [*GKE, "--config=c", "--workdir=/mnt/shared/x", "--image=a: b"], {}, "--image=a: b has a character"),
    ("gke_jobset.sh", [*GKE, "--config=c", "--workdir=/mnt/shared/x", "x\ay"], {}, "control character"),
])  # fmt: skip
def test_what_is_missing_or_wrong_is_one_line(cluster, script, args, env, said):
    """A missing or invalid argument gives one line that names it and exit code 2, and starts nothing."""
    code, out, err = cluster.run(script, *args, **env)
    assert code == 2 and not out and not cluster.calls()
    assert_one_line(err, f"{script}: ", said)


def test_one_process_has_all_gpus(cluster):
    """Main gets its arguments unchanged, the memory fraction is set unless the user set it, and the exit code is main's."""
    cluster.stub("nvidia-smi", "printf '0\\n1\\n'")
    _, dry, _ = cluster.run("gpu_node.sh", *TRICKY, "--dry-run")
    assert parsed(dry) == ["env", "XLA_PYTHON_CLIENT_MEM_FRACTION=0.92", "python", *MAIN, *TRICKY]
    assert not cluster.calls("python")
    cluster.stub("python", PYTHON + "exit 7")
    assert cluster.run("gpu_node.sh", *TRICKY)[0] == 7
    assert cluster.calls("python") == [["python", *MAIN, *TRICKY]]
    assert list(cluster.left("env").values()) == ["-\0-\0-\0" + "0.92\0"]
    _, dry, _ = cluster.run("gpu_node.sh", "--dry-run", "--", "--config=c", "--cpu", XLA_PYTHON_CLIENT_MEM_FRACTION="0.5")
    assert parsed(dry) == ["env", "python", *MAIN, "--config=c", "--cpu"]


@pytest.mark.parametrize(
    "nvidia, said", [("", "finds no GPU"), ("echo driver mismatch; exit 9", "nvidia-smi fails (driver mismatch)")]
)
def test_no_gpu_is_one_line(cluster, nvidia, said):
    """A machine without a working GPU gives one line that names --cpu."""
    cluster.stub("nvidia-smi", nvidia)
    code, _, err = cluster.run("gpu_node.sh", "--config=c")
    assert code == 2 and not cluster.calls("python")
    assert_one_line(err, said, "--cpu")


@pytest.mark.parametrize("visible, shares", [(None, ["0,1", "2,3"]), ("GPU-a,GPU-b", ["GPU-a", "GPU-b"])])
def test_several_processes_share_the_gpus(cluster, visible, shares):
    """Each process sees only its own GPUs and gets its number; a dry run prints what a run starts."""
    cluster.stub("nvidia-smi", "printf '%s\\n' 0 1 2 3")
    env = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    args = ["--processes", "2", "--port=3456", *TRICKY]
    code, dry, _ = cluster.run("gpu_node.sh", *args, "--dry-run", **env)
    assert code == 0 and not cluster.calls("python")
    assert cluster.run("gpu_node.sh", *args, **env)[0] == 0
    flags = ["--multihost", "--coordinator=127.0.0.1:3456", "--processes=2"]
    expected = [["python", *MAIN, *TRICKY, *flags, f"--process={i}"] for i in range(2)]
    assert sorted(cluster.calls("python")) == expected
    assert [parsed(line)[4:] for line in dry.splitlines()] == expected
    ids = "0,1" if visible is None else "0"
    assert sorted(cluster.left("env").values()) == [f"{share}\0{ids}\0-\0" + "0.92\0" for share in shares]


def test_processes_that_meet_nowhere_else(cluster):
    """Without --port all processes of a launch share one port from 20000 up."""
    assert cluster.run("gpu_node.sh", "--cpu", "--processes=2", "--config=c")[0] == 0
    ports = {a for call in cluster.calls("python") for a in call if a.startswith("--coordinator=127.0.0.1:")}
    assert len(ports) == 1 and int(ports.pop().split(":")[1]) >= 20000
    assert list(cluster.left("env").values()) == ["-\0-\0cpu\0-\0"] * 2


def test_a_port_that_is_taken_is_passed_over(cluster):
    """The port search starts at a number from the process id and skips a port in use."""
    waits = [
        "bash",
        "-c",
        'read -r; exec bash "$@"',
        "bash",
        LAUNCH / "gpu_node.sh",
        "--cpu",
        "--processes=2",
        "--config=c",
        "--dry-run",
    ]
    launched = subprocess.Popen(waits, env=cluster.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with socket.socket() as taken:
        first = 20000 + launched.pid % 10000
        with contextlib.suppress(OSError):  # a port already in use serves the test too
            taken.bind(("127.0.0.1", first))
            taken.listen()
        out, _ = launched.communicate("\n", timeout=30)
    ports = {int(word.split(":")[1]) for word in out.split() if word.startswith("--coordinator")}
    assert len(ports) == 1 and 0 < ports.pop() - first < 100


def test_a_failure_while_stopping_comes_out(cluster):
    """If a process fails while stopping, the exit code is that of the failure."""
    fails = 'case "$*" in *--process=0) trap "sleep 1; exit 5" TERM; echo $$ >"$CALLS.0.pid"; while :; do sleep 0.05; done ;; esac'
    cluster.stub("python", fails + WORKS)
    launched = cluster.start("gpu_node.sh", "--cpu", "--processes=2", "--config=c")
    cluster.wait_for("pid", 2)
    launched.send_signal(signal.SIGTERM)
    assert launched.wait(timeout=30) == 5 and "calls.1.saved" in cluster.left("saved")


def test_one_failure_stops_the_others(cluster):
    """When a process fails, the others get SIGTERM and are waited for, and the exit code is the failed one's."""
    cluster.stub(
        "python",
        'case "$*" in *--process=1) until [ -s "$CALLS.0.pid" ] && [ -s "$CALLS.2.pid" ]; do sleep 0.05; done; exit 3 ;; esac'
        + WORKS,
    )
    code, _, err = cluster.run("gpu_node.sh", "--cpu", "--processes=3", "--config=c")
    assert code == 3 and "process 1 ended with exit code 3: stopping the others" in err
    assert cluster.left("took") == {"calls.0.took": "TERM\n", "calls.2.took": "TERM\n"}
    assert list(cluster.left("saved")) == ["calls.0.saved", "calls.2.saved"]


def test_who_does_not_stop_is_killed(cluster):
    """A process that hangs after another's failure is killed after the grace period."""
    hangs = "trap '' TERM; echo $$ >\"$CALLS.0.pid\"; while :; do sleep 0.05; done"
    fails = 'until [ -s "$CALLS.0.pid" ]; do sleep 0.05; done; exit 3'
    cluster.stub("python", f'case "$*" in *--process=1) {fails} ;; esac; {hangs}')
    assert cluster.run("gpu_node.sh", "--cpu", "--processes=2", "--grace=1", "--config=c")[0] == 3
    with pytest.raises(ProcessLookupError):
        os.kill(int(cluster.left("pid")["calls.0.pid"]), 0)


@pytest.mark.parametrize("number, code, processes", [(signal.SIGTERM, 143, 2), (signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 1)])
def test_a_signal_reaches_every_process_once(cluster, number, code, processes):
    """A signal to the process group, like Ctrl-C, reaches each process once; it saves and is waited for."""
    cluster.stub("python", WORKS)
    launched = cluster.start("gpu_node.sh", "--cpu", f"--processes={processes}", "--config=c")
    cluster.wait_for("pid", processes)
    os.killpg(launched.pid, number)
    assert launched.wait(timeout=30) == code and len(cluster.left("saved")) == processes
    assert list(cluster.left("took").values()) == [f"{number.name[3:]}\n"] * processes


SLURM = {"SLURM_JOB_ID": "42", "SLURM_JOB_NUM_NODES": "1"}
SRUN = 'trap "echo >$CALLS.srun.died; exit 9" TERM; while [ "$1" != env ]; do shift; done; "$@" & wait $!'


@pytest.mark.parametrize("nodes", [1, 2])
def test_slurm_runs_main_on_every_node(cluster, nodes):
    """Slurm starts one task per node, with --multihost and all GPUs of a node for several nodes; a dry run prints it."""
    env = {**SLURM, "SLURM_JOB_NUM_NODES": str(nodes), "SLURM_GPUS_ON_NODE": "4"}
    cluster.stub("srun", SRUN)
    _, dry, _ = cluster.run("slurm_gpu.sbatch", "--dry-run", *TRICKY, **env)
    assert not cluster.calls()
    code, _, err = cluster.run("slurm_gpu.sbatch", *TRICKY, **env)
    assert code == 0, err
    assert cluster.calls("srun") == [parsed(dry)]
    assert "--ntasks-per-node=1" in parsed(dry) and "--kill-on-bad-exit=0" in parsed(dry)
    assert cluster.calls("python") == [["python", *MAIN, *TRICKY, *["--multihost"][: nodes - 1]]]
    assert list(cluster.left("env").values()) == [f"-\0{'0,1,2,3' if nodes > 1 else '-'}\0-\0" + "0.92\0"]


def test_slurm_directives():
    """The directives come before the first command, where sbatch reads them, and request the signal that the trap handles."""
    head = (LAUNCH / "slurm_gpu.sbatch").read_text().split("set -euo pipefail")[0].splitlines()
    directives = [line.removeprefix("#SBATCH ") for line in head if line.startswith("#SBATCH ")]
    assert all(not line or line.startswith("#") for line in head)
    assert {"--signal=B:TERM@120", "--requeue", "--ntasks-per-node=1", "--open-mode=append"} <= set(directives)


@pytest.mark.parametrize("state, requeued", [("RUNNING", True), ("COMPLETING", False), ("CANCELLED", False)])
def test_slurm_saves_and_goes_back_to_the_queue(cluster, state, requeued):
    """SIGTERM to the batch shell reaches main, not srun; exit code 143 requeues the job unless it was cancelled."""
    cluster.stub("srun", SRUN)
    cluster.stub("python", WORKS)
    cluster.stub("scancel", 'kill -TERM "$(cat "$CALLS.0.pid")"')
    cluster.stub("squeue", f"echo {state}")
    cluster.stub("scontrol")
    job = cluster.start("slurm_gpu.sbatch", "--config=c", "--workdir=/w", **SLURM)
    cluster.wait_for("pid", 1)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=30) == 143 and cluster.left("took") == {"calls.0.took": "TERM\n"} and not cluster.left("died")
    assert cluster.calls("scancel") == [["scancel", "--signal=TERM", "42"]]
    assert cluster.calls("scontrol") == [["scontrol", "requeue", "42"]] * requeued


@pytest.mark.parametrize("code", [0, 1, 2, 130, 137])
def test_slurm_requeues_nothing_else(cluster, code):
    """Any other exit code is the job's, without a requeue."""
    cluster.stub("srun", SRUN)
    cluster.stub("python", f"exit {code}")
    cluster.stub("scontrol")
    assert cluster.run("slurm_gpu.sbatch", "--config=c", "--workdir=/w", **SLURM)[0] == code
    assert cluster.calls("python") and not cluster.calls("scontrol")
