"""The tests; what they and the processes that they start have in common."""

import importlib.metadata

# Small programs, compiled once and run briefly: less optimising makes the suite faster, and so do the older, plainer emitters.
CHEAP = " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# Those are gone from 0.11 on, and an XLA flag that is not known ends the process without a word.
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    CHEAP += " --xla_cpu_use_fusion_emitters=false"
