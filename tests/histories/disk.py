"""Something happens at the n-th change that a run makes to the disk: a signal, a second command, or the end of the process.

Counted are the changes that Python makes below one directory; files that C++ libraries write come between them.
"""

import builtins
import contextlib
import io
import os
import threading

NAMES = ("replace", "rename", "unlink", "remove", "rmdir", "mkdir", "open")
WRITING = os.O_WRONLY | os.O_RDWR


class Killed(BaseException):
    """The process has ended: nothing that runs later may change the disk."""


class Disk:
    """Counts the changes below `root`, and calls `event()` at number `at`; after `die()` every change raises Killed.

    Threads that were there at the end of the process may never change anything again, not even in a later run.
    """

    def __init__(self, root):
        self.root = str(root)
        self.count, self.at, self.event, self.dead, self._main_only = 0, None, None, False, False
        self._ghosts = set()

    def arm(self, at, event, main_only=False):
        """Call `event()` at the `at`-th change from now on, or with `main_only` at the main thread's next one after that."""
        self.count, self.at, self.event, self._main_only = 0, at, event, main_only

    def disarm(self):
        """Nothing happens any more, whatever the count; the dead process's other threads stay dead. Returns whether it had died."""
        died, self.at, self.dead = self.dead, None, False
        if died:
            self._ghosts |= {t for t in threading.enumerate() if t is not threading.main_thread()}
        return died

    def die(self):
        """End the process: raise Killed here, and at every later change."""
        self.dead = True
        raise Killed("killed")

    def changing(self, path, directory=None):
        """Called before every change of a path, which may be relative to the open directory of a descriptor."""
        if not isinstance(path, (str, bytes, os.PathLike)):
            return
        path = os.fsdecode(path)
        if directory is not None:
            path = os.path.join(os.readlink(f"/proc/self/fd/{directory}"), path)
        if not os.path.abspath(path).startswith(self.root):
            return
        thread = threading.current_thread()
        if self.dead or thread in self._ghosts:
            raise Killed("killed")
        self.count += 1
        if self.at is not None and self.count >= self.at and not (self._main_only and thread is not threading.main_thread()):
            self.at = None
            self.event()


@contextlib.contextmanager
def watched(root):
    """While the block runs, a `Disk` is told of every change below `root`."""
    disk, real, real_open = Disk(root), {name: getattr(os, name) for name in NAMES}, io.open

    def wrapped(name):
        def call(path, *args, **kwargs):
            flags = args[0] if args else kwargs.get("flags", 0)
            if name != "open" or flags & WRITING:
                disk.changing(path, kwargs.get("dir_fd"))
            return real[name](path, *args, **kwargs)

        return call

    def opened(file, mode="r", *args, **kwargs):
        if set(mode) & set("wax+"):
            disk.changing(file)
        return real_open(file, mode, *args, **kwargs)

    for name in NAMES:
        setattr(os, name, wrapped(name))
    io.open = builtins.open = opened
    try:
        yield disk
    finally:
        io.open = builtins.open = real_open
        for name in NAMES:
            setattr(os, name, real[name])
