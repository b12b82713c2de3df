"""The tests; what they and the processes that they start have in common."""

# Small programs, compiled once and run briefly: less optimising makes the suite faster, and so do the older, plainer emitters.
CHEAP = " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false"
