"""A running stage in a work directory: whether it has anything to do, its bookkeeping, and the training of one network."""

import contextlib
import dataclasses
import json
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from tsdfm_jax.lineage import bookkeeping, drafts
from tsdfm_jax.lineage.artefact import digest
from tsdfm_jax.lineage.states import Kind, State
from tsdfm_jax.models import transformer
from tsdfm_jax.runtime import checkpoint, hosts, loop, metrics as metrics_lib
from tsdfm_jax.storage import atomic
from tsdfm_jax.workspace import contents, description, plan

IN_PLACE = ("evaluate", "report")  # made again file by file: each file knows what it was made of, and is replaced by a whole one


@dataclasses.dataclass(kw_only=True)
class Job:
    """A stage that makes one artefact.

    Attributes:
      directory: the directory that it writes to; of an artefact that is made again, a draft beside the old one.
      metrics: its log and curves.
      state: what stands in the artefact's place, as a lineage.states.State.
      finished: its numbers if there is nothing to do, else None.
    """

    directory: pathlib.Path
    metrics: metrics_lib.Metrics
    state: State
    finished: dict | None
    _config: ConfigDict
    _workdir: pathlib.Path
    _record: dict
    _start_time: float = 0.0
    _start_compiled: metrics_lib.Compiled = metrics_lib.Compiled()

    @property
    def identity(self):
        """The hash of what it is made of; see lineage.artefact.Artefact."""
        return self.state.artefact.identity

    @property
    def fingerprint(self):
        """The config keys that its result depends on."""
        return dict(self.state.artefact.keys)

    @property
    def adopted(self):
        """Whether it goes on with what an earlier version of the code made."""
        return bool(self._record.get("adopted"))

    def finish(self, figures, more_files=()):
        """Mark the artefact as whole, and put it in its place.

        Seconds and compilations sum over all runs, without the pauses. `more_files` are names of its files outside its
        directory, below the work directory.
        """
        totals = self._add_up_time()
        figures = atomic.finite({**figures, **totals, "peak_memory_bytes": metrics_lib.peak_memory_bytes()})
        hosts.first(lambda: self._finish(figures, more_files))
        self.directory = self._workdir / self.state.artefact.name
        compiled = metrics_lib.Compiled(totals["compile_seconds"], totals["compilations"], totals["from_cache"])
        self.metrics.line(f"done in {totals['seconds']:.0f} s, of which {compiled}")

    def _finish(self, figures, more_files):
        artefact = self.state.artefact
        is_draft = self.directory != self._workdir / artefact.name
        root = drafts.root(self._workdir) if is_draft else self._workdir
        content = contents.of(self._config, self.directory, artefact.stage, figures)
        bookkeeping.finish(root, artefact.name, self._record, figures, content, more_files)
        if is_draft:
            drafts.install(self._workdir, artefact.name)

    def _add_up_time(self):
        """Sum seconds and compilations of this run and earlier ones, write the sum to disk, return it; only process 0 writes."""
        file = self.directory / bookkeeping.SECONDS
        earlier = _read_seconds(file)
        now, compiled = time.perf_counter(), metrics_lib.compiled()
        totals = {"seconds": now - self._start_time}
        totals |= dict(zip(("compile_seconds", "compilations", "from_cache"), compiled - self._start_compiled))
        totals = {name: value + earlier.get(name, 0) for name, value in totals.items()}
        if hosts.is_first():
            self._start_time, self._start_compiled = now, compiled
            atomic.overwrite(file, json.dumps(totals))
        return totals


def _read_seconds(file):
    try:
        earlier = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return earlier if isinstance(earlier, dict) else {"seconds": earlier}  # the format of an older version


@contextlib.contextmanager
def job(config, workdir, name, remake=False):
    """Begin an artefact or go on with it; where `job.finished` is not None there is nothing left to do.

    A stale one is made again only with `remake`. Raises ValueError, in one line, without it, and for inputs that are not whole.
    """
    workdir = pathlib.Path(workdir)
    found = hosts.first(lambda: plan.of_artefact(config, workdir, name, look=True))
    state = found.states[name]
    if not remake and (refusal := found.refusal([name])):
        raise ValueError(refusal)
    stage = state.artefact.stage
    is_draft = state.kind is Kind.STALE and not state.remeasured and stage not in IN_PLACE
    root = drafts.root(workdir) if is_draft else workdir
    finished = state.record["figures"] if state.kind is Kind.DONE else None
    with metrics_lib.Metrics(workdir, stage) as metrics:
        about = dict(directory=root / name, metrics=metrics, state=state, finished=finished, _config=config, _workdir=workdir)
        if finished is not None:
            yield Job(_record={}, **about)
            return
        record = hosts.first(lambda: _begin(config, workdir, root, state))
        metrics_lib.reset_peak_memory()
        start = dict(_start_time=time.perf_counter(), _start_compiled=metrics_lib.compiled())
        task = Job(_record=record, **about, **start)
        try:
            yield task
        finally:
            if task.directory.exists() and bookkeeping.done(task.directory) is None:
                with contextlib.suppress(OSError):  # a full disk has its own message
                    task._add_up_time()


def _begin(config, workdir, root, state):
    """Make the directory, note what the artefact is made of, and drop what is left of another one."""
    name = state.artefact.name
    inputs = {one: (bookkeeping.done(workdir / one) or {}).get("content") for one in state.artefact.all_inputs}
    record = bookkeeping.made_of(state.artefact, inputs)
    if state.kind is Kind.MORE and state.record.get("adopted"):
        record["adopted"] = True
    if root == workdir:
        drafts.unlink(workdir, name)
    if root != workdir and bookkeeping.begun(root / name) != record:
        drafts.discard(workdir, name)
    if state.kind is Kind.DAMAGED:
        (workdir / name / bookkeeping.DONE).unlink(missing_ok=True)
    bookkeeping.begin(root / name, record)
    return record


def require(config, workdir, name):
    """The directory of an earlier artefact; raises ValueError unless it is whole and is what this config makes."""
    workdir = pathlib.Path(workdir)
    plan.of_artefact(config, workdir, name, look=False).require(name)
    return workdir / name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """What the rows of a training's batches are.

    Attributes:
      unit: what the rate of the training counts.
      each: units in a row.
      meta: what the network's meta.json says of them.
    """

    unit: str = "images"
    each: int = 1
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def text(config, tok):
    """Rows that are windows of text: the rate counts tokens, and a network is of its tokenizer."""
    return Rows(unit="tokens", each=config.data.length, meta={"tokenizer": tok.content_hash})


def train(config, job, section, learner, batches, *, name, mesh, about, rows=Rows(), directory=None, evaluate=None):
    """Train one network, and write its moving average to `model` below the job's directory (or `directory`).

    `section` is the config section with its batch and optimiser, `learner` a `state.Learner`, `about` a `description` of the
    network, which is written beside it, `rows` what its batches are of. Returns (state, numbers).
    """
    directory = directory or job.directory
    part = directory.relative_to(job.directory).as_posix()  # "." except for judges, which share one artefact
    identity = digest([job.identity, part])
    checkpoints = checkpoint.Checkpoints(directory / "checkpoints", identity=identity)
    state, figures = loop.fit(
        learner,
        batches,
        name=name,
        steps=section.optimiser.steps,
        checkpoints=checkpoints,
        metrics=job.metrics,
        mesh=mesh,
        log_every=config.log_every,
        save_every=config.save_every,
        evaluate=evaluate,
        evaluate_every=config.evaluate_every,
        unit=rows.unit,
        units_per_step=section.batch * rows.each,
        curve=(pathlib.Path(job.state.artefact.name) / part).as_posix(),
    )
    checkpoints.close()
    meta = checkpoint.save_params(directory / "model", state.averaged, {**rows.meta, description.KEY: about})
    return state, figures | {"parameters": transformer.parameters(state.params), "hash": meta["hash"]}
