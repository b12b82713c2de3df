"""Comparison of the metrics of several runs."""
