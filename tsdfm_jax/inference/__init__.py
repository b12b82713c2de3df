"""Text from trained networks: sampling, decoding, and the model object that `tsdfm_jax.load` returns."""
