"""A trained model as an object: it writes text, and gives its logits."""

import dataclasses
import functools

import jax
import numpy as np

from tsdfm_jax.data import prompts
from tsdfm_jax.models import transformer
from tsdfm_jax.runtime import hosts, mesh as meshes


class Model:
    """A trained model; `load` makes it.

    Attributes:
      name: which one, and of which run or directory.
      length: tokens of its longest text.
      tokenizer: its tokenizer, None where it came without one.
      hash: content hash of its weights.
      network: the static shape of its network; `network.vocab` is V.
      params: its weights, as they lie on the mesh.
    """

    def __init__(self, name, cfg, network, mesh, length, write):
        self.name, self.network, self.length, self._write = name, cfg, length, write
        self.tokenizer, self.hash = write and write.tokenizer, network.hash
        self.params, self._mesh = network.params, mesh
        exact = dataclasses.replace(cfg, dtype="float32")
        self._logits = meshes.jit(mesh, functools.partial(transformer.apply, exact))

    def __repr__(self):
        return f"Model({self.name}: up to {self.length} tokens)"

    def logits(self, x_BL, t_B, h_B=None):
        """The network's raw logits of the data's token at every position, float32 numpy [B, L, V], computed in float32.

        `x_BL` are tokens from 0 to V - 1, of any number L of positions; `t_B` the times, in [0, 1]; `h_B` the step sizes
        that a student is told, in [0, 1], or None: it then goes by the time alone. A teacher takes no notice of `h_B`.
        Under the mask source V counts the mask token, which is the last one, V - 1: its logit is here as the network
        gives it, and only the sampler takes its mass away. No tokenizer is needed. Raises ValueError, in one line, for
        what is out of bounds, and for an autoregressive model, which has no times.
        """
        if not isinstance(self.network, transformer.TransformerConfig):
            raise ValueError(f"{self.name} is autoregressive and has no posterior at a time: take logits of a teacher or a student")
        x_BL, t_B = np.asarray(x_BL), np.asarray(t_B, np.float32)
        if x_BL.ndim != 2 or not x_BL.size or x_BL.dtype.kind not in "iu":
            raise ValueError(f"x_BL of shape {x_BL.shape} and type {x_BL.dtype} must be whole numbers [B, L]")
        if x_BL.min() < 0 or x_BL.max() >= self.network.vocab:
            raise ValueError(f"x_BL has tokens from {x_BL.min()} to {x_BL.max()}: the model has 0 to {self.network.vocab - 1}")
        h_B = np.asarray(h_B, np.float32) if h_B is not None and self.network.step_conditioned else None
        for name, value_B in {"t_B": t_B, "h_B": h_B}.items():
            if value_B is not None and (value_B.shape != x_BL.shape[:1] or not ((0 <= value_B) & (value_B <= 1)).all()):
                raise ValueError(f"{name} {value_B.tolist()} must be {len(x_BL)} numbers from 0 to 1, one a text")
        meshes.require_positions(x_BL.shape[1], self._mesh, "L of x_BL")
        at_B = np.minimum(np.arange(meshes.round_up(self._mesh, len(x_BL))), len(x_BL) - 1)  # the last text fills up the batch
        given = meshes.put_whole(self._mesh, [x_BL[at_B].astype(np.int32), t_B[at_B], None if h_B is None else h_B[at_B]])
        with jax.default_matmul_precision("highest"):
            return hosts.gather(self._logits(self.params, *given))[: len(x_BL)]

    def sample(
        self,
        prompt="",
        *,
        suffix="",
        infill=None,
        span="____",
        span_length=8,
        steps=8,
        number=1,
        temperature=1.0,
        top_p=1.0,
        seed=0,
        length=None,
        states=False,
        batch=64,
    ):
        """Texts, as a list of `number` sampling.Sample, each of which prints as its text.

        Given text stays as it is: `prompt` at the beginning, `suffix` at the end, or `infill` with a marker `span` for every
        `span_length` tokens to be written. `length` counts tokens (None: as many as the model writes). Text i is a function
        of (seed, i): not of `number`, nor of `batch`, the texts computed at once. With `states` each Sample keeps its text
        of every step. An autoregressive model takes a prompt alone, and one step a token. A call compiles only where
        temperature, top_p or the batch's size are new.
        Raises ValueError, in one line, for what cannot be written.
        """
        if self._write is None:
            raise ValueError(
                f"{self.name} has no tokenizer, so that it can neither read nor write text: import it with --tokenizer"
            )
        prompts.check_whole("steps", steps, 1)
        prompts.check_whole("batch", batch, 1)
        ask = prompts.Ask(
            prompt=prompt,
            suffix=suffix,
            infill=infill or "",
            span=span,
            span_length=span_length,
            length=0 if length is None else length,
            number=number,
            seed=seed,
        )
        wanted = [prompts.request(self.tokenizer, ask, self.length)]
        return self._write(wanted, steps, temperature=temperature, top_p=top_p, batch=batch, states=states)
