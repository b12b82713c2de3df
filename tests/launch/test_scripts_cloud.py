"""The launch scripts for Cloud TPU and GKE against stubs; a TPU worker's commands run for real."""

import json

import pytest
import yaml

from tests.cluster import LAUNCH, MAIN, TRICKY, WORKS, Cluster, parsed

SHA = "0123456789abcdef0123456789abcdef01234567"
GIT = f"""
case "$*" in
  *rev-parse*) echo {SHA} ;;
  *status*) printf '%s' "${{STUB_CHANGES-}}" ;;
  *archive*) for a; do if [[ $a == --output=* ]]; then tar -czf "${{a#*=}}" -C "$HOME/repository" .; fi; done ;;
esac
"""
# One worker with its own home directory, in which the commands of ssh run; then the connection ends with a hang-up.
GCLOUD = """
home="$HOME/worker"
ssh() {
  set -m
  HOME="$home" bash -c "cd; ${1#*=}" &
  set +m
  code=0
  wait $! || code=$?
  kill -HUP -- "-$!" 2>/dev/null
  exit "$code"
}
case "$4" in
  scp) cp "$5" "$home/${6#*:}" ;;
  ssh) for a; do if [[ $a == --command=* ]]; then ssh "$a"; fi; done ;;
esac
"""
# The worker's Python makes a virtual environment with the stub of main as its python.
WORKER_PYTHON = """
case "$*" in
  -c*) exit 0 ;;
  "-m venv "*) mkdir -p "$3/bin"; cp "$HOME/main" "$3/bin/python" ;;
esac
"""
WORKER_MAIN = '[ "$2" != pip ] || exit 0\n' + WORKS


@pytest.fixture
def pod(tmp_path):
    """A slice of one worker."""
    cluster = Cluster(tmp_path)
    for name, body in {"git": GIT, "gcloud": GCLOUD, "python3.13": WORKER_PYTHON, "tail": ""}.items():
        cluster.stub(name, body)
    cluster.stub("main", WORKER_MAIN)
    worker = tmp_path / "home/worker"
    worker.mkdir()
    (cluster.bin / "main").rename(worker / "main")
    (tmp_path / "home/repository/tsdfm_jax").mkdir(parents=True)
    yield cluster
    cluster.run("tpu_pod.sh", "--name=slice", "--zone=z", "--stop")


WHO = ["--name=slice", "--zone=us-central2-b", "--project=p"]
WHERE = ["--zone=us-central2-b", "--project=p"]
TPU = ["gcloud", "compute", "tpus", "tpu-vm"]


def mains(pod):
    """The arguments of every call of the worker's main."""
    return [call[1:] for call in pod.calls("main") if call[1:3] == MAIN]


def test_a_pod_starts_outlives_the_connection_and_stops(pod):
    """The code is copied and installed, and main starts with its arguments; it survives ssh, refuses a second, stops by SIGTERM."""
    code, out, err = pod.run("tpu_pod.sh", *WHO, *TRICKY, STUB_CHANGES=" M x")
    assert code == 0 and "main started" in out and "is not committed, and stays here" in err
    pod.wait_for("pid", 1)
    assert mains(pod) == [[*MAIN, *TRICKY, "--multihost"]]
    assert ["main", "-m", "pip", "install", "--quiet", "--editable", ".[tpu,demo]"] in pod.calls("main")
    assert (pod.where / "home/worker/tsdfm_run/code/tsdfm_jax").is_dir()
    assert [call[:5] for call in pod.calls("gcloud")] == [[*TPU, "scp"], [*TPU, "ssh"], [*TPU, "ssh"]]
    assert all({*WHERE, "--worker=all"} < set(call) for call in pod.calls("gcloud"))
    assert not list(pod.where.glob("**/tsdfm-*.tar.gz"))
    assert "main runs" in pod.run("tpu_pod.sh", *WHO, "--status")[1]
    code, _, err = pod.run("tpu_pod.sh", *WHO, *TRICKY)
    assert code == 1 and "main runs already" in err and "--stop" in err and len(mains(pod)) == 1
    code, out, _ = pod.run("tpu_pod.sh", *WHO, "--stop")
    assert code == 0 and "main stopped, exit code 143" in out and pod.left("took") == {"calls.0.took": "TERM\n"}
    assert "main ended with exit code 143" in pod.run("tpu_pod.sh", *WHO, "--status")[1]
    assert "main does not run" in pod.run("tpu_pod.sh", *WHO, "--stop")[1]
    assert pod.run("tpu_pod.sh", *WHO, *TRICKY)[2] == ""
    # The script may return before the stub has recorded its call.
    pod.wait_until(lambda: len(mains(pod)) == 2, "a second main")
    assert not (pod.where / "home/worker/tsdfm_run/main.exit").exists()


def test_a_dry_pod_prints_what_a_run_calls(pod):
    """--dry-run calls no gcloud and prints, line by line, what a run then calls."""
    code, dry, _ = pod.run("tpu_pod.sh", *WHO, *TRICKY, "--dry-run")
    assert code == 0 and not pod.calls("gcloud") and not any("archive" in call for call in pod.calls("git"))
    pod.run("tpu_pod.sh", *WHO, *TRICKY)
    archive = [call for call in pod.calls("git") if "archive" in call]
    assert archive[0][-1] == SHA
    # An argument of several lines is printed as one line, in shell quotes.
    assert [parsed(line) for line in dry.splitlines()] == archive + pod.calls("gcloud")


@pytest.mark.parametrize("action, called", [
    ("--list", [*TPU, "list", *WHERE]),
    ("--status", [*TPU, "describe", "slice", *WHERE, "--format=value(state)"]),
    ("--logs", [*TPU, "ssh", "slice", *WHERE, "--worker=0"]),
    ("--stop", [*TPU, "ssh", "slice", *WHERE, "--worker=all"]),
])  # fmt: skip
def test_what_else_a_pod_is_asked(pod, action, called):
    """--list, --status, --logs and --stop each call gcloud with zone and project; --dry-run prints the call instead."""
    dry = pod.run("tpu_pod.sh", *WHO, action, "--dry-run")[1]
    assert not pod.calls("gcloud")
    assert pod.run("tpu_pod.sh", *WHO, action)[0] == 0
    assert pod.calls("gcloud")[0][: len(called)] == called == parsed(dry.splitlines()[0])[: len(called)]
    if action == "--logs":
        assert pod.calls("tail") == [["tail", "-n", "100", "-F", str(pod.where / "home/worker/tsdfm_run/main.log")]]


def test_a_worker_without_python(pod):
    """A worker with only old Pythons gives an error that says what to install, and main does not start."""
    for name in ("python3.13", "python3.12", "python3.11", "python3"):
        pod.stub(name, "exit 1")
    code, _, err = pod.run("tpu_pod.sh", *WHO, *TRICKY)
    assert code == 1 and "apt-get install python3.11-venv" in err and not mains(pod)


GKE = ["--name=tsdfm", "--image=eu.gcr.io/p/tsdfm:1", "--accelerator=tpu-v6e-slice", "--topology=4x4", "--claim=shared-1"]


def expanded(text):
    """An argument as Kubernetes expands it: $$ becomes $; a $(NAME), which it would look up, is an error."""
    out, i = "", 0
    while i < len(text):
        assert not text.startswith("$(", i), f"Kubernetes would take {text[i:]} for a variable"
        out += text[i]
        i += 2 if text.startswith("$$", i) else 1
    return out


def pod_of(manifest):
    return manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("topology, hosts", [("4x4", 4), ("2x2x4", 4), ("2x2", 1)])
def test_the_jobset_runs_main(tmp_path, topology, hosts):
    """The applied manifest, which a dry run prints, has main's arguments, a pod per host, and --multihost for several."""
    cluster = Cluster(tmp_path)
    cluster.stub("kubectl", 'cat >"$CALLS.0.stdin"')
    args = [*GKE, f"--topology={topology}", "--namespace=ns", *TRICKY]
    code, dry, _ = cluster.run("gke_jobset.sh", *args, "--dry-run")
    assert code == 0 and not cluster.calls()
    assert cluster.run("gke_jobset.sh", *args)[0] == 0
    assert cluster.calls() == [["kubectl", "--namespace=ns", "apply", "--filename=-"]]
    assert cluster.left("stdin")["calls.0.stdin"] == dry
    manifest = yaml.safe_load(dry)
    container = pod_of(manifest)["containers"][0]
    assert [expanded(a) for a in container["command"]] == ["python", *MAIN, *TRICKY, *["--multihost"] * (hosts > 1)]
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["completions"] == job["parallelism"] == hosts and container["resources"]["limits"] == {"google.com/tpu": 4}
    assert manifest["metadata"]["name"] == "tsdfm" and container["image"] == "eu.gcr.io/p/tsdfm:1"
    assert pod_of(manifest)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
        "cloud.google.com/gke-tpu-topology": topology,
    }


def test_a_preempted_jobset_goes_on(tmp_path):
    """A preempted host restarts all, with a grace period and a shared volume; exit code 2 (a wrong flag) does not restart."""
    args = [*GKE, "--grace=120", "--restarts=7", "--mount=/data", "--config=c", "--workdir=/data/x", "--dry-run"]
    manifest = yaml.safe_load(Cluster(tmp_path).run("gke_jobset.sh", *args)[1])
    policy, job = manifest["spec"]["failurePolicy"], manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert policy["maxRestarts"] == 7 and job["backoffLimit"] == 0 and pod_of(manifest)["restartPolicy"] == "Never"
    assert pod_of(manifest)["terminationGracePeriodSeconds"] == 120
    assert [rule["onExitCodes"]["values"] for rule in job["podFailurePolicy"]["rules"]] == [[2]]
    assert policy["rules"] == [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}]
    volume, container = pod_of(manifest)["volumes"][0], pod_of(manifest)["containers"][0]
    assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/data"}]
    assert volume["persistentVolumeClaim"]["claimName"] == "shared-1"


def test_the_template_is_yaml_and_filled():
    """The template is valid YAML, and the script fills all its placeholders."""
    text = (LAUNCH / "gke_jobset.yaml").read_text()
    places = {part.split("}")[0] for part in json.dumps(yaml.safe_load(text)).split("${")[1:]}
    filled = {line.split()[1] for line in (LAUNCH / "gke_jobset.sh").read_text().splitlines() if line.startswith("fill ")}
    assert places == filled and "COMMAND" in places


@pytest.mark.parametrize("action, called", [
    ("--status", ["get", "jobset", "tsdfm"]),
    ("--logs", ["logs", "--follow", "--tail=100"]),
    ("--stop", ["delete", "jobset", "tsdfm"]),
])  # fmt: skip
def test_what_else_a_jobset_is_asked(tmp_path, action, called):
    """--status, --logs and --stop each call kubectl for the JobSet; --dry-run prints the call instead."""
    cluster = Cluster(tmp_path)
    cluster.stub("kubectl")
    dry = cluster.run("gke_jobset.sh", "--name=tsdfm", action, "--dry-run")[1]
    assert not cluster.calls()
    assert cluster.run("gke_jobset.sh", "--name=tsdfm", action)[0] == 0
    assert [parsed(line) for line in dry.splitlines()] == cluster.calls("kubectl")
    assert cluster.calls("kubectl")[0][1 : 1 + len(called)] == called
