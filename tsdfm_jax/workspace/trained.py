"""Loaders of what earlier stages wrote to a work directory: tokenizer, networks and compass."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from tsdfm_jax.config import settings
from tsdfm_jax.data import tokenizer as tokenizers
from tsdfm_jax.lineage import bookkeeping
from tsdfm_jax.models import causal, energy, transformer
from tsdfm_jax.runtime import checkpoint, mesh as meshes
from tsdfm_jax.workspace import description, graph, jobs, tsdfm_artefacts


def tokenizer(config, workdir, find=jobs.require):
    """The tokenizer that the stage `tokenizer` wrote.

    `find(config, workdir, name)` of this and of the other loaders gives an artefact's directory: `jobs.require` for a stage,
    which must not read what another config made; `whole` for a reader who takes what is there.
    """
    return tokenizers.load(find(config, workdir, "tokenizer"))


def whole(config, workdir, name):
    """The directory of a finished artefact, whatever config made it."""
    bookkeeping.require(workdir / name, name.split("/")[0])
    return workdir / name


def flow_path(config, workdir):
    """The path over the tokenizer's vocabulary."""
    return settings.path(config, tokenizer(config, workdir).vocab_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """A trained network: `apply(params, x_BL, t_B, h_B) -> logits_BLV`, its weights and their content hash.

    The autoregressive model has `apply(params, cache, x_B) -> (logits_BV, cache)`; see causal.decode.
    """

    apply: Callable[..., jax.Array]
    params: Any
    hash: str


def network(config, text_vocab, mesh, *, step_conditioned):
    """The teacher's or the student's network over a text vocabulary, with abstract weights, to load or to compile for."""
    cfg = settings.network(config, settings.path(config, text_vocab).vocab, step_conditioned=step_conditioned)
    init = lambda: transformer.init(jax.random.key(0), cfg, config.data.length)
    return Network(apply=functools.partial(transformer.apply, cfg), params=meshes.abstract(mesh, init), hash="")


def about(config, tok, *, step_conditioned):
    """What stands beside the weights of a teacher or student: its shape, L and path."""
    path = settings.path(config, tok.vocab_size)
    cfg = settings.network(config, path.vocab, step_conditioned=step_conditioned)
    return description.of_flow(cfg, config.data.length, path)


def check_tokenizer(directory, meta, tok):
    """Raise ValueError where a model was trained with another tokenizer than `tok`."""
    if meta["tokenizer"] != tok.content_hash:
        raise ValueError(
            f"{directory} was trained with tokenizer {meta['tokenizer'][:12]}, but this workdir has {tok.content_hash[:12]}: "
            f"run all stages there again, and do as they say"
        )


def _flow_network(config, workdir, mesh, directory, step_conditioned, find):
    tok = tokenizer(config, workdir, find)
    template = network(config, tok.vocab_size, mesh, step_conditioned=step_conditioned)
    params, meta = checkpoint.load_params(directory / "model", template.params)
    check_tokenizer(directory / "model", meta, tok)
    path = settings.path(config, tok.vocab_size)
    cfg = settings.network(config, path.vocab, step_conditioned=step_conditioned)
    description.check(directory / "model", meta, cfg, path)
    return dataclasses.replace(template, params=params, hash=meta["hash"])


def teacher(config, workdir, mesh, find=jobs.require):
    """The trained teacher (its moving average)."""
    return _flow_network(config, workdir, mesh, find(config, workdir, "teacher"), False, find)


def student(config, workdir, mesh, variant, round_number=None, find=jobs.require):
    """A trained student of a round, by default the last one."""
    number = config.rounds - 1 if round_number is None else round_number
    directory = find(config, workdir, tsdfm_artefacts.student_directory(variant, number))
    return _flow_network(config, workdir, mesh, directory, True, find)


def generator(config, workdir, mesh, variant, round_number):
    """The network that generates a round: the teacher in round 0, then the student of the round before."""
    if round_number == 0:
        return teacher(config, workdir, mesh)
    return student(config, workdir, mesh, variant, round_number - 1)


def autoregressive(config, workdir, mesh, find=jobs.require):
    """The trained autoregressive model (its moving average)."""
    directory = find(config, workdir, "autoregressive") / "model"
    tok = tokenizer(config, workdir, find)
    cfg = settings.autoregressive(config, tok.vocab_size)
    params, meta = checkpoint.load_params(directory, meshes.abstract(mesh, lambda: causal.init(jax.random.key(0), cfg)))
    check_tokenizer(directory, meta, tok)
    description.check(directory, meta, cfg)
    return Network(apply=functools.partial(causal.decode, cfg), params=params, hash=meta["hash"])


def model(config, workdir, mesh, name, find=jobs.require):
    """The trained network of one of networks.MODELS; a student is that of the last round."""
    if name.startswith("student_"):
        return student(config, workdir, mesh, name.removeprefix("student_"), find=find)
    return {"teacher": teacher, "autoregressive": autoregressive}[name](config, workdir, mesh, find)


def own_config(config, workdir, name):
    """The config of a run's model by what stands beside its weights; other keys are those of `config`."""
    directory = whole(config, workdir, graph.model_directory(config, name)) / "model"
    return description.into_config(config, checkpoint.read_meta(directory), name)


def compass(config, workdir, mesh):
    """Weights and content hash of a trained compass; (None, name) for a look-ahead, which has no weights."""
    directory = jobs.require(config, workdir, "compass")
    if config.compass.kind == "lookahead":
        return None, f"lookahead-{config.compass.score}"
    tok = tokenizer(config, workdir)
    cfg = settings.compass_network(config, settings.path(config, tok.vocab_size).vocab)
    init = lambda: energy.init(jax.random.key(0), cfg, config.data.length)
    params, meta = checkpoint.load_params(directory / "model", meshes.abstract(mesh, init))
    check_tokenizer(directory / "model", meta, tok)
    return params, meta["hash"]
