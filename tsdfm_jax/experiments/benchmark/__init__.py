"""Benchmark: times every training program against the bare network passes that it consists of."""
