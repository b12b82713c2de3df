"""Few-step generation by trajectories in JAX: `from tsdfm_jax import load`."""

__version__ = "0.1.0"


def __getattr__(name):
    """Import `load` on first use, so that reading the version or a flag does not wait for JAX."""
    if name != "load":
        raise AttributeError(f"module 'tsdfm_jax' has no attribute '{name}'")
    from tsdfm_jax.exchange.loading import load

    return load
