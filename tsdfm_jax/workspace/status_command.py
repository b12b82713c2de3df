"""Show what is whole, stale or missing in a run: `python -m launch.status runs/quickstart`.

Each line is what one stage makes: whether it is done, why it is stale, and the seconds that it took last time. It is compared with
the config that the run was made with, its config.json. To compare it with another: python -m tsdfm_jax.main --config=… --status.

The exit code is 0 if nothing is stale or damaged, 1 if something is, and 2 if there is no such run.
"""

import functools
import pathlib

from absl import flags

from tsdfm_jax.config import command_line

parse, fail = functools.partial(command_line.parse, "status"), functools.partial(command_line.fail, "status")
_WORKDIR = flags.DEFINE_string("workdir", "", "The run's work directory; it may also stand alone, without --workdir=.")


def main(argv):
    """Print the table; returns the exit code."""
    try:
        directories = [*argv[1:], *([_WORKDIR.value] if _WORKDIR.value else [])]
        if len(directories) != 1:
            raise ValueError("give the work directory of one run: python -m launch.status runs/quickstart")
        from tsdfm_jax.workspace import record, status  # late: help should not wait for JAX

        workdir = pathlib.Path(directories[0]).expanduser()
        return 0 if status.show(record.config(workdir), workdir) else 1
    except (ValueError, OSError) as error:
        return fail(error)
