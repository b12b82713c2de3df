"""Many runs, and none at all: sweeps, the study, comparisons, benchmarks, and planning for hardware that is not there."""
