"""Config files that stand for many runs: each has a get_hyper(hyper) beside its get_config."""
