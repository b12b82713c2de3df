"""Keep the device busy: dispatch programs ahead of their results, write files in the background, measure the busy share."""

import collections
import concurrent.futures
import time

import jax
import numpy as np

from tsdfm_jax.runtime import hosts, mesh as meshes, signals

DEPTH = 2  # programs dispatched and not yet awaited: one running, one queued


class Busy:
    """A lower bound on the time in which some reported program was unfinished, from the first dispatch on.

    A program is unfinished from its dispatch until its result is ready. That moment is not known, but `is_ready` says at any
    time whether it has passed. So the time between two polls counts if and only if a result dispatched by the first poll is
    not ready at the second: it was then unfinished all the time. If everything is ready, the device went idle somewhere
    between the polls, and none of that time counts. A wait for a result that is not ready ends when it is ready, so all of
    it counts. Before each pause at most the time between two polls is missed: the sum is a lower bound. (Compilation does
    not count: a call returns, and its program is dispatched, after it.) [D]
    """

    def __init__(self, clock=time.perf_counter):
        self._clock, self._pending, self._seconds, self._started, self._polled = clock, [], 0.0, None, None

    def dispatched(self, result):
        """Report a program just dispatched by its result, a tree of arrays."""
        self.poll()
        self._pending.append(result)
        if self._started is None:
            self._started = self._polled

    def poll(self):
        """Check which results are ready now."""
        now, pending_count = self._clock(), len(self._pending)
        self._pending = [result for result in self._pending if not _ready(result)]
        if pending_count and self._pending:
            self._seconds += now - self._polled
        self._polled = now

    def wait(self, result):
        """Return when the result is ready."""
        self.poll()
        if not _ready(result):
            jax.block_until_ready(result)
            now = self._clock()
            self._seconds, self._polled = self._seconds + now - self._polled, now

    def seconds(self):
        """Seconds since the first dispatch; 0 without one."""
        return 0.0 if self._started is None else self._clock() - self._started

    def share(self):
        """The busy share of these seconds, a lower bound; None without a dispatch."""
        self.poll()
        return None if self._started is None else self._seconds / max(self._polled - self._started, 1e-9)


def _ready(result):
    return all(leaf.is_ready() for leaf in jax.tree.leaves(result))


def ahead(start, inputs, busy=None, depth=DEPTH):
    """Yield, in order, the result of `start(x)` for each x of `inputs`, as numpy; starts `depth` of them before it waits.

    `start` returns a tree of arrays that are still being computed. The next x is read from `inputs` and started only when the
    caller asks for more. Every process must do the same.
    """
    busy, in_flight = busy or Busy(), collections.deque()

    def finish_oldest():
        busy.wait(in_flight[0])
        return hosts.gather(in_flight.popleft())

    for x in inputs:
        in_flight.append(hosts.start_gather(start(x)))
        busy.dispatched(in_flight[-1])
        if len(in_flight) == depth:
            yield finish_oldest()
    while in_flight:
        yield finish_oldest()


def mapped(mesh, function, rows, batch, name):
    """A jitted `function` of all rows of a tree of arrays, `batch` at once and split over the mesh: its arrays, as numpy.

    The last row fills up the last batch. Raises signals.Interrupted, which says `name`, when asked to stop.
    """
    batch, stop, found, count = meshes.round_up(mesh, batch), signals.DelayedStop(), [], len(jax.tree.leaves(rows)[0])
    at = lambda first: np.minimum(np.arange(first, first + batch), count - 1)
    start = lambda first: function(meshes.put_whole(mesh, jax.tree.map(lambda x_N: x_N[at(first)], rows)))
    for part in ahead(start, range(0, count, batch)):
        found.append(part)
        if stop():
            raise signals.Interrupted(f"{name}: stopped; the same command goes on from there")
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *found)


class BackgroundWriter:
    """Calls that write files, one at a time, in a background thread.

    Use it as a context; leaving it waits for the last call. Every process of a run must reach `call` and `settle` at the
    same points, whether or not it has something to write.
    """

    def __init__(self):
        self._thread, self._writing = concurrent.futures.ThreadPoolExecutor(1, "behind"), None

    def call(self, write):
        """Start `write()` after the previous call has ended; raises what `settle` raises for that call."""
        self.settle()
        self._writing = self._thread.submit(write)

    def settle(self):
        """Wait for the current call; raises its error, or hosts.OtherProcessFailed if only another process's call failed."""
        writing, self._writing = self._writing, None
        if writing is not None:
            hosts.together(writing.result)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._thread.shutdown(wait=True)
