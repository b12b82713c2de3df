"""Systems small enough to enumerate: every law of the path, the jumps and the chains in float64, by matrices.

Written in NumPy from the equations (2407.15595, 2412.03487, 2509.20624) without imports from the package, so that the
two are independent. Letters beside the project's own: N states of a sequence (with the mask token under the mask
source), D texts, W tokens of a state. The rows of a kernel_NN sum to one.
"""

import dataclasses
import functools
import itertools

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class System:
    """A joint law of texts of `length` tokens, and the path from a source to it with kappa(t) = t^exponent."""

    source: str
    exponent: float
    text_vocab: int
    length: int
    text_law: np.ndarray  # [D], positive, sums to one

    @property
    def masked(self):
        return self.source == "mask"

    @functools.cached_property
    def states(self):
        """All states: x_NL."""
        return np.array(list(itertools.product(range(self.text_vocab + self.masked), repeat=self.length)))

    @functools.cached_property
    def texts(self):
        """All texts: x_1_DL."""
        return np.array(list(itertools.product(range(self.text_vocab), repeat=self.length)))

    @functools.cached_property
    def text_state(self):
        """Index of each text among the states: [D]."""
        return self.index(self.texts)

    @functools.cached_property
    def onehot_DLV(self):
        return np.eye(self.text_vocab)[self.texts]

    def index(self, x):
        """Index of sequences [..., L] among the states."""
        base = (self.text_vocab + self.masked) ** np.arange(self.length)[::-1]
        return np.asarray(x) @ base

    def kappa(self, t):
        return t**self.exponent

    def time(self, kappa):
        return kappa ** (1 / self.exponent)

    @functools.cached_property
    def source_N(self):
        """Law of x_0."""
        start = np.all(self.states == self.text_vocab, axis=1) if self.masked else np.ones(len(self.states))
        return start / start.sum()

    def data_N(self):
        """The law of texts, as a law over states."""
        law = np.zeros(len(self.states))
        law[self.text_state] = self.text_law
        return law

    def token_NDL(self, kappa):
        """P(x_t^i | x_1^i) for every state, text and position."""
        x, x_1 = self.states[:, None], self.texts[None]
        noise = (x == self.text_vocab) if self.masked else np.full(x.shape, 1 / self.text_vocab)
        return kappa * (x == x_1) + (1 - kappa) * noise

    def path_ND(self, kappa):
        """P(x_t | x_1)."""
        return self.token_NDL(kappa).prod(axis=-1)

    def marginal_N(self, kappa):
        """The marginal p_t(x_t)."""
        return self.path_ND(kappa) @ self.text_law

    def joint_posterior_ND(self, kappa):
        """P(x_1 | x_t). Under the mask source it does not depend on t, so kappa = 0.5 serves where p_t(x_t) = 0."""
        joint = self.path_ND(0.5 if self.masked else kappa) * self.text_law
        return joint / joint.sum(axis=1, keepdims=True)

    def posterior_NLV(self, kappa):
        """p(x_1^i | x_t)."""
        return np.einsum("nd,dlv->nlv", self.joint_posterior_ND(kappa), self.onehot_DLV)

    def rates_NLV(self, kappa):
        """Rates p(y | x_t) / (1 - kappa) per unit of kappa; the factor 1 - kappa cancels where x_t^i is noise.

        This is the velocity of 2407.15595 off the diagonal, with kappa as the time. Tokens that stay have rate zero.
        """
        likelihood, noise = self.token_NDL(kappa), self.states == self.text_vocab if self.masked else 1 / self.text_vocab
        others = np.stack([np.delete(likelihood, i, axis=2).prod(axis=2) for i in range(self.length)], axis=2)
        marginal = likelihood.prod(axis=2) @ self.text_law
        rates = np.einsum("d,ndl,dlv->nlv", self.text_law, others, self.onehot_DLV)
        with np.errstate(invalid="ignore", divide="ignore"):
            rates = np.where(marginal[:, None, None] > 0, rates / marginal[:, None, None], 0.0)
        rates = rates * np.broadcast_to(noise, self.states.shape)[..., None]
        return rates * (self.states[..., None] != np.arange(self.text_vocab))

    @functools.cached_property
    def neighbour_NLV(self):
        """Index of the state in which position i has become y."""
        out = np.repeat(self.states[:, None, None], self.length, axis=1).repeat(self.text_vocab, axis=2)
        for i, y in itertools.product(range(self.length), range(self.text_vocab)):
            out[:, i, y, i] = y
        return self.index(out)

    def generator_NN(self, kappa):
        """The continuous-time chain's generator with kappa as the time; one position changes at a time."""
        rates, n = self.rates_NLV(kappa), len(self.states)
        out = np.zeros((n, n))
        np.add.at(out, (np.arange(n)[:, None, None], self.neighbour_NLV), rates)
        return out - np.diag(out.sum(axis=1))

    def flow_NN(self, t, s, substeps=200):
        """The continuous-time chain's exact transition from t to s < 1 (Runge-Kutta on the forward equation)."""
        grid = np.linspace(self.kappa(t), self.kappa(s), substeps + 1)
        kernel = np.eye(len(self.states))
        for a, b in itertools.pairwise(grid):
            ga, gm, gb = (self.generator_NN(k) for k in (a, (a + b) / 2, b))
            k1 = kernel @ ga
            k2 = (kernel + (b - a) / 2 * k1) @ gm
            k3 = (kernel + (b - a) / 2 * k2) @ gm
            k4 = (kernel + (b - a) * k3) @ gb
            kernel = kernel + (b - a) / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return kernel

    def path_jump_NN(self, t, s):
        """P(x_s | x_t) of the path itself: the joint posterior's text, each position kept with probability r."""
        r = self.keep(t, s)
        x, x_1, y = self.states[:, None, None], self.texts[None, :, None], self.states[None, None]
        stays = (x == self.text_vocab) if self.masked else np.ones_like(x, bool)
        landing = np.where(stays, r * (y == x) + (1 - r) * (y == x_1), y == x).prod(axis=-1)
        return np.einsum("nd,ndm->nm", self.joint_posterior_ND(self.kappa(t)), landing)

    def keep(self, t, s):
        """r = (1 - kappa(s)) / (1 - kappa(t))."""
        return (1 - self.kappa(s)) / (1 - self.kappa(t))

    def jump_NN(self, kind, t, h, posterior_NLV=None):
        """A jump's kernel by the definitions in method.md, positions independent: bridge, cumulative or euler."""
        kappa, s = self.kappa(t), min(t + h, 1.0)
        p = self.posterior_NLV(kappa) if posterior_NLV is None else posterior_NLV
        width = self.text_vocab + self.masked
        p = np.concatenate([p, np.zeros((*p.shape[:2], self.masked * 1))], axis=2)
        here, r = np.eye(width)[self.states], self.keep(t, s)
        if kind == "bridge" or s == 1.0:
            token = r * here + (1 - r) * p
        else:
            at = (p * here).sum(axis=2, keepdims=True)
            rate = self.exponent * t ** (self.exponent - 1) / (1 - kappa)
            stay = r ** (1 - at) if kind == "cumulative" else np.exp(-h * rate * (1 - at))
            elsewhere = p * (1 - here)
            total = elsewhere.sum(axis=2, keepdims=True)
            token = stay * here + (1 - stay) * elsewhere / np.where(total > 0, total, 1)
        if self.masked:
            token = np.where((self.states == self.text_vocab)[..., None], token, here)
        return self.product_NN(token)

    def product_NN(self, token_NLW):
        """The kernel in which each position changes independently, by its own row."""
        kernel = np.ones((len(token_NLW), 1))
        for i in range(self.length):
            kernel = (kernel[:, :, None] * token_NLW[:, i, None, :]).reshape(len(token_NLW), -1)
        return kernel

    def chain_N(self, kind, steps, posterior=None):
        """Law of the text after `steps` equal jumps from the source; `posterior(t) -> NLV` is the true one by default."""
        law = self.source_N
        for i in range(steps):
            law = law @ self.jump_NN(kind, i / steps, 1 / steps, None if posterior is None else posterior(i / steps))
        return law

    def token_marginals(self, kernel_NN):
        """Each position's law under a kernel: [N, L, W]."""
        width = self.text_vocab + self.masked
        return np.einsum("nm,mlw->nlw", kernel_NN, np.eye(width)[self.states])


def tv(a, b):
    """Total variation between laws along the last axis."""
    return np.abs(a - b).sum(axis=-1) / 2


def draw(source, exponent, text_vocab, length, seed, concentration=1.0):
    """A system with a random joint law: symmetric Dirichlet of this concentration, every text at least 1e-3 / D."""
    count = text_vocab**length
    law = np.random.default_rng(seed).dirichlet(np.full(count, concentration))
    law = 0.999 * law + 0.001 / count
    return System(source, exponent, text_vocab, length, law)


def selected_NN(kernel_NN, energy_NN, candidates, selection, temperature=1.0):
    """The exact law of the one of K candidates, drawn from each row, that is selected by energy: [N, N], for any K.

    energy_NN: the energy of each state as a candidate from each row's state. `boltzmann` uses
    E[1 / (w + S)] = integral of exp(-u w) phi(u)^(K-1) du, phi(u) = E[exp(-u w)], S the other candidates' weights.
    """
    rows = [
        _selected(p[p > 0], e[p > 0], candidates, selection, temperature)
        for p, e in zip(kernel_NN, np.broadcast_to(energy_NN, kernel_NN.shape))
    ]
    out = np.zeros_like(kernel_NN)
    for row, p, law in zip(out, kernel_NN, rows):
        row[p > 0] = law
    return out


def _selected(p, energy, candidates, selection, temperature):
    if selection == "random" or candidates == 1:
        return p
    if selection == "worst":
        return _selected(p, -energy, candidates, "argmin", temperature)
    if selection == "argmin":
        tied = np.isclose(energy[:, None], energy[None], rtol=0, atol=1e-9)
        above = np.where(tied | (energy[None] > energy[:, None]), p[None], 0).sum(axis=1)
        level = np.where(tied, p[None], 0).sum(axis=1)
        return (above**candidates - np.maximum(above - level, 0) ** candidates) * p / level
    weight = np.exp(-(energy - energy.min()) / temperature)
    # Piecewise Gauss-Legendre on a logarithmic axis, on which the integrand is smooth at all its scales.
    edges = np.linspace(np.log(1e-10), np.log(80 / weight.min()), 41)
    node, share = np.polynomial.legendre.leggauss(16)
    half = np.diff(edges)[:, None] / 2
    u = np.exp(edges[:-1, None] + half * (node + 1))
    du = (u * half * share).ravel()
    decay = np.exp(-u.ravel()[:, None] * weight)
    return candidates * p * weight * (((decay @ p) ** (candidates - 1) * du) @ decay)
