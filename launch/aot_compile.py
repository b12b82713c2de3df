"""`python -m launch.aot_compile`, implemented in tsdfm_jax/experiments/planning/aot_compile.py."""

from tsdfm_jax.config import command_line
from tsdfm_jax.experiments.planning import aot_compile

if __name__ == "__main__":
    command_line.start(aot_compile)
