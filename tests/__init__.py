"""The tests, and the XLA flags that they share with the processes that they start."""

# Test programs are small and run briefly: less optimisation and the older emitters make the suite faster.
CHEAP = " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false"
