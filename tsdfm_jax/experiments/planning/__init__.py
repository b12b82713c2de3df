"""Planning without hardware: programs compiled for a TPU ahead of time, and a run's cost in chips, FLOPs, memory and hours."""
