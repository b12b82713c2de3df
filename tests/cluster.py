"""A cluster made of stubs: commands that record how they were called, for tests of the launch scripts."""

import os
import pathlib
import signal
import subprocess
import time

LAUNCH = pathlib.Path(__file__).parent.parent / "launch"
MAIN = ["-m", "tsdfm_jax.main"]
# What no shell on the way may touch.
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
# A main that works until it is told to stop, and then takes a moment to save: 128 + the signal is its exit code.
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
        """Every call so far, [command, argument, …]."""
        file = self.where / "calls"
        found = [c.split("\0")[:-1] for c in file.read_text().split("\1\0")[:-1]] if file.exists() else []
        return [call for call in found if name in (None, call[0])]

    def left(self, suffix):
        """What the stubs left in files of a suffix, by file name."""
        return {file.name: file.read_text() for file in sorted(self.where.glob(f"calls.*.{suffix}"))}

    def start(self, script, *args, **env):
        """The script at work, in a session of its own; it hears a Ctrl-C even where the tests themselves run in the background."""
        ours = signal.signal(signal.SIGINT, signal.SIG_DFL)  # what is ignored here would be ignored there
        try:
            return subprocess.Popen(
                ["bash", LAUNCH / script, *args], env={**self.env, **env}, cwd=LAUNCH.parent, text=True, start_new_session=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        finally:
            signal.signal(signal.SIGINT, ours)

    def run(self, script, *args, **env):
        """(exit code, stdout, stderr)."""
        process = self.start(script, *args, **env)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def wait_until(self, holds, awaited):
        """Return when `holds()` does; AssertionError, which says what was awaited, if it never does."""
        deadline = time.monotonic() + 30
        while not holds():
            assert time.monotonic() < deadline, f"{awaited} awaited: {self.calls()}"
            time.sleep(0.02)

    def wait_for(self, suffix, number):
        """Return when so many stubs have left a file of that suffix."""
        self.wait_until(lambda: sum(map(bool, self.left(suffix).values())) >= number, f"{number} files of {suffix}")


def parsed(line):
    """The arguments that a shell makes of a line."""
    return subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True).stdout.split("\0")[:-1]


def assert_one_line(err, *parts):
    """A message is one line, and has these parts."""
    assert len(err.strip().splitlines()) == 1 and all(part in err for part in parts), err
