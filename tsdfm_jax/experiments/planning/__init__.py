"""Programs compiled for a TPU that is not there, and what a run would cost: chips, FLOPs, memory, hours."""
