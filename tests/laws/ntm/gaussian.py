"""Gaussian data, for which everything that the second method estimates has a closed form. Time runs from 0 = data to 1 = noise.

In float64 NumPy from the equations of arXiv 2605.08078, section 3, without imports from the package, so that the two are
independent. P counts the numbers of an image, T the steps; a trajectory is one vector of (T + 1) P numbers, level by level.
"""

from typing import NamedTuple

import numpy as np


class Law(NamedTuple):
    """N(mean, covariance)."""

    mean: np.ndarray
    covariance: np.ndarray

    def log_density(self, x_RP):
        """log p of each row, in nats."""
        gap = x_RP - self.mean
        log_det = np.linalg.slogdet(2 * np.pi * self.covariance)[1]
        return -0.5 * (np.einsum("rp,pq,rq->r", gap, np.linalg.inv(self.covariance), gap) + log_det)

    def entropy(self):
        """In nats."""
        return 0.5 * np.linalg.slogdet(2 * np.pi * np.e * self.covariance)[1]

    def divergence(self, other):
        """KL(self, other) in nats."""
        inverse, gap = np.linalg.inv(other.covariance), other.mean - self.mean
        log_ratio = np.linalg.slogdet(other.covariance)[1] - np.linalg.slogdet(self.covariance)[1]
        return 0.5 * (np.trace(inverse @ self.covariance) + gap @ inverse @ gap - len(gap) + log_ratio)

    def part(self, places):
        """The law of some of its numbers."""
        return Law(self.mean[places], self.covariance[np.ix_(places, places)])

    def conditional(self, places, known):
        """(gain, offset, covariance) of the numbers at `places` given those at `known`: N(gain · value + offset, covariance)."""
        across = self.covariance[np.ix_(places, known)]
        gain = across @ np.linalg.inv(self.covariance[np.ix_(known, known)])
        return gain, self.mean[places] - gain @ self.mean[known], self.covariance[np.ix_(places, places)] - gain @ across.T

    def draw(self, rng, count):
        """Rows from the law."""
        return self.mean + rng.normal(size=(count, len(self.mean))) @ np.linalg.cholesky(self.covariance).T

    def points(self):
        """Rows of equal weight whose mean of any polynomial of degree 2 is the law's: 2 for each number."""
        root = np.linalg.cholesky(self.covariance).T * np.sqrt(len(self.mean))
        return np.concatenate([self.mean + root, self.mean - root])

    def white(self, x_RP):
        """The rows as independent standard normal numbers."""
        return np.linalg.solve(np.linalg.cholesky(self.covariance), (x_RP - self.mean).T).T


def data(numbers, seed):
    """A random law of images, of standard deviations around one, with correlations."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(numbers, numbers)) / np.sqrt(numbers) + 0.5 * np.eye(numbers)
    return Law(rng.normal(size=numbers), root @ root.T)


def levels(steps, shift, first):
    """The times of a trajectory that starts at `first`, from the equation of the schedule."""
    part = np.arange(1, steps + 1) / steps
    return np.append(first, np.exp(shift) / (np.exp(shift) + 1 / part - 1))


def forward(t_T):
    """(a, K): level i has mean a_i x_0 given x_0, and the levels' covariance, of one number, is K; by the steps of the chain."""
    scale, noise = [1 - t_T[0]], [np.eye(len(t_T))[0] * t_T[0]]
    for k, (s, t) in enumerate(zip(t_T[:-1], t_T[1:]), start=1):
        alpha = (1 - t) / (1 - s)
        scale.append(alpha * scale[-1])
        noise.append(alpha * noise[-1] + np.sqrt(t**2 - alpha**2 * s**2) * np.eye(len(t_T))[k])
    return np.array(scale), np.array(noise) @ np.array(noise).T


def trajectory(law, t_T, with_data=False):
    """The law of trajectories of a law of data; `with_data` puts x_0 before level 0."""
    scale, own = forward(t_T)
    if with_data:
        scale, own = np.append(1.0, scale), np.pad(own, ((1, 0), (1, 0)))
    eye = np.eye(len(law.mean))
    return Law(np.kron(scale, law.mean), np.kron(np.outer(scale, scale), law.covariance) + np.kron(own, eye))


def level(numbers, k):
    """Places of level k in a trajectory."""
    return np.arange(k * numbers, (k + 1) * numbers)
