"""Runs the stages: `python -m tsdfm_jax.main --config=configs/quickstart.py [--stage=teacher] [--workdir=runs/mine]`."""

from tsdfm_jax.runtime import signals

if __name__ == "__main__":
    signals.begin()  # before the imports that take long: a signal at any moment ends this in one line

import contextlib
import errno
import functools
import importlib
import pathlib
import shlex
import shutil
import sys
import traceback

from absl import app, flags
from ml_collections import config_flags

from tsdfm_jax.config import command_line
from tsdfm_jax.runtime import memory
from tsdfm_jax.storage import atomic, lock, places

ORDER = (
    "tokenizer",
    "data",
    "judges",
    "teacher",
    "autoregressive",
    "compass",
    "trajectories",
    "student",
    "evaluate",
    "report",
    "sample",
)
COMMAND = "command.txt"
NOTHING = {"config.json", COMMAND, "log.txt", lock.LOCK, "fingerprint.json", "seconds.json"}  # what a stage without results has
TYPED_ARGUMENTS = tuple(sys.argv[1:])  # before any of it is parsed
ROUNDS = ("trajectories", "student")
MAY_NOT = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
parse = functools.partial(command_line.parse, "tsdfm_jax")

_CONFIG = config_flags.DEFINE_config_file("config", None, "A configuration file, such as configs/quickstart.py.")
_WORKDIR = flags.DEFINE_string("workdir", "", "Directory that everything is written to; by default runs/ and the config's name.")
_STAGE = flags.DEFINE_list("stage", [], f"Stages to run, comma-separated: {', '.join(ORDER)}. All of them by default.")
_MULTIHOST = flags.DEFINE_bool("multihost", False, "Whether this is one of several processes of one run.")
_COORDINATOR = flags.DEFINE_string("coordinator", "", "host:port of process 0, where the cluster does not provide it.")
_PROCESSES = flags.DEFINE_integer("processes", -1, "How many processes there are, where the cluster does not provide it.")
_PROCESS = flags.DEFINE_integer("process", -1, "Number of this process, from 0, where the cluster does not provide it.")
_HEARTBEAT = flags.DEFINE_integer("heartbeat", 100, "Seconds without a sign of life after which a process counts as dead.", 10)


def plan(stages, rounds):
    """List the (stage, arguments) in order; trajectories and student alternate, round by round."""
    for name in stages or ORDER:
        if not name:
            raise ValueError(f"--stage={','.join(stages)} has an empty name: take out a comma, or add one of {', '.join(ORDER)}")
        if name not in ORDER:
            raise ValueError(f"--stage={name} is not one of {', '.join(ORDER)}")
    wanted = [name for name in ORDER if not stages or name in stages]
    before = [(name, ()) for name in wanted if ORDER.index(name) < ORDER.index(ROUNDS[0])]
    middle = [(name, (r,)) for r in range(rounds) for name in wanted if name in ROUNDS]
    return before + middle + [(name, ()) for name in wanted if ORDER.index(name) > ORDER.index(ROUNDS[1])]


def typed_command():
    """The command that started this process."""
    return shlex.join(["python", "-m", "tsdfm_jax.main", *TYPED_ARGUMENTS])


def fail(error, code=2):
    """Say in this process's last line why it ends, and return the exit code."""
    signals.said()
    return command_line.fail("tsdfm_jax", error, code)


def default_workdir():
    """runs/ and the name of the config file with its argument, such as runs/fineweb_170m_smoke."""
    return pathlib.Path("runs") / command_line.run_name(config_flags.get_config_filename(flags.FLAGS["config"]))


def run(config, workdir, stages=(), command=None):
    """Run the stages of a config in a work directory; bad input raises ValueError or FileNotFoundError, in one line.

    `command` is the command line that was typed; the report shows it.
    """
    plan(stages, 1)  # before JAX is imported, so that a mistyped stage fails at once
    workdir = places.expanded(workdir)
    places.require_writable(workdir, "--workdir")
    memory.keep()
    from tsdfm_jax.config import inputs, networks, validation  # late: help and a mistyped flag do not wait for JAX
    from tsdfm_jax.runtime import compile_cache, hosts, metrics

    validation.validate(config)
    todo = [(name, arguments) for name, arguments in plan(stages, config.rounds) if networks.needs(config, name)]
    from tsdfm_jax.exchange import external  # later still: a mistyped value does not wait for the imports that read models

    hosts.first(lambda: inputs.check(config, workdir, [name for name, _ in todo]))
    external.check(config, workdir, [name for name, _ in todo])
    compile_cache.enable()
    for name in (name for name in stages if hosts.is_first() and not networks.needs(config, name)):
        metrics.LOG.warning("%s: skipped, since models is %s", name, ", ".join(networks.models(config)))
    with signals.stopping(), contextlib.ExitStack() as held:
        if list(stages) != ["sample"]:  # which changes nothing that another command reads
            what = command or "a program that called main.run"
            hosts.first(lambda: held.enter_context(lock.held(workdir, what)))
        perform(config, workdir, todo, command)


def perform(config, workdir, todo, command):
    """Run the (stage, arguments) of `todo` in a work directory that this run holds, or only reads."""
    from tsdfm_jax.runtime import hosts

    config_file, wanted = workdir / "config.json", [name for name, _ in todo]
    previous_config = hosts.first(lambda: config_file.read_text() if config_file.exists() else None)

    def write_config():
        if previous_config is not None and wanted == ["sample"]:
            return  # another command may be at work here, with the config that it has written
        workdir.mkdir(parents=True, exist_ok=True)
        atomic.overwrite(config_file, config.to_json(indent=1))
        if command is not None:
            atomic.overwrite(workdir / COMMAND, command + "\n")

    hosts.first(write_config)
    try:
        for number, (name, arguments) in enumerate(todo):
            signals.check(f"{number} of {len(todo)} stages done")
            importlib.import_module(f"tsdfm_jax.stages.{name}").run(config, workdir, *arguments)
        signals.check("all stages done")
    except Exception as error:
        if isinstance(error, (ValueError, FileNotFoundError, hosts.OtherProcessFailed)):
            with contextlib.suppress(OSError), open(workdir / "log.txt", "a") as log:
                log.write("".join(traceback.format_exception(error)))
        if isinstance(error, (ValueError, FileNotFoundError)) and hosts.is_first():
            take_back(workdir, previous_config)
        raise


def take_back(workdir, previous_config):
    """Undo what a refused command wrote: the work directory has the config from before, and a new one that has nothing goes."""
    if previous_config is not None:
        atomic.overwrite(workdir / "config.json", previous_config)
    elif all(file.name in NOTHING for file in workdir.rglob("*") if not file.is_dir()):
        shutil.rmtree(workdir)


def main(argv):
    try:
        command_line.config_file(argv, "configs/quickstart.py")
    except ValueError as error:
        return fail(error)
    if flags.FLAGS["stage"].present and not _STAGE.value:
        return fail(f"--stage= names no stage: leave it out for all of them, or take some of {', '.join(ORDER)}")
    workdir = places.expanded(_WORKDIR.value) if _WORKDIR.value else default_workdir()
    if _MULTIHOST.value:
        return run_one_of_several(workdir)
    return attempt(lambda: run(_CONFIG.value, workdir, _STAGE.value, typed_command()), workdir)


def run_one_of_several(workdir):
    """Run as one process of several; a process that fails alone exits at once, so that the others notice."""
    from tsdfm_jax.runtime import hosts

    signals.one_of_several()

    def join_and_run():
        hosts.start(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value, _HEARTBEAT.value)
        run(_CONFIG.value, workdir, _STAGE.value, typed_command())

    try:
        code = attempt(join_and_run, workdir)
    except Exception:
        traceback.print_exc()
        code = 1
    hosts.leave(code or 0)


def attempt(call, workdir):
    """Call `call()` and return the exit code, None for success."""
    try:
        return call()
    except KeyboardInterrupt:
        return fail("stopped at once; the same command goes on from the last checkpoint", 130)
    except Exception as error:
        return explain(error, workdir)


def explain(error, workdir):
    """Turn bad input, a full disk or a stop into one line and an exit code; raise anything else with its traceback."""
    if isinstance(error, OSError) and error.errno in MAY_NOT and error.filename:
        return fail(f"{error.filename}: {error.strerror}: give another file or directory, or the right to use this one", 1)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return fail(f"the disk is full ({error.filename or workdir}): make room, and the same command goes on from there")
    if not isinstance(error, (ValueError, FileNotFoundError)):
        from tsdfm_jax.runtime import hosts  # late: a mistyped stage does not wait for JAX

        if isinstance(error, signals.Interrupted):
            return fail(error, 128 + error.signum)
        if not isinstance(error, hosts.OtherProcessFailed):
            raise error
    return fail(error, 1)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
