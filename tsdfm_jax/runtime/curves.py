"""TensorBoard curves: each network has a directory of its own, and no step stands in it twice."""

import pathlib

from tsdfm_jax.runtime import hosts


class Curve:
    """The event files of one directory, which are made when something is written; only process 0 writes.

    `first_step` is the number of updates done: a reader leaves out later points of earlier files, because they are written
    again, and with 0 the earlier files are removed. None keeps all. A context manager that closes the files.
    """

    def __init__(self, directory, first_step=None):
        self._directory, self._first_step, self._writer = pathlib.Path(directory), first_step, None
        if hosts.is_first() and first_step == 0:
            for file in self._directory.glob("events.out.tfevents.*"):
                file.unlink(missing_ok=True)

    def scalars(self, step, values):
        """Write numbers, {name: float}, at a step."""
        for name, value in values.items() if hosts.is_first() else ():
            self._open().add_scalar(name, float(value), step)

    def text(self, step, name, text):
        """Write a text, such as samples, at a step."""
        if hosts.is_first():
            self._open().add_text(name, text, step)

    def flush(self):
        """Write to disk what is written so far, so that a killed process leaves the points before its checkpoint."""
        if self._writer is not None:
            self._writer.flush()

    def close(self):
        """Flush and close the files."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _open(self):
        if self._writer is None:
            from tensorboardX import SummaryWriter  # late: not every command that imports this module writes events

            # The step in the file's name keeps two files of one second apart, and in order.
            options = {} if not self._first_step else {"purge_step": self._first_step + 1}
            suffix = "" if self._first_step is None else f".{self._first_step:010d}"
            self._writer = SummaryWriter(logdir=str(self._directory), filename_suffix=suffix, **options)
        return self._writer
