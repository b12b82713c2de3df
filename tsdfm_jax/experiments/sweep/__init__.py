"""Sweeps: the runs of a config file's `get_hyper`, run as jobs, and their table."""
