"""Runs the stages: `python -m tsdfm_jax.main --config=configs/quickstart.py [--stage=teacher] [--workdir=runs/mine]`."""

import errno
import importlib
import pathlib
import sys
import traceback

from absl import app, flags, logging
from ml_collections import config_flags

ORDER = ("tokenizer", "data", "judges", "teacher", "compass", "trajectories", "student", "evaluate", "report", "sample")
ROUNDS = ("trajectories", "student")

_CONFIG = config_flags.DEFINE_config_file("config", None, "A configuration file, such as configs/quickstart.py.")
_WORKDIR = flags.DEFINE_string("workdir", "", "Where everything is written; runs/ and the config's name by default.")
_STAGE = flags.DEFINE_list("stage", [], f"Stages to run, comma-separated: {', '.join(ORDER)}. All of them by default.")
_MULTIHOST = flags.DEFINE_bool("multihost", False, "Whether this is one of several processes of one run.")


def plan(stages, rounds):
    """(stage, arguments) in order; trajectories and student alternate, round by round."""
    for name in stages or ORDER:
        if name not in ORDER:
            raise ValueError(f"--stage={name} is not one of {', '.join(ORDER)}")
    wanted = [name for name in ORDER if not stages or name in stages]
    before = [(name, ()) for name in wanted if ORDER.index(name) < ORDER.index(ROUNDS[0])]
    middle = [(name, (r,)) for r in range(rounds) for name in wanted if name in ROUNDS]
    return before + middle + [(name, ()) for name in wanted if ORDER.index(name) > ORDER.index(ROUNDS[1])]


def default_workdir():
    """runs/ and the name of the config file."""
    return pathlib.Path("runs") / pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem


def run(config, workdir, stages=(), multihost=False):
    """Run the stages of a config in a work directory; raises ValueError and its kin on bad input, in one line."""
    import jax  # late: help and a mistyped flag should not wait for it

    if multihost:
        jax.distributed.initialize()
    from tsdfm_jax import settings
    from tsdfm_jax.runtime import stage as bookkeeping

    settings.validate(config)
    todo = plan(stages, config.rounds)
    workdir.mkdir(parents=True, exist_ok=True)
    bookkeeping.atomic_write(workdir / "config.json", config.to_json(indent=1))
    for name, arguments in todo:
        importlib.import_module(f"tsdfm_jax.stages.{name}").run(config, workdir, *arguments)


def main(argv):
    if len(argv) > 1:
        return fail(f"'{argv[1]}' is not a flag: options are written --name=value")
    if _CONFIG.value is None:
        return fail("--config is missing: try --config=configs/quickstart.py")
    file = config_flags.get_config_filename(flags.FLAGS["config"])
    if not pathlib.Path(file.split(":")[0]).is_file():
        return fail(f"no config file '{file}': try --config=configs/quickstart.py")
    logging.set_verbosity(logging.WARNING)  # the libraries' own; ours go to the run's log
    workdir = pathlib.Path(_WORKDIR.value) if _WORKDIR.value else default_workdir()
    try:
        return run(_CONFIG.value, workdir, _STAGE.value, _MULTIHOST.value)
    except KeyboardInterrupt:
        return fail("stopped at once; the same command goes on from the last checkpoint", 130)
    except Exception as error:
        return explain(error, workdir)


def explain(error, workdir):
    """Bad input, a full disk or a stop are one line and an exit code; anything else keeps its traceback."""
    from tsdfm_jax.runtime import ledger, signals

    if isinstance(error, signals.Interrupted):
        return fail(error, 128 + error.signum)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return fail(f"the disk is full ({error.filename or workdir}): make room, and the same command goes on from there")
    if isinstance(error, (ValueError, FileNotFoundError, ledger.Diverged)):
        if workdir.is_dir():
            with open(workdir / "log.txt", "a") as log:
                log.write("".join(traceback.format_exception(error)))
        return fail(error, 1)
    raise error


def parse(argv):
    """Flags, or one line for one that does not exist."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, FileNotFoundError) as error:
        sys.exit(fail(error))


def fail(error, code=2):
    """Say it in one line on stderr; returns the exit code."""
    # ml_collections reports an unknown key as the repr of a KeyError, its quotes and line ends escaped.
    text = str(error).replace("\\n", " ").replace("\\'", "").strip("'")
    print("tsdfm_jax: " + " ".join(text.split()), file=sys.stderr)
    return code


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
