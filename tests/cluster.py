"""A cluster of stub commands that record how they were called, for tests of the launch scripts."""

import os
import pathlib
import signal
import subprocess
import time

LAUNCH = pathlib.Path(__file__).parent.parent / "launch"
MAIN = ["-m", "tsdfm_jax.main"]
# Arguments that no shell on the way may change.
TRICKY = [
    "--config=configs/quickstart.py",
    "--workdir=/mnt/shared/a b/run",
    """--config.sample.prompt=The "Senate's" $HOME $$ $(HOME) ${NAME} `id` & \\n; * # {a,b} ~ |""",
    "--config.data.files=*.txt,b c/**/d.txt",
    "--config.evaluate.student_steps=(1, 2)",
    "--config.tokenizer.path=",
]
PYTHON = """
printf '%s\\0' "${CUDA_VISIBLE_DEVICES--}" "${JAX_LOCAL_DEVICE_IDS--}" "${JAX_PLATFORMS--}" "${XLA_PYTHON_CLIENT_MEM_FRACTION--}" >"$CALLS.$$.env"
all="$*" me=0
case "$all" in *--process=*) me="${all##*--process=}" ;; esac
"""
# A main that works until a signal stops it, then takes a moment to save. Its exit code is 128 + the signal.
WORKS = (
    PYTHON
    + """
took() { echo "$1" >>"$CALLS.$me.took"; code=$2; }
trap 'took INT 130' INT
trap 'took TERM 143' TERM
code=""
echo $$ >"$CALLS.$me.pid"
until [ -n "$code" ]; do sleep 0.05; done
for _ in 1 2 3 4; do sleep 0.05; done
echo >"$CALLS.$me.saved"
exit "$code"
"""
)


class Cluster:
    """A directory of stub commands that stands first in PATH; each call is recorded, then the stub's body runs."""

    def __init__(self, where):
        self.where, self.bin = where, where / "bin"
        self.bin.mkdir()
        (where / "home").mkdir()
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "CUDA_", "JAX_", "XLA_"))}
        self.env = {
            **keep,
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(where / "home"),
            "CALLS": str(where / "calls"),
            "TMPDIR": str(where),
        }
        self.stub("python", PYTHON)

    def stub(self, name, body=""):
        """Make a command, or replace it."""
        file = self.bin / name
        file.write_text(f"#!/usr/bin/env bash\nprintf '%s\\0' {name} \"$@\" $'\\1' >>\"$CALLS\"\n{body}\n")
        file.chmod(0o755)

    def calls(self, name=None):
        """Every call so far, as [command, argument, …]."""
        file = self.where / "calls"
        found = [c.split("\0")[:-1] for c in file.read_text().split("\1\0")[:-1]] if file.exists() else []
        return [call for call in found if name in (None, call[0])]

    def left(self, suffix):
        """Contents of the files with this suffix that the stubs wrote, by file name."""
        return {file.name: file.read_text() for file in sorted(self.where.glob(f"calls.*.{suffix}"))}

    def start(self, script, *args, **env):
        """Start the script in its own session; it receives Ctrl-C even where the tests run in the background."""
        ours = signal.signal(signal.SIGINT, signal.SIG_DFL)  # a child inherits an ignored signal
        try:
            return subprocess.Popen(
                ["bash", LAUNCH / script, *args], env={**self.env, **env}, cwd=LAUNCH.parent, text=True, start_new_session=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        finally:
            signal.signal(signal.SIGINT, ours)

    def run(self, script, *args, **env):
        """Run the script to its end and return (exit code, stdout, stderr)."""
        process = self.start(script, *args, **env)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def wait_until(self, holds, awaited):
        """Return when `holds()` is true; raise AssertionError, which names what was awaited, after 30 s."""
        deadline = time.monotonic() + 30
        while not holds():
            assert time.monotonic() < deadline, f"{awaited} awaited: {self.calls()}"
            time.sleep(0.02)

    def wait_for(self, suffix, number):
        """Return when `number` stubs have written a file with that suffix."""
        self.wait_until(lambda: sum(map(bool, self.left(suffix).values())) >= number, f"{number} files of {suffix}")


def parsed(line):
    """Split a line into arguments as a shell does."""
    return subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True).stdout.split("\0")[:-1]


def assert_one_line(err, *parts):
    """Assert that a message is one line and contains these parts."""
    assert len(err.strip().splitlines()) == 1 and all(part in err for part in parts), err
