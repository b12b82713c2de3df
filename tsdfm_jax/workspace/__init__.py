"""A run's work directory: what its stages make of what, its state, a stage at work in it, and the loaders of what stages wrote."""
