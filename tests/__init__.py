"""The tests, and the XLA flags that they share with the processes that they start."""

import importlib.metadata

# Test programs are small and run briefly: less optimisation and the older emitters make the suite faster.
CHEAP = " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# JAX 0.11 removed the older emitters' flag, and an unknown XLA flag ends the process without a word.
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    CHEAP += " --xla_cpu_use_fusion_emitters=false"
