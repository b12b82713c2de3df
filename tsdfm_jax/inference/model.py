"""A trained model as an object: it writes text and computes logits."""

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
      name: the model's name, and the run or directory that it comes from.
      length: tokens of its longest text.
      tokenizer: its tokenizer, None if it has none.
      hash: content hash of its weights.
      network: the static shape of its network; `network.vocab` is V.
      params: its weights, sharded over the mesh.
    """

    def __init__(self, name, cfg, network, mesh, length, writer):
        self.name, self.network, self.length, self._writer = name, cfg, length, writer
        self.tokenizer, self.hash = writer and writer.tokenizer, network.hash
        self.params, self._mesh = network.params, mesh
        exact = dataclasses.replace(cfg, dtype="float32")
        self._logits = meshes.jit(mesh, functools.partial(transformer.apply, exact))

    def __repr__(self):
        return f"Model({self.name}: up to {self.length} tokens)"

    def logits(self, x_BL, t_B, h_B=None):
        """The network's raw logits for the data's token at every position, computed in float32; no tokenizer is needed.

        Under the mask source V includes the mask token, which is the last one, V - 1. Its logit is the network's own: only
        the sampler removes its probability.

        Args:
          x_BL (array): tokens, integers from 0 to V - 1. L is free, but a multiple of the mesh's tensor axis.
          t_B (array): the time of each text, in [0, 1].
          h_B (array | None): the step size of each text, in [0, 1]. A student without it uses the time alone; a teacher
            ignores it.

        Returns:
          logits_BLV (numpy.ndarray): the logits, in float32.

        Raises:
          ValueError: for a value out of range, a wrong shape or type, or an autoregressive model, which has no times.
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
        inputs = meshes.put_whole(self._mesh, [x_BL[at_B].astype(np.int32), t_B[at_B], None if h_B is None else h_B[at_B]])
        with jax.default_matmul_precision("highest"):
            return hosts.gather(self._logits(self.params, *inputs))[: len(x_BL)]

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
        """Write texts around the given text, which stays unchanged.

        For the same request text i depends only on (seed, i), not on `number` or `batch`. A call compiles a program only for
        a new temperature, top_p, batch size or window. The window is the smallest of L, L/2, L/4, … that holds the text.

        Args:
          prompt (str): the beginning of the text.
          suffix (str): the end of the text.
          infill (str | None): the whole text with markers, instead of prompt, suffix and length.
          span (str): the marker in `infill`.
          span_length (int): tokens to write for each marker.
          steps (int): sampling steps. An autoregressive model ignores it: it takes one step for each token.
          number (int): number of texts, 65,536 at most.
          temperature (float): divides the logits, > 0.
          top_p (float): keeps the smallest set of tokens that holds this mass, in (0, 1].
          seed (int): seed of all texts, from 0 to 2^31 - 1.
          length (int | None): tokens of a text, given ones included; None is the model's full length.
          states (bool): whether each Sample keeps its text after every step.
          batch (int): texts computed at once at most, rounded up to a multiple of the devices along the batch.

        Returns:
          samples (list[Sample]): the `number` texts in order; each prints as its text.

        Raises:
          ValueError: for a model without tokenizer, a value out of range, a text that is longer than the model's or leaves
            nothing to write, or an autoregressive model with `suffix` or `infill`.
        """
        if self._writer is None:
            raise ValueError(
                f"{self.name} has no tokenizer, so that it can neither read nor write text: import it with --tokenizer"
            )
        prompts.check_whole("steps", steps, 1)
        prompts.check_whole("batch", batch, 1)
        if length is not None:
            prompts.check_whole("length", length, 1)
        if infill is not None:
            prompts.check_infill(infill)
        ask = prompts.Ask(
            prompt=prompt,
            suffix=suffix,
            infill="" if infill is None else infill,
            span=span,
            span_length=span_length,
            length=0 if length is None else length,
            number=number,
            seed=seed,
        )
        requests = [prompts.request(self.tokenizer, ask, self.length)]
        return self._writer(requests, steps, temperature=temperature, top_p=top_p, batch=batch, states=states)
