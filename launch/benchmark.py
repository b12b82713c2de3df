"""`python -m launch.benchmark`, implemented in tsdfm_jax/experiments/benchmark/command.py."""

from tsdfm_jax.config import command_line
from tsdfm_jax.experiments.benchmark import command

if __name__ == "__main__":
    command_line.start(command)
