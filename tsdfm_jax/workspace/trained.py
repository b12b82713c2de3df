"""What every stage stands on: its directory, its bookkeeping, and the loaders of what earlier stages left on disk."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax

from tsdfm_jax.config import settings
from tsdfm_jax.data import tokenizer as tokenizers
from tsdfm_jax.evaluation import judging
from tsdfm_jax.lineage import bookkeeping
from tsdfm_jax.models import causal, energy, transformer
from tsdfm_jax.runtime import checkpoint, hosts, loop, mesh as meshes, metrics as metrics_lib

# The config keys that each stage's result depends on, beside those of the stages before it.
KEYS = {
    "tokenizer": ("seed", "data.package", "data.files", "data.field", "data.limit_bytes", "tokenizer"),
    "data": ("data.length", "data.holdout", "data.windows_per_shard"),
    "judges": ("judges", "model.dtype", "teacher.heldout", "seed"),
    "teacher": ("flow.source", "flow.exponent", "model", "teacher"),
    "autoregressive": ("autoregressive", "model", "flow.source", "teacher.heldout", "seed"),
    "compass": ("compass", "shaping", "flow", "trajectories.chain"),
    "trajectories": ("shaping", "trajectories", "flow", "student.target", "student.progressive"),
    "student": ("student",),
    # Sets of texts and judges only add to what is there already.
    "evaluate": ("evaluate.samples", "evaluate.temperature", "evaluate.top_p", "flow", "rounds"),
}
TABLE_SEED = 6000  # from where the seeds of the table's texts count


def fingerprint(config, name):
    """The values of the keys that a stage's result depends on, as plain JSON."""
    values = {}
    for key in KEYS[name]:
        value = functools.reduce(lambda node, part: node[part], key.split("."), config)
        values[key] = value.to_dict() if hasattr(value, "to_dict") else value
    return json.loads(json.dumps(values))


@dataclasses.dataclass(kw_only=True)
class Job:
    """One stage at work.

    Attributes:
      directory: where it writes.
      metrics: its log and curves.
      finished: the figures it left if it has been done already, else None.
    """

    directory: pathlib.Path
    metrics: metrics_lib.Metrics
    fingerprint: dict
    finished: dict | None
    _begun: float = 0.0
    _compiled: metrics_lib.Compiled = metrics_lib.Compiled()

    def finish(self, figures):
        """Declare the stage done, with its figures; its seconds and compilations count every part of it, interruptions left out."""
        spent = self._account()
        figures = {**figures, **spent, "peak_memory_bytes": metrics_lib.peak_memory_bytes()}
        hosts.first(lambda: bookkeeping.finish(self.directory, self.fingerprint, figures))
        compiled = metrics_lib.Compiled(spent["compile_seconds"], spent["compilations"], spent["from_cache"])
        self.metrics.line(f"done in {spent['seconds']:.0f} s, of which {compiled}")

    def _account(self):
        """Add what was spent since the stage was taken up to that of earlier times; process 0 alone keeps the account."""
        file = self.directory / bookkeeping.SECONDS
        before = json.loads(file.read_text()) if file.exists() else {}
        before = before if isinstance(before, dict) else {"seconds": before}  # of a version that noted no more
        now, compiled = time.perf_counter(), metrics_lib.compiled()
        spent = {"seconds": now - self._begun}
        spent |= dict(zip(("compile_seconds", "compilations", "from_cache"), compiled - self._compiled))
        spent = {name: value + before.get(name, 0) for name, value in spent.items()}
        if hosts.is_first():
            self._begun, self._compiled = now, compiled
            bookkeeping.atomic_write(file, json.dumps(spent))
        return spent


@contextlib.contextmanager
def job(config, workdir, name, directory=None):
    """Begin a stage, or go on with it; `job.finished` says whether there is nothing left to do."""
    where = pathlib.Path(workdir) / (directory or name)
    mark = fingerprint(config, name)
    with metrics_lib.Metrics(workdir, name) as metrics:
        finished = hosts.first(lambda: bookkeeping.begin(where, mark))
        metrics_lib.reset_peak_memory()
        begun = dict(_begun=time.perf_counter(), _compiled=metrics_lib.compiled())
        task = Job(directory=where, metrics=metrics, fingerprint=mark, finished=finished, **begun)
        try:
            yield task
        finally:
            if finished is None and bookkeeping.done(where) is None:
                with contextlib.suppress(OSError):  # a full disk has its own message
                    task._account()


def require(config, workdir, name, directory=None):
    """The directory of an earlier stage, known to be finished and of this config."""
    where = pathlib.Path(workdir) / (directory or name)
    bookkeeping.require(where, name)
    bookkeeping.check(where, fingerprint(config, name))
    return where


def tokenizer(config, workdir):
    """The tokenizer that the stage of that name left."""
    return tokenizers.load(require(config, workdir, "tokenizer"))


def flow_path(config, workdir):
    """The path over the tokenizer's vocabulary."""
    return settings.path(config, tokenizer(config, workdir).vocab_size)


def train(config, job, section, learner, batches, *, name, mesh, tok, directory=None, evaluate=None):
    """Fit one network, and leave its moving average in `model` below the job's directory (or `directory`).

    `section` is the config section with its batch and optimiser, `learner` a `state.Learner`. Returns (state, figures).
    """
    where = directory or job.directory
    checkpoints = checkpoint.Checkpoints(where / "checkpoints")
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
        tokens_per_step=section.batch * config.data.length,
    )
    checkpoints.close()
    meta = checkpoint.save_params(where / "model", state.averaged, {"tokenizer": tok.content_hash})
    return state, figures | {"parameters": transformer.parameters(state.params), "hash": meta["hash"]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """A trained network: `apply(params, x_BL, t_B, h_B) -> logits_BLV`, its weights and their content hash.

    The autoregressive one's is `apply(params, cache, x_B) -> (logits_BV, cache)`; see causal.decode.
    """

    apply: Callable[..., jax.Array]
    params: Any
    hash: str


def network(config, symbols, mesh, *, step_conditioned):
    """The teacher's or the student's network over a text vocabulary, its weights abstract: what to load or to compile for."""
    cfg = settings.network(config, settings.path(config, symbols).vocab, step_conditioned=step_conditioned)
    init = lambda: transformer.init(jax.random.key(0), cfg, config.data.length)
    return Network(apply=functools.partial(transformer.apply, cfg), params=meshes.abstract(mesh, init), hash="")


def check_tokenizer(directory, meta, tok):
    """Raise ValueError where a model was trained with another tokenizer than the one at hand."""
    if meta["tokenizer"] != tok.content_hash:
        raise ValueError(
            f"{directory} was trained with tokenizer {meta['tokenizer'][:12]}, but this workdir has {tok.content_hash[:12]}: "
            f"put the tokenizer back, or use another --workdir"
        )


def _flow_network(config, workdir, mesh, directory, step_conditioned):
    tok = tokenizer(config, workdir)
    unread = network(config, tok.vocab_size, mesh, step_conditioned=step_conditioned)
    params, meta = checkpoint.load_params(directory / "model", unread.params)
    check_tokenizer(directory / "model", meta, tok)
    return dataclasses.replace(unread, params=params, hash=meta["hash"])


def teacher(config, workdir, mesh):
    """The trained teacher (its moving average)."""
    return _flow_network(config, workdir, mesh, require(config, workdir, "teacher"), False)


def student_directory(variant, round_number):
    """Where a student of a round lives, below the work directory."""
    return f"student/{variant}/round_{round_number}"


def student(config, workdir, mesh, variant, round_number=None):
    """A trained student, of the last round unless another is named."""
    number = config.rounds - 1 if round_number is None else round_number
    where = require(config, workdir, "student", student_directory(variant, number))
    return _flow_network(config, workdir, mesh, where, True)


def generator(config, workdir, mesh, variant, round_number):
    """Who generates a round: the teacher, then the student of the round before."""
    if round_number == 0:
        return teacher(config, workdir, mesh)
    return student(config, workdir, mesh, variant, round_number - 1)


def autoregressive(config, workdir, mesh):
    """The trained autoregressive model (its moving average)."""
    where = require(config, workdir, "autoregressive") / "model"
    tok = tokenizer(config, workdir)
    cfg = settings.autoregressive(config, tok.vocab_size)
    params, meta = checkpoint.load_params(where, meshes.abstract(mesh, lambda: causal.init(jax.random.key(0), cfg)))
    check_tokenizer(where, meta, tok)
    return Network(apply=functools.partial(causal.decode, cfg), params=params, hash=meta["hash"])


def model(config, workdir, mesh, name):
    """The trained network of one of roster.MODELS; the student's of the last round."""
    if name.startswith("student_"):
        return student(config, workdir, mesh, name.removeprefix("student_"))
    return {"teacher": teacher, "autoregressive": autoregressive}[name](config, workdir, mesh)


def compass(config, workdir, mesh):
    """Weights and content hash of a trained compass; (None, name) for a look-ahead, which has none."""
    where = require(config, workdir, "compass")
    if config.compass.kind == "lookahead":
        return None, f"lookahead-{config.compass.score}"
    tok = tokenizer(config, workdir)
    cfg = settings.compass_network(config, settings.path(config, tok.vocab_size).vocab)
    init = lambda: energy.init(jax.random.key(0), cfg, config.data.length)
    params, meta = checkpoint.load_params(where / "model", meshes.abstract(mesh, init))
    check_tokenizer(where / "model", meta, tok)
    return params, meta["hash"]


def judge(config, workdir, mesh, number):
    """A trained judge; `number` may be "pilot"."""
    where = require(config, workdir, "judges") / str(number) / "model"
    tok = tokenizer(config, workdir)
    cfg = settings.judge(config, number, tok.vocab_size)
    params, meta = checkpoint.load_params(where, meshes.abstract(mesh, lambda: causal.init(jax.random.key(0), cfg)))
    check_tokenizer(where, meta, tok)
    return judging.own(f"judge_{number}", cfg, params, tok, meta["hash"])


def sample_keys(seed, first, count):
    """One key for each of `count` samples, a function of the seed and of each sample's own number."""
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(first + jax.numpy.arange(count))
