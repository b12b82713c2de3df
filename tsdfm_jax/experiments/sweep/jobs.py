"""Run commands, several at a time: output goes to files, signals are passed on, and each end is reported in a line."""

import contextlib
import dataclasses
import pathlib
import signal
import subprocess
import time

POLL = 0.1
OUT, ERR = "stdout.txt", "stderr.txt"


class Stopped(Exception):
    """The sweep received a signal, and every command has ended; `signum` is the signal, for the exit code."""

    def __init__(self, signum):
        super().__init__(signum)
        self.signum = signum


def attempt(act, fail):
    """The exit code of `act()`; bad input and signals are reported by `fail`, in one line."""
    try:
        return act()
    except (ValueError, FileNotFoundError) as error:
        return fail(error)
    except Stopped as error:
        return fail("stopped; the same command goes on from there", 128 + error.signum)
    except KeyboardInterrupt:
        return fail("stopped; the same command goes on from there", 130)


@dataclasses.dataclass(frozen=True)
class Job:
    """A named command; its output goes to stdout.txt and stderr.txt in `workdir`, or to the terminal if that is None."""

    name: str
    command: list[str]
    workdir: pathlib.Path | None


class _Process:
    """A running job. It has its own process group: a Ctrl-C reaches it once, from here, and not from the terminal as well."""

    def __init__(self, job):
        self.job, self.started_at, self.files = job, time.monotonic(), []
        out = err = None
        if job.workdir is not None:
            job.workdir.mkdir(parents=True, exist_ok=True)
            # Append, so that a resumed run keeps its earlier output.
            out, err = self.files = [open(job.workdir / name, "ab") for name in (OUT, ERR)]
            self.stderr_start = err.tell()
        try:
            self.process = subprocess.Popen(job.command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, process_group=0)
        except OSError as error:
            self._close()
            raise ValueError(f"cannot run '{job.command[0]}' ({error.strerror}): check that it is there") from error

    def ended(self):
        """The exit code, None while it runs; 128 plus the signal if a signal ended it."""
        code = self.process.poll()
        if code is not None:
            self._close()
        return code if code is None or code >= 0 else 128 - code

    def last_error_line(self):
        """The last line that it wrote to stderr; "" if there is none."""
        if self.job.workdir is None:
            return ""
        with open(self.job.workdir / ERR, "rb") as file:
            file.seek(max(self.stderr_start, file.seek(0, 2) - 4096))
            lines = file.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _close(self):
        for file in self.files:
            file.close()


def run(jobs, parallel, say):
    """Run all jobs, `parallel` at a time: {name: exit code}.

    Raises Stopped after SIGINT or SIGTERM, when the running jobs have ended; ValueError if a command does not exist.
    """
    waiting, working, codes = list(jobs), [], {}
    with catching() as caught:
        signals_sent = 0
        while working or (waiting and not caught):
            while waiting and len(working) < parallel and not caught:
                working.append(_start(waiting.pop(0), say))
            for signum in caught[signals_sent:]:
                if not signals_sent:
                    say(f"stopping: {len(working)} at work save their state; once more Ctrl-C does not wait for that")
                for process in working:
                    process.process.send_signal(signum)
                signals_sent += 1
            for process in [process for process in working if process.ended() is not None]:
                working.remove(process)
                codes[process.job.name] = process.ended()
                _report_end(process, bool(caught), say)
            time.sleep(POLL if working else 0)
    if caught:
        raise Stopped(caught[0])
    return codes


def _start(job, say):
    process = _Process(job)
    say(f"started {job.name}" + (f", see {job.workdir / ERR}" if job.workdir is not None else ""))
    return process


def _report_end(process, stopping, say):
    code, seconds = process.ended(), time.monotonic() - process.started_at
    if code == 0:
        say(f"done {process.job.name} in {seconds:.0f} s", 1)
    elif stopping and code in (130, 143):
        say(f"stopped {process.job.name}")
    else:
        last_line = process.last_error_line()
        say(f"failed {process.job.name}: exit code {code}" + (f": {last_line}" if last_line else ""))


@contextlib.contextmanager
def catching():
    """Collect SIGINT and SIGTERM in a list while the block runs."""
    caught = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    old = [signal.signal(number, lambda signum, frame: caught.append(signum)) for number in numbers]
    try:
        yield caught
    finally:
        for number, handler in zip(numbers, old):
            signal.signal(number, handler)


@contextlib.contextmanager
def progress(total, done, name="sweep"):
    """`say(line, ended=0)`: prints lines to stderr, prefixed by `name`; on a terminal with a progress bar below them."""
    import rich.console
    import rich.progress

    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(
        rich.progress.TextColumn("runs"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("runs", total=total, completed=done)

        def say(line, ended=0):
            console.print(f"{name}: {line}", markup=False, highlight=False, soft_wrap=True)
            bar.advance(task, ended)

        yield say
