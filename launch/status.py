"""`python -m launch.status`, implemented in tsdfm_jax/workspace/status_command.py."""

from tsdfm_jax.config import command_line
from tsdfm_jax.workspace import status_command

if __name__ == "__main__":
    command_line.start(status_command)
