"""Run main once for every entry of a sweep: `python -m launch.sweep --config=configs/sweeps/shaping.py --workdir=runs/sweep`.

A sweep is a config file with a `get_hyper(hyper)` beside its get_config (see hyper.py beside this file). Each run has a work
directory below --workdir, named by its overrides. Stages with the same result in all runs are made once, in
<workdir>/common, and linked. The same command resumes a stopped sweep and skips finished runs.

The exit code is 0 if all runs are finished (or handed out), 1 if some are not, 2 if the sweep could not begin, and 128
plus the signal if it was stopped.
"""

import functools

from absl import flags
from ml_collections import config_flags

from tsdfm_jax.config import command_line
from tsdfm_jax.experiments.sweep import jobs as sweep_jobs, plan as sweep_plan, table as sweep_table
from tsdfm_jax.storage import places

parse, fail = functools.partial(command_line.parse, "sweep"), functools.partial(command_line.fail, "sweep")
_CONFIG = config_flags.DEFINE_config_file("config", None, "A config file with a get_hyper, such as configs/sweeps/shaping.py.")
_WORKDIR = flags.DEFINE_string("workdir", "", "Directory of the runs; by default runs/ and the config's name.")
_DRY_RUN = flags.DEFINE_bool("dry-run", False, "Print the commands of the unfinished runs, and run nothing.")
_PARALLEL = flags.DEFINE_integer("parallel", 1, "Number of runs at a time on this machine; they share its devices.", lower_bound=1)
_LAUNCHER = flags.DEFINE_string("launcher", "", "A command that takes main's arguments, such as 'sbatch launch/slurm_gpu.sbatch'.")
_REMAKE = flags.DEFINE_bool("remake", False, "Let the runs make again what another config made in their directories; see main.")
_TABLE = flags.DEFINE_bool("table", False, "Write the finished runs' metrics to sweep.csv and sweep.json, and run nothing.")


def main(argv):
    """Check the whole sweep, then do what the flags request; returns the exit code."""

    def begin():
        file = command_line.config_file(argv, "configs/sweeps/shaping.py")
        root = places.expanded(_WORKDIR.value or f"runs/{command_line.run_name(file)}")
        return act(
            sweep_plan.Sweep(
                file, _CONFIG.value, config_flags.get_override_values(flags.FLAGS["config"]), root, remake=_REMAKE.value
            ),
            root,
        )

    return sweep_jobs.attempt(begin, fail)


def act(sweep, root):
    """Do what the flags request; returns the exit code."""
    import rich.console

    if _DRY_RUN.value:
        return sweep.print_commands(_LAUNCHER.value)
    if _TABLE.value:
        root.mkdir(parents=True, exist_ok=True)
        rows = sweep_table.gather(sweep.runs)
        sweep_table.write(sweep.file, sweep.runs, rows, root)
        console = rich.console.Console()
        sweep_table.show(sweep.runs, rows, root, console if console.is_terminal else rich.console.Console(width=200))
        return 0
    with sweep_jobs.progress(len(sweep.runs), len(sweep.runs) - len(sweep.left())) as say:
        return sweep.hand_out(_LAUNCHER.value, say) if _LAUNCHER.value else sweep.run(_PARALLEL.value, say)
