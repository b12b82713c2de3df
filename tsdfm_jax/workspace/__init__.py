"""A run's work directory: a stage's bookkeeping in it, and the loaders of what earlier stages left."""
