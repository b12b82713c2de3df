"""Score text with judges: negative log-likelihoods and features, for any tokenizer of the judge."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tsdfm_jax.config import settings
from tsdfm_jax.evaluation import text_metrics
from tsdfm_jax.lineage.artefact import digest
from tsdfm_jax.models import causal
from tsdfm_jax.runtime import checkpoint, mesh as meshes, pipeline, signals
from tsdfm_jax.workspace import jobs, trained

SCORER = 1  # of `nll` and `features`; another number makes stored scores stale
SHORTEST = 16  # windows are padded to this times a power of two, to compile few programs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judge:
    """A causal network that scores text, by `causal.token_nll(cfg, params, x_BL, bos)`.

    Attributes:
      name: its name in the report.
      cfg, params: the network and its weights, in the shardings of a mesh.
      tokenizer: its own tokenizer, which may differ from the models'.
      bos: the token before every window.
      bos_policy: the origin of `bos`, in words.
      context: most tokens that it reads in a window, `bos` included.
      hash: sha256 of its weights, in hex.
      settings: what else its numbers depend on, as JSON, such as the hash of its config file.
    """

    name: str
    cfg: Any
    params: Any
    tokenizer: Any
    bos: int
    bos_policy: str
    context: int
    hash: str = ""
    settings: Any = None

    @property
    def identity(self):
        """A hash of all that its numbers depend on."""
        shape = dataclasses.asdict(self.cfg) if dataclasses.is_dataclass(self.cfg) else None
        of_the_machine = ("attention", "remat", "unroll")
        shape = shape and {name: value for name, value in shape.items() if name not in of_the_machine}
        return digest([SCORER, self.hash, self.settings, shape, self.tokenizer.content_hash, self.bos, self.context])


def local_judge(name, cfg, params, tok, content_hash=""):
    """A judge trained here, with the document end token before every window."""
    bos = {"bos": tok.eos_id, "bos_policy": "the tokenizer's document end"}
    return Judge(name=name, cfg=cfg, params=params, tokenizer=tok, context=cfg.length, hash=content_hash, **bos)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Texts:
    """A set of texts: `rows` of tokens, the decoded `text`, and the content hash of the `tokenizer`."""

    rows: list
    text: list
    tokenizer: str

    @property
    def bytes(self):
        """Bytes of all texts in UTF-8."""
        return sum(len(text.encode()) for text in self.text)


def rows_for(judge, texts):
    """A set's rows in a judge's tokens: unchanged for the same tokenizer, else the decoded text tokenised again.

    An empty text becomes one document end token, so that no text is dropped.
    """
    if judge.tokenizer.content_hash == texts.tokenizer:
        rows = texts.rows
    else:
        rows = judge.tokenizer.encode_batch(texts.text)
    return [row if len(row) else np.array([judge.tokenizer.eos_id], np.int32) for row in rows]


@functools.lru_cache(maxsize=None)
def program(cfg, bos, mesh):
    """A judge's jitted `(params, x_BL) -> nll_BL` over a mesh."""
    split = meshes.batch_sharding(mesh)
    nll = lambda params, x_BL: causal.token_nll(cfg, params, x_BL, bos)
    return meshes.jit(mesh, nll, in_shardings=(None, split), out_shardings=split)


@functools.lru_cache(maxsize=None)
def _pooled(cfg, mesh):
    """`(params, x_BL, valid_BL) -> h_BD`: the mean over valid positions of the hidden states after the last norm."""
    split = meshes.batch_sharding(mesh)

    def mean(params, x_BL, valid_BL):
        h_BLD = causal.hidden(cfg, params, x_BL)
        return (h_BLD * valid_BL[..., None]).sum(axis=1) / jnp.maximum(valid_BL.sum(axis=1, keepdims=True), 1)

    return meshes.jit(mesh, mean, in_shardings=(None, split, split), out_shardings=split)


def nll(judge, rows, batch, mesh):
    """-log p of each text in nats, and its number of tokens: (nll_N, tokens_N).

    A text longer than the context is scored in consecutive, independent windows, each after `bos`.
    """
    context = _context(judge, mesh)
    windows = [(i, row[at : at + context]) for i, row in enumerate(rows) for at in range(0, len(row), context)]
    owner_N, jitted = np.array([i for i, _ in windows]), program(judge.cfg, judge.bos, mesh)
    x_NL, valid_NL = _padded([row for _, row in windows], batch, context, mesh)
    start = lambda at: jitted(judge.params, meshes.put_whole(mesh, x_NL[at]))
    nll_NL = np.concatenate(list(_until_stopped(pipeline.ahead(start, _batches(x_NL, batch)))))
    window_nll_N = (nll_NL.astype(np.float64) * valid_NL).sum(axis=1)
    total_N = np.bincount(owner_N, window_nll_N[: len(windows)], minlength=len(rows))
    return total_N, np.array([len(row) for row in rows])


def features(judge, rows, batch, mesh):
    """Features of each text: a judge's hidden states, mean over the first `context` tokens: [N, D].

    The mean, not the last position as MAUVE's authors use: with 64 tokens a small judge's last state depends on the last few.
    On 48 texts it gave unigram draws 0.998, as for real text; the mean gave them 0.72 and 0.89, and real text 0.98 and above. [D]
    """
    context, jitted = _context(judge, mesh), _pooled(judge.cfg, mesh)
    x_NL, valid_NL = _padded([row[:context] for row in rows], batch, context, mesh)
    start = lambda at: jitted(judge.params, *meshes.put_whole(mesh, (x_NL[at], valid_NL[at].astype(np.float32))))
    return np.concatenate(list(_until_stopped(pipeline.ahead(start, _batches(x_NL, batch)))))[: len(rows)]


def _until_stopped(batches):
    """The same batches; raises signals.Interrupted between two of them when asked to stop."""
    stop = signals.DelayedStop()
    for batch in batches:
        yield batch
        if stop():
            raise signals.Interrupted("scoring: stopped; the same command goes on from there")


def _context(judge, mesh):
    """The judge's context, rounded down to split evenly over the mesh's tensor axis."""
    return judge.context // mesh.shape["tensor"] * mesh.shape["tensor"]


def _padded(rows, batch, context, mesh):
    """Rows padded at the end to one length and to whole batches: (x_NL, valid_NL). Causal attention hides the padding."""
    longest, length = max(map(len, rows)), SHORTEST * mesh.shape["tensor"]
    while length < longest:
        length *= 2
    return text_metrics.padded(rows, -(-len(rows) // batch) * batch, min(length, context))


def _batches(x_NL, batch):
    return [slice(first, first + batch) for first in range(0, len(x_NL), batch)]


def perplexity(judge, x_NL, batch, mesh):
    """Both perplexities of texts in the judge's own tokens; see text_metrics.perplexity."""
    return text_metrics.perplexity(*nll(judge, list(x_NL), batch, mesh))


def trained_judge(config, workdir, mesh, number):
    """Load the run's trained judge `number`, which may be "pilot"."""
    directory = jobs.require(config, workdir, "judges") / str(number) / "model"
    tok = trained.tokenizer(config, workdir)
    cfg = settings.judge(config, number, tok.vocab_size)
    params, meta = checkpoint.load_params(directory, meshes.abstract(mesh, lambda: causal.init(jax.random.key(0), cfg)))
    trained.check_tokenizer(directory, meta, tok)
    return local_judge(f"judge_{number}", cfg, params, tok, meta["hash"])
