"""Judges at work: text in, negative log-likelihoods and features out, whatever tokenizer a judge has."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tsdfm_jax.config import settings
from tsdfm_jax.evaluation import judging, text_metrics
from tsdfm_jax.models import causal
from tsdfm_jax.runtime import checkpoint, mesh as meshes, pipeline
from tsdfm_jax.workspace import jobs, trained

SHORTEST = 16  # windows are padded to this times a power of two, so that few programs are compiled


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judge:
    """A causal network that scores text, by `causal.token_nll(cfg, params, x_BL, bos)`.

    Attributes:
      name: as the report calls it.
      cfg, params: the network and its weights, in the shardings of a mesh.
      tokenizer: its own, which may be another than the models'.
      bos: the token that stands before every window.
      bos_policy: where `bos` comes from, in words.
      context: tokens that it reads at most, `bos` among them.
      hash: sha256 of its weights, in hex.
    """

    name: str
    cfg: Any
    params: Any
    tokenizer: Any
    bos: int
    bos_policy: str
    context: int
    hash: str = ""


def own(name, cfg, params, tok, content_hash=""):
    """A judge that was trained here, on windows that begin behind a document's end."""
    bos = {"bos": tok.eos_id, "bos_policy": "the tokenizer's document end"}
    return Judge(name=name, cfg=cfg, params=params, tokenizer=tok, context=cfg.length, hash=content_hash, **bos)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Texts:
    """A set of texts: `rows` of tokens by the tokenizer whose content hash is `tokenizer`, and as they read."""

    rows: list
    text: list
    tokenizer: str

    @property
    def bytes(self):
        """Bytes of UTF-8 of all texts."""
        return sum(len(text.encode()) for text in self.text)


def rows_for(judge, texts):
    """A set in a judge's own tokens: as it is where the tokenizer is the same, else decoded and tokenised anew.

    A text that comes to nothing stands as one document's end, so that none is dropped.
    """
    if judge.tokenizer.content_hash == texts.tokenizer:
        rows = texts.rows
    else:
        rows = judge.tokenizer.encode_batch(texts.text)
    return [row if len(row) else np.array([judge.tokenizer.eos_id], np.int32) for row in rows]


@functools.lru_cache(maxsize=None)
def program(cfg, bos, mesh):
    """The jitted `(params, x_BL) -> nll_BL` of a judge over a mesh."""
    split = meshes.batch_sharding(mesh)
    nll = lambda params, x_BL: causal.token_nll(cfg, params, x_BL, bos)
    return meshes.jit(mesh, nll, in_shardings=(None, split), out_shardings=split)


@functools.lru_cache(maxsize=None)
def _pooled(cfg, mesh):
    """`(params, x_BL, valid_BL) -> h_BD`: the mean over positions of what the network holds after its last norm."""
    split = meshes.batch_sharding(mesh)

    def mean(params, x_BL, valid_BL):
        h_BLD = causal.hidden(cfg, params, x_BL)
        return (h_BLD * valid_BL[..., None]).sum(axis=1) / jnp.maximum(valid_BL.sum(axis=1, keepdims=True), 1)

    return meshes.jit(mesh, mean, in_shardings=(None, split, split), out_shardings=split)


def nll(judge, rows, batch, mesh):
    """-log p of each text in nats, and its tokens: (nll_N, tokens_N).

    A text longer than the context is scored in consecutive windows, each behind `bos`; none sees the one before.
    """
    most = _context(judge, mesh)
    windows = [(i, row[at : at + most]) for i, row in enumerate(rows) for at in range(0, len(row), most)]
    owner_N, jitted = np.array([i for i, _ in windows]), program(judge.cfg, judge.bos, mesh)
    x_NL, valid_NL = _padded([row for _, row in windows], batch, most, mesh)
    start = lambda at: jitted(judge.params, meshes.put_whole(mesh, x_NL[at]))
    nll_NL = np.concatenate(list(pipeline.ahead(start, _batches(x_NL, batch))))
    found_N = (nll_NL.astype(np.float64) * valid_NL).sum(axis=1)
    total_N = np.bincount(owner_N, found_N[: len(windows)], minlength=len(rows))
    return total_N, np.array([len(row) for row in rows])


def features(judge, rows, batch, mesh):
    """What a judge holds of the first `context` tokens of each text, mean over them: [N, D].

    The mean, not the last position as with MAUVE's authors: of 64 tokens a small judge's last state tells the last few. On
    48 texts it put unigram draws at 0.998, among real text; the mean put them at 0.72 and 0.89, and real text at 0.98 and above. [D]
    """
    most, jitted = _context(judge, mesh), _pooled(judge.cfg, mesh)
    x_NL, valid_NL = _padded([row[:most] for row in rows], batch, most, mesh)
    start = lambda at: jitted(judge.params, *meshes.put_whole(mesh, (x_NL[at], valid_NL[at].astype(np.float32))))
    return np.concatenate(list(pipeline.ahead(start, _batches(x_NL, batch))))[: len(rows)]


def _context(judge, mesh):
    """The judge's context, as far as positions split evenly over the mesh."""
    return judge.context // mesh.shape["tensor"] * mesh.shape["tensor"]


def _padded(rows, batch, most, mesh):
    """Rows padded behind to one length and to whole batches: (x_NL, valid_NL). What is behind is seen by nothing before it."""
    longest, length = max(map(len, rows)), SHORTEST * mesh.shape["tensor"]
    while length < longest:
        length *= 2
    return text_metrics.padded(rows, -(-len(rows) // batch) * batch, min(length, most))


def _batches(x_NL, batch):
    return [slice(first, first + batch) for first in range(0, len(x_NL), batch)]


def perplexity(judge, x_NL, batch, mesh):
    """Both formulas of a judge's perplexity of texts in its own tokens; see measures.perplexity."""
    return text_metrics.perplexity(*nll(judge, list(x_NL), batch, mesh))


def trained_judge(config, workdir, mesh, number):
    """A trained judge; `number` may be "pilot"."""
    where = jobs.require(config, workdir, "judges") / str(number) / "model"
    tok = trained.tokenizer(config, workdir)
    cfg = settings.judge(config, number, tok.vocab_size)
    params, meta = checkpoint.load_params(where, meshes.abstract(mesh, lambda: causal.init(jax.random.key(0), cfg)))
    trained.check_tokenizer(where, meta, tok)
    return judging.own(f"judge_{number}", cfg, params, tok, meta["hash"])
