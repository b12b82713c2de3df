"""Sweeps: a config file's `get_hyper`, its runs as jobs, and their table."""
