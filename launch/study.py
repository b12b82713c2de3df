"""`python -m launch.study`, implemented in tsdfm_jax/experiments/study/command.py."""

from tsdfm_jax.config import command_line
from tsdfm_jax.experiments.study import command

if __name__ == "__main__":
    command_line.start(command)
