"""Records of the config that a stage began with and of its results, beside its output; knows no particular stage."""
