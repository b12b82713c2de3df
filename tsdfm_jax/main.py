"""Runs the stages: `python -m tsdfm_jax.main --config=configs/quickstart.py [--stage=teacher] [--workdir=runs/mine]`."""

from tsdfm_jax.runtime import signals

if __name__ == "__main__":
    signals.begin()  # before the imports that take long: a signal at any moment ends this in one line

import contextlib
import errno
import functools
import pathlib
import shlex
import shutil
import sys
import traceback

from absl import app, flags
from ml_collections import config_flags

from tsdfm_jax.config import command_line, methods
from tsdfm_jax.runtime import memory
from tsdfm_jax.storage import lock, places

# What a stage without results leaves.
NOTHING = {"config.json", "command.txt", "commands.jsonl", "sources.json", "log.txt", lock.LOCK, "fingerprint.json", "seconds.json"}
TYPED_ARGUMENTS = tuple(sys.argv[1:])  # before any of it is parsed
MAY_NOT = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
ORDERS = "; ".join(f"of {method.name} {', '.join(method.order)}" for method in methods.METHODS.values())
parse = functools.partial(command_line.parse, "tsdfm_jax")

_CONFIG = config_flags.DEFINE_config_file("config", None, "A configuration file, such as configs/quickstart.py.")
_WORKDIR = flags.DEFINE_string("workdir", "", "Directory that everything is written to; by default runs/ and the config's name.")
_STAGE = flags.DEFINE_list("stage", [], f"Stages to run, comma-separated: {ORDERS}. All of them by default.")
_REMAKE = flags.DEFINE_bool("remake", False, "Make again what another config, text or model made here, and nothing else.")
_STATUS = flags.DEFINE_bool("status", False, "Show what is whole, stale or missing in --workdir, and run nothing.")
_MULTIHOST = flags.DEFINE_bool("multihost", False, "Whether this is one of several processes of one run.")
_COORDINATOR = flags.DEFINE_string("coordinator", "", "host:port of process 0, where the cluster does not provide it.")
_PROCESSES = flags.DEFINE_integer("processes", -1, "How many processes there are, where the cluster does not provide it.")
_PROCESS = flags.DEFINE_integer("process", -1, "Number of this process, from 0, where the cluster does not provide it.")
_HEARTBEAT = flags.DEFINE_integer("heartbeat", 100, "Seconds without a sign of life after which a process counts as dead.", 10)


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


def run(config, workdir, stages=(), command=None, remake=False):
    """Run the stages of a config in a work directory; bad input raises ValueError or FileNotFoundError, in one line.

    `command` is the command line that was typed; the report shows it. What another config made in the directory stays and stops
    the run, unless `remake` says that all that is stale is to be made again, and nothing else.
    """
    method = methods.of(config)
    method.plan(stages, 1)  # before JAX is imported, so that a mistyped stage fails at once
    workdir = places.expanded(workdir)
    places.require_writable(workdir, "--workdir")
    memory.keep()
    from tsdfm_jax.config import validation  # late: help and a mistyped flag do not wait for JAX
    from tsdfm_jax.runtime import compile_cache, hosts, metrics

    validation.validate(config)
    needed = [name for name in stages or method.order if method.needs(config, name)]
    hosts.first(lambda: method.load("inputs").check(config, workdir, needed))
    compile_cache.enable()
    for name in (name for name in stages if hosts.is_first() and name not in needed):
        metrics.LOG.warning("%s: skipped, since %s", name, method.load("networks").unneeded(config, name))
    with signals.stopping(), contextlib.ExitStack() as held:
        only_reads = list(stages) == ["sample"] and not remake  # it changes nothing that another command reads
        if not only_reads:
            what = command or "a program that called main.run"
            hosts.first(lambda: held.enter_context(lock.held(workdir, what)) and None)
        is_new = hosts.first(lambda: not (workdir / "config.json").exists())
        try:
            todo = prepare(config, workdir, stages, command, remake, only_reads)
            perform(config, workdir, todo, remake)
        except (ValueError, FileNotFoundError):
            if is_new and hosts.is_first():
                take_back(workdir)
            raise


def prepare(config, workdir, stages, command, remake, only_reads):
    """List the (stage, arguments) to run; ValueError if something in the directory is stale and `remake` is false."""
    from tsdfm_jax.exchange import external  # late: a mistyped value does not wait for the imports that read models
    from tsdfm_jax.runtime import hosts, metrics
    from tsdfm_jax.workspace import plan as plans, record

    method = methods.of(config)
    hosts.first(lambda: record.require_method(config, workdir))
    state = hosts.first(lambda: plans.make(config, workdir, change=not only_reads))
    names = state.wanted(config, stages)
    if not remake and (refusal := state.refusal(names)):
        raise ValueError(refusal)
    stale = state.stages(state.stale(names))
    todo = method.plan([name for name in method.order if name in (*stages, *stale)] if stages else (), config.get("rounds", 1))
    todo = [(name, arguments) for name, arguments in todo if method.needs(config, name)]
    external.check(config, [state.states[name] for name in state.named([name for name, _ in todo])])
    hosts.first(lambda: record.write(config, workdir, stages and [name for name, _ in todo], command))
    if state.adopted:
        with metrics.Metrics(workdir, "adopted") as out:
            out.line(
                f"{', '.join(state.adopted)}: made by an earlier version of the code, and kept, since all that is known agrees"
            )
    return todo


def perform(config, workdir, todo, remake):
    """Run the (stage, arguments) of `todo` in a work directory that this run holds, or only reads."""
    from tsdfm_jax.runtime import hosts

    try:
        for number, (name, arguments) in enumerate(todo):
            signals.check(f"{number} of {len(todo)} stages done")
            methods.of(config).load(name).run(config, workdir, *arguments, remake=remake)
        signals.check("all stages done")
    except (ValueError, FileNotFoundError, hosts.OtherProcessFailed) as error:
        with contextlib.suppress(OSError), open(workdir / "log.txt", "a") as log:
            log.write("".join(traceback.format_exception(error)))
        raise


def take_back(workdir):
    """Remove a new work directory in which a refused command made nothing."""
    if all(file.name in NOTHING for file in workdir.rglob("*") if not file.is_dir()):
        shutil.rmtree(workdir, ignore_errors=True)


def main(argv):
    try:
        command_line.config_file(argv, "configs/quickstart.py")
    except ValueError as error:
        return fail(error)
    if flags.FLAGS["stage"].present and not _STAGE.value:
        return fail(f"--stage= names no stage: leave it out for all of them, or take some of {ORDERS}")
    workdir = places.expanded(_WORKDIR.value) if _WORKDIR.value else default_workdir()
    if _STATUS.value:
        return attempt(lambda: status(_CONFIG.value, workdir), workdir)
    if _MULTIHOST.value:
        return run_one_of_several(workdir)
    return attempt(lambda: run(_CONFIG.value, workdir, _STAGE.value, typed_command(), _REMAKE.value), workdir)


def status(config, workdir):
    """Print the state of each stage's results under a config; returns the exit code."""
    from tsdfm_jax.workspace import status as status_lib  # late: as above

    return 0 if status_lib.show(config, workdir) else 1


def run_one_of_several(workdir):
    """Run as one process of several; a process that fails alone exits at once, so that the others notice."""
    from tsdfm_jax.runtime import hosts

    signals.one_of_several()

    def join_and_run():
        hosts.start(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value, _HEARTBEAT.value)
        run(_CONFIG.value, workdir, _STAGE.value, typed_command(), _REMAKE.value)

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
