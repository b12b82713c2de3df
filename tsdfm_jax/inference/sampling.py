"""Text from a trained network, batch by batch, in short device calls, so that sampling can stop between two of them."""

import dataclasses
import time

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from tsdfm_jax.config import networks, settings
from tsdfm_jax.data import prompts
from tsdfm_jax.flow import sampler
from tsdfm_jax.inference import decoding
from tsdfm_jax.models import causal
from tsdfm_jax.runtime import hosts, mesh as meshes, signals
from tsdfm_jax.workspace import jobs, trained

STEPS_A_CALL = 64
SHORTEST = 16  # tokens of the smallest window that a text is written in


class Sampler:
    """Samples from networks of one architecture: one compiled program, `advance`, for any number of steps and any weights."""

    def __init__(self, apply, path, mesh, length, batch, cfg):
        def advance(params, key_B, x_BL, first, last, steps, given_BL, fixed_BL):
            posterior = lambda x_BL, t_B, h_B: apply(params, x_BL, t_B, h_B)
            return sampler.advance(key_B, path, posterior, x_BL, first, last, steps, given_BL, fixed_BL, cfg)

        start = lambda key_B, given_BL, fixed_BL: sampler.start(key_B, path, given_BL, fixed_BL)
        self._compile(mesh, length, batch, start, advance, meshes.batch_sharding(mesh))

    def _compile(self, mesh, length, batch, start, advance, state_sharding):
        """Jit `start` and `advance` over the mesh; `state_sharding` is that of the state that one call passes to the next."""
        self._mesh, self._length, self._batch, self._compiled = mesh, length, batch, False
        batch_sharding, scalars = meshes.batch_sharding(mesh), meshes.replicated(mesh)

        def initial_state(seed_B, index_B, given_BL, fixed_BL):
            key_B = jax.vmap(lambda seed, i: sampler.sample_keys(seed, i, 1)[0])(seed_B, index_B)
            return start(key_B, given_BL, fixed_BL)

        self._initial_state = jax.jit(initial_state, in_shardings=batch_sharding, out_shardings=(state_sharding, batch_sharding))
        shardings = (None, batch_sharding, state_sharding, scalars, scalars, scalars, batch_sharding, batch_sharding)
        self.advance = meshes.jit(mesh, advance, in_shardings=shardings, out_shardings=state_sharding, donate_argnums=2)

    def _texts(self, state, step):
        """The tokens that a state holds after `step` steps, as numpy."""
        del step
        return np.array(hosts.gather(state))  # a copy: the next call reuses the state's memory

    def __call__(self, params, seed, number, steps, *, index_N=None, given_NL=None, on_step=lambda jumps: None, on_state=None):
        """Write `number` texts: (x_NL in int32, seconds), without the compilation of the first call.

        `seed` is one seed for all texts or one for each; `index_N` holds the texts' own numbers, by default 0 … N - 1. A text
        depends only on its seed, its number and its row of `given_NL`, not on `number`, the batch or the devices. `given_NL`
        holds the given tokens, -1 where a position is free. `on_step(jumps)` is called after every device call.
        `on_state(first, step, x_BL)` is called with every state of the texts `first` …, x_0 (step 0) included, as numpy.
        Raises signals.Interrupted when asked to stop.
        """
        seed_N = np.broadcast_to(np.asarray(seed, np.uint32), (number,))
        index_N = np.arange(number) if index_N is None else np.asarray(index_N)
        given_NL = np.broadcast_to(np.int32(prompts.FREE), (number, self._length)) if given_NL is None else given_NL

        def rows(first):
            at_B = np.minimum(np.arange(first, first + self._batch), number - 1)  # the last text fills up the last batch
            given_BL = given_NL[at_B].astype(np.int32)
            seed_and_index = (seed_N[at_B], index_N[at_B].astype(np.int32))
            fixed_BL = given_BL != prompts.FREE
            return meshes.put_whole(self._mesh, (*seed_and_index, np.where(fixed_BL, given_BL, 0), fixed_BL))

        if not self._compiled:
            self._write_batch(params, rows(0), 1, lambda jumps: None, None)
            self._compiled = True
        started, batches = time.perf_counter(), []
        for first in range(0, number, self._batch):
            watch = None if on_state is None else lambda step, x_BL: on_state(first, step, x_BL[: number - first])
            batches.append(self._write_batch(params, rows(first), steps, on_step, watch))
        return np.concatenate(batches)[:number], time.perf_counter() - started

    def _write_batch(self, params, rows, steps, on_step, on_state):
        _, _, given_BL, fixed_BL = rows
        state, key_B = self._initial_state(*rows)
        if on_state is not None:
            on_state(0, self._texts(state, 0))
        steps_a_call = STEPS_A_CALL if on_state is None else 1
        for i in range(0, steps, steps_a_call):
            last = min(i + steps_a_call, steps)
            state = self.advance(params, key_B, state, np.int32(i), np.int32(last), np.int32(steps), given_BL, fixed_BL)
            jax.block_until_ready(state)
            if signals.stop_agreed():
                raise signals.Interrupted("sampling: stopped; the same command goes on from there")
            on_step(last - i)
            if on_state is not None:
                on_state(last, self._texts(state, last))
        return self._texts(state, steps)


class Decoder(Sampler):
    """A Sampler of a causal network: a step writes the next token of every text, so that a text takes `length` steps.

    `decode(params, cache, x_B) -> (logits_BV, cache)` is the network of the CausalConfig `shape`; it reads `bos` before the
    first token. Given tokens may stand anywhere, but the network knows none of them before its position.
    """

    def __init__(self, decode, shape, bos, mesh, batch, cfg):
        def advance(params, key_B, state, first, last, steps, given_BL, fixed_BL):
            del steps
            read = lambda cache, x_B: decode(params, cache, x_B)
            return decoding.advance(key_B, read, state, first, last, bos, given_BL, fixed_BL, cfg)

        batch_sharding = meshes.batch_sharding(mesh)
        cache_sharding = NamedSharding(mesh, PartitionSpec(None, *batch_sharding.spec))
        state_sharding = decoding.State(batch_sharding, causal.Cache(cache_sharding, cache_sharding, meshes.replicated(mesh)))
        start = lambda key_B, given_BL, fixed_BL: decoding.start(key_B, shape, given_BL)
        self._compile(mesh, shape.length, batch, start, advance, state_sharding)

    def _texts(self, state, step):
        return np.array(hosts.gather(state.x_BL))[:, :step]


def make_sampler(config, mesh, tok, model, apply, batch, cfg, window=None):
    """The Sampler of the model of that name; `apply` is from its trained.Network, `window` is data.length unless given."""
    if model == "autoregressive":
        return Decoder(apply, settings.autoregressive(config, tok.vocab_size), tok.eos_id, mesh, batch, cfg)
    return Sampler(apply, settings.path(config, tok.vocab_size), mesh, window or config.data.length, batch, cfg)


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Sample:
    """One text; `str` of it is the text alone.

    Attributes:
      text: the decoded tokens; a document's end is an empty line.
      tokens: the tokens.
      given: positions of the given tokens.
      states: the text after every step, with the noise first; empty unless requested.
      ask: the request, as a prompts.Ask.
      index: number of this text among those of its request, from 0.
    """

    text: str
    tokens: list[int]
    given: list[int]
    states: list[str]
    ask: prompts.Ask
    index: int

    def __str__(self):
        return self.text

    def __repr__(self):
        return f"Sample({self.text!r}, seed={self.ask.seed}, index={self.index})"


def rows(requests):
    """(request, index) of every text, in order."""
    return [(request, i) for request in requests for i in range(request.ask.number)]


class Writer:
    """Answers requests with one trained network; it keeps a program for each temperature, top_p, batch size and window.

    Attributes:
      tokenizer: the tokenizer of the texts.
      length: L, the most tokens that the network writes.
      hash: content hash of its weights.
      network: the trained.Network.
    """

    def __init__(self, config, mesh, tok, network, model=""):
        self.tokenizer, self.length, self.hash = tok, config.data.length, network.hash
        self._config, self._mesh, self.network, self._model, self._samplers = config, mesh, network, model, {}

    def __call__(self, requests, steps, *, temperature=1.0, top_p=1.0, batch=64, states=False, on_state=None):
        """A Sample for every text of every request, in order; at most `batch` (rounded up to the devices) are computed at once.

        `states` keeps the text of every step. `on_state(places, step, x_BL)` is called with every state of the texts at those
        places in that order, x_0 (step 0) included. A text is written in the smallest window that holds it (`windows`). The
        autoregressive model always uses the whole window and one step a token, and ignores `steps`. Raises ValueError for
        bad numbers, and if that model is given text after a position that it has to write.
        """
        steps = networks.evaluations(self._config, self._model, steps)
        if self._model == "autoregressive":
            for request in requests:
                prompts.check_left_to_right(request.ask)
        texts = rows(requests)
        samples = [None] * len(texts)
        for window, places in self.windows(texts).items():
            draw = self._sampler(temperature, top_p, self._size(batch, len(places)), window)
            window_texts = [texts[place] for place in places]
            for place, sample in zip(places, self._write_window(draw, window_texts, places, window, steps, states, on_state)):
                samples[place] = sample
        return samples

    def windows(self, texts):
        """{tokens: places} of the texts: the smallest window that holds each text, of L, L/2, L/4, … down to SHORTEST.

        A network's cost grows with its window, and few windows need few programs. A window depends on its text alone, so that
        the text does not depend on other texts, nor on the devices while their tensor axis divides SHORTEST.
        """
        places_by_window, tensor_devices = {}, self._mesh.shape["tensor"]
        for place, (request, _) in enumerate(texts):
            window, least = self.length, max(request.length, SHORTEST)
            while self._model != "autoregressive" and window // 2 >= least and window % (2 * tensor_devices) == 0:
                window //= 2
            places_by_window.setdefault(window, []).append(place)
        return places_by_window

    def _write_window(self, draw, window_texts, places, window, steps, states, on_state):
        """The Samples of the (request, index) pairs `window_texts`, all of one window."""
        states_by_step = {}

        def watch(first, step, x_BL):
            if states:
                states_by_step.setdefault(step, []).extend(x_BL)
            if on_state is not None:
                on_state(places[first : first + len(x_BL)], step, x_BL)

        x_NL, _ = draw(
            self.network.params,
            [request.ask.seed for request, _ in window_texts],
            len(window_texts),
            steps,
            index_N=[i for _, i in window_texts],
            given_NL=np.stack([request.given_L[:window] for request, _ in window_texts]),
            on_state=watch if states or on_state is not None else None,
        )
        return [
            self.sample(row, x_NL[n], [states_by_step[step][n] for step in sorted(states_by_step)])
            for n, row in enumerate(window_texts)
        ]

    def sample(self, row, x_L, states=()):
        """The Sample of a (request, index) and its tokens."""
        request, index = row
        text = lambda x_L: self.tokenizer.decode_pretty(x_L[: request.length])
        fields = dict(ask=request.ask, index=index, given=request.given, states=[text(x_L) for x_L in states])
        return Sample(text=text(x_L), tokens=x_L[: request.length].tolist(), **fields)

    def _size(self, batch, number):
        """The batch size: a power of two for each device, so that few programs serve all numbers; at most `batch`, rounded up."""
        parts = meshes.batch_devices(self._mesh)
        size = parts
        while size < number:
            size *= 2
        return min(size, -(-batch // parts) * parts)

    def _sampler(self, temperature, top_p, size, window):
        cfg = sampler.SamplerConfig(jump=self._config.flow.jump, temperature=temperature, top_p=top_p)
        key = (cfg, size, window)
        if key not in self._samplers:
            context = (self._mesh, self.tokenizer, self._model, self.network.apply)
            self._samplers[key] = make_sampler(self._config, *context, size, cfg, window)
        return self._samplers[key]


def writer(config, workdir, mesh, model, find=jobs.require):
    """The Writer of a run's trained model. Raises ValueError if the config does not make it, or if it is unfinished.

    `find` gives the directory of what it reads; see trained.tokenizer.
    """
    networks.check_made(config, "model", model)
    network = trained.model(config, workdir, mesh, model, find)
    return Writer(config, mesh, trained.tokenizer(config, workdir, find), network, model)


TABLE_SEED = 6000  # added to a seed of the evaluation table to make the seed of its texts
