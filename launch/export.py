"""`python -m launch.export`, implemented in tsdfm_jax/exchange/export_command.py."""

from tsdfm_jax.config import command_line
from tsdfm_jax.exchange import export_command

if __name__ == "__main__":
    command_line.start(export_command)
