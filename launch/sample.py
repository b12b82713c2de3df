"""`python -m launch.sample`, implemented in tsdfm_jax/exchange/sample_command.py."""

from tsdfm_jax.config import command_line
from tsdfm_jax.exchange import sample_command

if __name__ == "__main__":
    command_line.start(sample_command)
