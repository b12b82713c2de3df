"""Chains of jumps over enumerable systems: the exact joint law of their midpoints and the exact target of a student.

Written in NumPy from the chains' definitions (2509.20624; classical Runge-Kutta; Heun) without imports from the package.
"""

import dataclasses
import functools

import numpy as np

from tests.laws import enumerable

FLOOR = -70.0  # replaces log 0 where logits are averaged

# Each jump: (starts from the last landing, not x_t; departs at t + a h; width b h; its landing is evaluated at t + c h).
LINKS = {
    "fsdfm": [(True, 0, 1 / 2, 1 / 2), (True, 1 / 2, 1 / 2, 1 / 2), (True, 1 / 2, 1 / 2, 1)],
    "classical": [(False, 0, 1 / 2, 1 / 2), (False, 0, 1 / 2, 1 / 2), (False, 0, 1, 1)],
    "heun": [(True, 0, 1, 1)],
}
WEIGHTS = {"fsdfm": (1 / 6, 1 / 3, 1 / 3, 1 / 6), "classical": (1 / 6, 1 / 3, 1 / 3, 1 / 6), "heun": (1 / 2, 1 / 2)}


@dataclasses.dataclass(frozen=True, eq=False)
class Chain:
    """The chain `name` from (x_t, t) over h under the true posterior, by the bridge jump."""

    system: enumerable.System
    name: str
    t: float
    h: float

    @functools.cached_property
    def posteriors(self):
        """The true posterior at the times of l1, l2, …: a list of [N, L, V]."""
        times = [self.t] + [self.t + link[3] * self.h for link in LINKS[self.name]]
        return [self.system.posterior_NLV(self.system.kappa(time)) for time in times]

    def arrival(self, i):
        """The time at which jump i arrives and its landing is scored."""
        return self.t + (LINKS[self.name][i][1] + LINKS[self.name][i][2]) * self.h

    def jump_NNN(self, i):
        """Law of jump i's landing, by start state and by the state that gives the posterior."""
        s, (_, depart, width, _) = self.system, LINKS[self.name][i]
        a = self.t + depart * self.h
        r, size, n = s.keep(a, a + width * self.h), s.text_vocab + s.masked, len(s.states)
        here = np.eye(size)[s.states]
        p = np.concatenate([self.posteriors[i], np.zeros((n, s.length, int(s.masked)))], axis=2)
        token = r * here[:, None] + (1 - r) * p[None]
        if s.masked:
            token = np.where((s.states == s.text_vocab)[:, None, :, None], token, here[:, None])
        return s.product_NN(token.reshape(n * n, s.length, size)).reshape(n, n, n)

    def joint(self, candidates=1, selection="argmin", energy=None):
        """P(m1, m2, … | x_t): [N, N, …]; each jump is one of K, selected by `energy(time) -> [N]`."""
        n, joint = len(self.system.states), np.ones(len(self.system.states))
        for i, (from_last, *_) in enumerate(LINKS[self.name]):
            jump = self.jump_NNN(i)
            if candidates > 1:
                rows = jump.reshape(n * n, n)
                jump = enumerable.selected_NN(rows, energy(self.arrival(i))[None], candidates, selection).reshape(n, n, n)
            own = np.einsum("bbn->bn", jump)
            if i == 0:
                joint = own
            elif from_last:
                joint = joint[..., None] * own
            else:
                joint = joint[..., None] * jump.reshape(n, *[1] * (i - 1), n, n)
        return joint

    def compass(self):
        """`energy(time) -> [N]`, the optimum of NCE: -log of the law of the data's midpoints over the blind chain's. [D]

        The data's midpoints come from the same chain with the text's own token at every landing: the path at the noise
        that remains. Jumps with the same arrival time share the ratio, since a compass sees only state and time.
        """
        s, joint = self.system, self.joint()
        start, table = s.marginal_N(s.kappa(self.t)), {}
        left = 1.0 - s.kappa(self.t)
        for i, (from_last, depart, width, _) in enumerate(LINKS[self.name]):
            a = self.t + depart * self.h
            left = (left if from_last else 1.0 - s.kappa(self.t)) * s.keep(a, a + width * self.h)
            others = tuple(j for j in range(joint.ndim) if j not in (0, i + 1))
            made = start @ joint.sum(axis=others)
            made_before, true_before = table.get(self.arrival(i), (0, 0))
            table[self.arrival(i)] = made_before + made, true_before + s.marginal_N(1.0 - left)
        with np.errstate(divide="ignore", invalid="ignore"):
            energy = {time: np.nan_to_num(np.log(made) - np.log(true)).round(6) for time, (made, true) in table.items()}
        return lambda time: energy[time]

    def logits(self, i):
        """l_{i+1} of every state: the log posterior, floored; an unmasked token is a point mass."""
        return np.maximum(np.log(np.maximum(self.posteriors[i], 1e-300)), FLOOR)

    def target_NLV(self, joint):
        """Mean over chains of the softmax of the weighted logits, (l1 + 2 l2 + 2 l3 + l4) / 6: the optimum of forward KL."""
        n, k, total = len(self.system.states), joint.ndim, 0
        for i, weight in enumerate(WEIGHTS[self.name]):
            shape = [1] * k
            shape[i] = n
            total = total + weight * self.logits(i).reshape(*shape, self.system.length, -1)
        p = np.exp(total - total.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        return (joint[..., None, None] * p).sum(axis=tuple(range(1, k)))
