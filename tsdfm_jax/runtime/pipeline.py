"""A device that does not wait: programs begun ahead of their results, files written behind, and how busy it was kept."""

import collections
import concurrent.futures
import time

import jax

from tsdfm_jax.runtime import hosts

DEPTH = 2  # programs begun and not yet waited for: one at work, one behind it


class Busy:
    """How long at least some program of those it is told of was unfinished, from the first one's dispatch on.

    A program is unfinished from its dispatch to the moment when its result is ready. That moment itself is not known, but
    `is_ready` tells at any time whether it has passed. So the time between two looks counts if, and only if, something
    dispatched by the first look is not ready at the second: it was then unfinished all the while. Where everything turns
    out to be ready, the device went idle somewhere between the looks, and none of that time counts. A wait for what is not
    ready ends when it is, so all of it counts. What is missed is at most the stretch from one look to the next before each
    pause: the sum is a lower bound. (Compilation is not in it: a call returns, and its program is dispatched, after that.) [D]
    """

    def __init__(self, clock=time.perf_counter):
        self._clock, self._pending, self._seconds, self._begun, self._looked = clock, [], 0.0, None, None

    def dispatched(self, result):
        """Tell of a program just dispatched by its result, a tree of arrays."""
        self.look()
        self._pending.append(result)
        if self._begun is None:
            self._begun = self._looked

    def look(self):
        """See what is ready by now."""
        now, before = self._clock(), len(self._pending)
        self._pending = [result for result in self._pending if not _ready(result)]
        if before and self._pending:
            self._seconds += now - self._looked
        self._looked = now

    def wait(self, result):
        """Return when the result is ready."""
        self.look()
        if not _ready(result):
            jax.block_until_ready(result)
            now = self._clock()
            self._seconds, self._looked = self._seconds + now - self._looked, now

    def seconds(self):
        """Since the first dispatch; 0 without one."""
        return 0.0 if self._begun is None else self._clock() - self._begun

    def share(self):
        """Of those seconds, at least this part was busy; None without a dispatch."""
        self.look()
        return None if self._begun is None else self._seconds / max(self._looked - self._begun, 1e-9)


def _ready(result):
    return all(leaf.is_ready() for leaf in jax.tree.leaves(result))


def ahead(start, given, busy=None, depth=DEPTH):
    """Yields, in order, what `start(x)` dispatches for each x of `given`, as numpy: `depth` are begun before the first is awaited.

    `start` returns a tree of arrays that are still being computed. The next x is taken from `given`, and begun, only when the
    caller comes back for more. Across processes every one must do the same.
    """
    busy, begun = busy or Busy(), collections.deque()

    def oldest():
        busy.wait(begun[0])
        return hosts.gather(begun.popleft())

    for x in given:
        begun.append(hosts.spread(start(x)))
        busy.dispatched(begun[-1])
        if len(begun) == depth:
            yield oldest()
    while begun:
        yield oldest()


class Behind:
    """Calls that write files, one at a time, in a thread beside the caller's own work.

    To be used as a context: it is left when the last call has ended. Every process of a run must come to `call` and `settle`
    at the same points, whether or not it has something to write.
    """

    def __init__(self):
        self._thread, self._writing = concurrent.futures.ThreadPoolExecutor(1, "behind"), None

    def call(self, write):
        """Begin `write()` as soon as the call before has ended; raises what that one raised."""
        self.settle()
        self._writing = self._thread.submit(write)

    def settle(self):
        """Wait for the call under way; raises what it raised, and hosts.Elsewhere where another process's failed."""
        writing, self._writing = self._writing, None
        if writing is not None:
            hosts.together(writing.result)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._thread.shutdown(wait=True)
