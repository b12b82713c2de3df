"""Configurations: `base.py` has every key once; the others override a few."""
