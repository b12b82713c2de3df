"""The output of a run (log file, console, TensorBoard, progress bar) and its costs (peak memory, compilations)."""

import contextlib
import logging
import pathlib
import resource
import sys
import threading
import time
from typing import NamedTuple

import jax

from tsdfm_jax.runtime import curves, hosts

LOG = logging.getLogger("tsdfm_jax")
SECONDS_BETWEEN_LINES = 10.0


class Metrics:
    """The log and the event files of one stage: `<workdir>/log.txt` and `<workdir>/tensorboard/<stage>`.

    Only process 0 writes; the others show only warnings. A network in training has its own `curve`.
    """

    def __init__(self, workdir, stage):
        self.stage, self.workdir, self._file = stage, pathlib.Path(workdir), None
        self._curve = curves.Curve(self.workdir / "tensorboard" / stage)
        LOG.setLevel(logging.INFO if hosts.is_first() else logging.WARNING)
        _console_once()
        if hosts.is_first():
            self.workdir.mkdir(parents=True, exist_ok=True)
            self._file = logging.FileHandler(self.workdir / "log.txt")
            self._file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
            LOG.addHandler(self._file)

    def curve(self, name, first_step):
        """The Curve of a network after `first_step` updates, in `<workdir>/tensorboard/<name>`."""
        return curves.Curve(self.workdir / "tensorboard" / name, first_step)

    def text(self, step, name, text):
        """Write a text, such as samples, to TensorBoard."""
        self._curve.text(step, name, text)

    def line(self, text):
        """Write one line to log and console, with the stage's name before it."""
        LOG.info("%s: %s", self.stage, text)

    def close(self):
        """Flush and close the files."""
        self._curve.close()
        if self._file is not None:
            LOG.removeHandler(self._file)
            self._file.close()
            self._file = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class _Console(logging.StreamHandler):
    """Log lines on the current sys.stderr: a live progress bar replaces it, to keep lines above the bar."""

    def emit(self, record):
        self.stream = sys.stderr  # not setStream, which flushes the old one: it may be closed
        if not getattr(record, "file_only", False):
            super().emit(record)


def _console_once():
    if not any(isinstance(handler, _Console) for handler in LOG.handlers):
        handler = _Console()
        handler.setFormatter(logging.Formatter("%(message)s"))
        LOG.addHandler(handler)
        LOG.propagate = False  # otherwise absl, if it owns the root logger, would repeat every line


class _Progress:
    """A counter with a bar on a terminal, and a log line every ten seconds (on a terminal to the file only)."""

    def __init__(self, description, total, unit, done, bar):
        self.description, self.total, self.unit, self.done, self._bar = description, total, unit, done, bar
        self._first_done, self._start = done, time.monotonic()
        self._last_line = self._start

    def advance(self, n=1, note=""):
        """Count n more, and show `note` beside the count."""
        self.done += n
        now = time.monotonic()
        rate = (self.done - self._first_done) / max(now - self._start, 1e-9)
        if self._bar is not None:
            bar, task = self._bar
            bar.update(task, completed=self.done, note=note, rate=f"{_format_number(rate)} {self.unit}/s")
        if now - self._last_line >= SECONDS_BETWEEN_LINES or self.done == self.total:
            self._last_line = now
            LOG.info("%s", self._line(rate, note), extra={"file_only": self._bar is not None})

    def _line(self, rate, note):
        time_left = _format_time((self.total - self.done) / rate) if rate else "?"
        parts = [f"{self.description} {self.done}/{self.total}", note, f"{_format_number(rate)} {self.unit}/s", f"{time_left} left"]
        return "  ".join(part for part in parts if part)


@contextlib.contextmanager
def progress(description, total, unit, done=0):
    """Show progress toward `total` while the block runs; yields an object with `.advance(n=1, note="")`.

    With a terminal on stderr a bar with rate and time left, otherwise a log line at most every ten seconds.
    """
    from rich import console as rich_console, progress as rich_progress

    console = rich_console.Console(stderr=True)
    if not hosts.is_first() or not console.is_terminal:
        yield _Progress(description, total, unit, done, None)
        return
    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn("{task.fields[rate]}"),
        rich_progress.TimeRemainingColumn(),
        rich_progress.TextColumn("{task.fields[note]}"),
    )
    with rich_progress.Progress(*columns, console=console) as bar:
        task = bar.add_task(description, total=total, completed=done, note="", rate="")
        yield _Progress(description, total, unit, done, (bar, task))


def _format_number(x):
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def _format_time(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def peak_memory_bytes():
    """Peak memory so far, in bytes: of the fullest accelerator of this host, or of this process on a CPU."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices()]
    if max(peaks) > 0:
        return max(peaks)
    try:
        with open("/proc/self/status") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    # Kilobytes on Linux, bytes on macOS. Unlike VmHWM it cannot be reset, so it may be the peak of an earlier stage.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reset_peak_memory():
    """Reset the peak of this process's own memory, if Linux allows it; returns whether it did."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        return True
    except OSError:
        return False


class Compiled(NamedTuple):
    """XLA compilations: their `seconds`, their `count`, and how many of them were read from a cache on disk."""

    seconds: float = 0.0
    count: int = 0
    from_cache: int = 0

    def __sub__(self, before):
        return Compiled(*(now - then for now, then in zip(self, before)))

    def __str__(self):
        return f"{self.seconds:.1f} s compiling {self.count} programs, {self.from_cache} of them from the cache"


_COMPILED = {}  # thread -> Compiled, of what that thread asked for


def _on_duration(event, duration, **_):
    if event == "/jax/core/compile/backend_compile_duration":
        _add(duration, 1, 0)


def _on_event(event, **_):
    if event == "/jax/compilation_cache/cache_hits":
        _add(0.0, 0, 1)


def _add(*costs):
    thread = threading.get_ident()
    _COMPILED[thread] = Compiled(*map(sum, zip(_COMPILED.get(thread, Compiled()), costs)))


# JAX has no public way to remove a single listener: these stay for the life of the process.
jax.monitoring.register_event_duration_secs_listener(_on_duration)
jax.monitoring.register_event_listener(_on_event)


def compiled():
    """What this process has compiled so far, in all its threads."""
    return Compiled(*map(sum, zip(Compiled(), *list(_COMPILED.values()))))


class Count:
    """Compilations inside a `count_compilations` block; final when the block is left."""

    count = from_cache = 0


@contextlib.contextmanager
def count_compilations():
    """Count the block's compilations in this thread only: a checkpoint writer in the background has its own."""
    counted, thread = Count(), threading.get_ident()
    before = _COMPILED.get(thread, Compiled())
    try:
        yield counted
    finally:
        _, counted.count, counted.from_cache = _COMPILED.get(thread, Compiled()) - before
