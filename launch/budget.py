"""`python -m launch.budget`, implemented in tsdfm_jax/experiments/planning/budget.py."""

from tsdfm_jax.config import command_line
from tsdfm_jax.experiments.planning import budget

if __name__ == "__main__":
    command_line.start(budget)
