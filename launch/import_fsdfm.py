"""`python -m launch.import_fsdfm`, implemented in tsdfm_jax/exchange/import_command.py."""

from tsdfm_jax.config import command_line
from tsdfm_jax.exchange import import_command

if __name__ == "__main__":
    command_line.start(import_command)
