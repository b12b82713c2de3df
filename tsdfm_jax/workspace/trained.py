"""Loaders of what earlier stages wrote to a work directory: tokenizer, networks and compass."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from tsdfm_jax.config import settings
from tsdfm_jax.data import tokenizer as tokenizers
from tsdfm_jax.models import causal, energy, transformer
from tsdfm_jax.runtime import checkpoint, mesh as meshes
from tsdfm_jax.workspace import jobs


def tokenizer(config, workdir):
    """The tokenizer that the stage `tokenizer` wrote."""
    return tokenizers.load(jobs.require(config, workdir, "tokenizer"))


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


def check_tokenizer(directory, meta, tok):
    """Raise ValueError where a model was trained with another tokenizer than `tok`."""
    if meta["tokenizer"] != tok.content_hash:
        raise ValueError(
            f"{directory} was trained with tokenizer {meta['tokenizer'][:12]}, but this workdir has {tok.content_hash[:12]}: "
            f"put the tokenizer back, or use another --workdir"
        )


def _flow_network(config, workdir, mesh, directory, step_conditioned):
    tok = tokenizer(config, workdir)
    template = network(config, tok.vocab_size, mesh, step_conditioned=step_conditioned)
    params, meta = checkpoint.load_params(directory / "model", template.params)
    check_tokenizer(directory / "model", meta, tok)
    return dataclasses.replace(template, params=params, hash=meta["hash"])


def teacher(config, workdir, mesh):
    """The trained teacher (its moving average)."""
    return _flow_network(config, workdir, mesh, jobs.require(config, workdir, "teacher"), False)


def student(config, workdir, mesh, variant, round_number=None):
    """A trained student of a round, by default the last one."""
    number = config.rounds - 1 if round_number is None else round_number
    directory = jobs.require(config, workdir, "student", jobs.student_directory(variant, number))
    return _flow_network(config, workdir, mesh, directory, True)


def generator(config, workdir, mesh, variant, round_number):
    """The network that generates a round: the teacher in round 0, then the student of the round before."""
    if round_number == 0:
        return teacher(config, workdir, mesh)
    return student(config, workdir, mesh, variant, round_number - 1)


def autoregressive(config, workdir, mesh):
    """The trained autoregressive model (its moving average)."""
    directory = jobs.require(config, workdir, "autoregressive") / "model"
    tok = tokenizer(config, workdir)
    cfg = settings.autoregressive(config, tok.vocab_size)
    params, meta = checkpoint.load_params(directory, meshes.abstract(mesh, lambda: causal.init(jax.random.key(0), cfg)))
    check_tokenizer(directory, meta, tok)
    return Network(apply=functools.partial(causal.decode, cfg), params=params, hash=meta["hash"])


def model(config, workdir, mesh, name):
    """The trained network of one of networks.MODELS; a student is that of the last round."""
    if name.startswith("student_"):
        return student(config, workdir, mesh, name.removeprefix("student_"))
    return {"teacher": teacher, "autoregressive": autoregressive}[name](config, workdir, mesh)


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
