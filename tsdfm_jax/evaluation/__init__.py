"""Texts under judges: judges, text metrics, sets of texts, ELBO, frontiers, and what an evaluation says."""
