"""Evaluation: judges, text metrics, sets of texts, ELBO, frontiers, and the summary."""
