"""A run's work directory: the bookkeeping of a stage in it, and the loaders of what earlier stages wrote."""
