"""Start the processes of one run on this machine and collect their messages."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys

from tests import CHEAP

ROOT = pathlib.Path(__file__).parent.parent.parent


def free_port():
    with contextlib.closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run(workdir, stages, count, *flags, config="tests/pod/small.py", devices=2, accident="none", victim=0, timeout=500):
    """Run `count` processes of `devices` CPU devices each, `victim` with an accident; return [(exit code, stderr)] by process."""
    several = ["--multihost", f"--coordinator=127.0.0.1:{free_port()}", f"--processes={count}"] if count > 1 else []
    environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}" + CHEAP}
    started = []
    for i in range(count):
        which = several + [f"--process={i}", "--heartbeat=10"] * (count > 1)
        command = [sys.executable, "-m", "tests.pod.worker", accident if i == victim else "none", f"--config={config}"]
        command += [f"--workdir={workdir}", f"--stage={stages}", *which, *flags]
        started.append(
            subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        )
    try:
        said = [process.communicate(timeout=timeout)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, text) for process, text in zip(started, said)]
