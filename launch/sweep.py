"""`python -m launch.sweep`, implemented in tsdfm_jax/experiments/sweep/command.py."""

from tsdfm_jax.config import command_line
from tsdfm_jax.experiments.sweep import command

if __name__ == "__main__":
    command_line.start(command)
