"""`python -m launch.compare`, implemented in tsdfm_jax/experiments/compare/command.py."""

from tsdfm_jax.config import command_line
from tsdfm_jax.experiments.compare import command

if __name__ == "__main__":
    command_line.start(command)
