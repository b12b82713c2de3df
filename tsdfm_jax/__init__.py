"""Trajectory-Shaped Discrete Flow Matching in JAX."""

__version__ = "0.1.0"
