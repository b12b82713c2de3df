"""What a sweep consists of: its runs, their names and commands, and the stages that they have in common."""

import dataclasses
import difflib
import hashlib
import json
import pathlib
import re
from typing import Any

from ml_collections import ConfigDict

COMMON = "common"
LONGEST = 120  # of a run's name: file systems take 255 bytes
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a string", tuple: "a tuple"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a sweep.

    Attributes:
      name: its own, or its overrides, fit for a file name; no other run of the sweep has it.
      overrides: {dotted key: value}, what sets it apart from the config file and the command line.
      config: the whole config with them.
      workdir: where it lives.
      arguments: what main is started with.
      named: whether the sweep gave it that name.
    """

    name: str
    overrides: dict[str, Any]
    config: ConfigDict
    workdir: pathlib.Path
    arguments: list[str]
    named: bool = False

    def finished(self):
        """Whether main has ended well here, with this very config: the sample, its last stage, is newer than the report."""
        report, sample = self.workdir / "report/report.json", self.workdir / "samples/sample.jsonl"
        wanted = json.loads(self.config.to_json())
        if not report.exists() or not sample.exists() or sample.stat().st_mtime_ns < report.stat().st_mtime_ns:
            return False
        return _read(report).get("config") == wanted == _read(self.workdir / "config.json")


def expand(file, config, given, hyper, root):
    """The runs of a sweep: `hyper` is the list of overrides that get_hyper made.

    `given` are the overrides {dotted key: value} that stood on the command line; `config` has them already. Raises
    ValueError, in one line, for an unknown key, a value of the wrong type, an impossible config, two runs that are the same.
    """
    if not isinstance(hyper, list) or not hyper or not all(isinstance(entry, dict) for entry in hyper):
        raise ValueError(f"get_hyper of {file} gave {str(hyper)[:80]}: it must return a list of dicts, one a run")
    short = short_names(dict.fromkeys(key for entry in hyper for key in entry))
    for key in short:
        if key in given:
            raise ValueError(f"--config.{key}={given[key]} is swept by {file}: leave it out, or out of the sweep")
    runs, seen = [], {}
    for entry in hyper:
        overrides = {key: fitting(config, key, value) for key, value in entry.items()}
        own = getattr(entry, "name", "")
        name = check_name(file, own, runs) if own else name_of(overrides, short)
        whole = config.copy_and_resolve_references()
        whole.update_from_flattened_dict(overrides)
        before = seen.setdefault(whole.to_json(), name)
        if len(seen) == len(runs):
            raise ValueError(f"runs '{before}' and '{name}' of the sweep have the same config: leave one out")
        check(name, whole)
        workdir = root / name
        runs.append(
            Run(
                name=name,
                overrides=overrides,
                config=whole,
                workdir=workdir,
                arguments=arguments(file, workdir, {**given, **overrides}),
                named=bool(own),
            )
        )
    return runs


def check_name(file, name, runs):
    """`name`; raises ValueError where it is no name of a directory, or that of a run before."""
    if name in (COMMON, *(run.name for run in runs)) or re.search(r"[^A-Za-z0-9.,=_+-]", name) or name.startswith("."):
        raise ValueError(f"a run of {file} is called '{name}': give it a name of its own, of letters, digits and .,=_+-")
    return name


def fitting(config, key, value):
    """`value` as the config's type of `key`; raises ValueError where there is no such key, or the value is of another type."""
    known = dict(_leaves(config))
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0)
        raise ValueError(f"the sweep sets {key}, and there is no such key: did you mean {near[0]}?")
    kind = type(known[key])
    taken = {float: (float, int), tuple: (tuple, list)}.get(kind, kind)
    if not isinstance(value, taken) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"the sweep sets {key}={value!r}, which must be {KINDS[kind]}, such as {known[key]!r}")
    return kind(value)


def check(name, config):
    """Raise ValueError where a run's config cannot work, for whatever reason that can be known before it starts."""
    import jax  # late: help and mistyped flags should not wait for it

    jax.config.update("jax_platforms", "cpu")  # the accelerators are for the runs
    from tsdfm_jax.config import validation

    anywhere = config.copy_and_resolve_references()
    anywhere.mesh.update(data=1, fsdp=1, tensor=-1)  # whether the batches fit the devices is known where those are
    try:
        for key, value in validation.leaves(config):
            validation.check_value(key, value)
        validation.validate(anywhere)
    except ValueError as error:
        raise ValueError(f"run '{name}' of the sweep: {error}") from error


def short_names(keys):
    """{dotted key: the shortest end of it that tells it from the others}."""
    parts = {key: key.split(".") for key in keys}
    ends = lambda key: [".".join(parts[key][-n:]) for n in range(1, len(parts[key]) + 1)]
    taken = [end for key in keys for end in ends(key)]
    return {key: next((end for end in ends(key) if taken.count(end) == 1), key) for key in keys}


def name_of(overrides, short):
    """A run's name; where a value had to be changed or the name cut, a hash of the overrides keeps it unique."""
    text = ",".join(f"{short[key]}={_plain(value)}" for key, value in overrides.items()) or "base"
    safe = re.sub(r"[^A-Za-z0-9.,=_+-]", "-", text)
    if safe == text and len(text) <= LONGEST:
        return text
    digest = hashlib.sha256(json.dumps(overrides, sort_keys=True).encode()).hexdigest()[:8]
    return f"{safe[: LONGEST - 9]}+{digest}"


def _plain(value):
    if isinstance(value, tuple):
        return "-".join(map(_plain, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def arguments(file, workdir, overrides, stages=()):
    """What main is started with."""
    flags = [f"--config={file}", f"--workdir={workdir}", *([f"--stage={','.join(stages)}"] if stages else [])]
    return flags + [
        f"--config.{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in overrides.items()
    ]


def shared_stages(configs):
    """The stages, from the first on, whose result is the same in all of these configs that have it (in one alone: none).

    A key that no stage names, such as mesh.data, is taken to touch them all; `models` those from the compass on, `rounds`
    those from the trajectories on, and any key of `evaluate` or of the autoregressive model that stage.
    """
    from tsdfm_jax.config import networks
    from tsdfm_jax.workspace import jobs

    named = [key for keys in jobs.KEYS.values() for key in keys] + ["evaluate", "report", "sample", "rounds", "models"]
    rest = lambda c: {k: v for k, v in _leaves(c) if not any(f"{k}.".startswith(f"{name}.") for name in named)}
    shared, order = [], list(jobs.KEYS)
    for stage in order:
        having = [c for c in configs if networks.needs(c, stage)]
        if len(having) < 2:
            continue
        reached = lambda name: order.index(stage) >= order.index(name)
        asked = lambda c: (c.evaluate.to_dict(), jobs.fingerprint(c, "autoregressive")) if stage == "evaluate" else None
        own = lambda c: (c.models if reached("compass") else None, c.rounds if reached("trajectories") else None, asked(c))
        if len({json.dumps([jobs.fingerprint(c, stage), rest(c), own(c)]) for c in having}) == 1:
            shared.append(stage)
        elif stage != "autoregressive":  # which none but evaluate stands on
            break
    return shared


def stage_directories(stage, config):
    """Where a stage of the shared ones leaves its done.json, below a work directory."""
    from tsdfm_jax.config import networks
    from tsdfm_jax.workspace import jobs

    rounds = range(config.rounds)
    return {
        "trajectories": [f"trajectories/round_{r}" for r in rounds],
        "student": [jobs.student_directory(v, r) for r in rounds for v in networks.variants(config)],
    }.get(stage, [stage])


def done(directory, stage, config):
    """Whether a stage is finished in a work directory, with this config."""
    from tsdfm_jax.lineage import bookkeeping
    from tsdfm_jax.workspace import jobs

    found = [bookkeeping.done(directory / name) for name in stage_directories(stage, config)]
    return all(f is not None and f["fingerprint"] == jobs.fingerprint(config, stage) for f in found)


def link(run, shared, common):
    """Let a run's shared stages stand for those of the common work directory; what the run has made itself stays.

    The links are relative, so that the sweep's directory can be moved. One whose stage is gone is taken away: the run
    would write through it.
    """
    from tsdfm_jax.config import networks
    from tsdfm_jax.workspace import jobs

    run.workdir.mkdir(parents=True, exist_ok=True)
    for stage in jobs.KEYS:
        place = run.workdir / stage
        if place.is_symlink() and not done(run.workdir, stage, run.config):
            place.unlink()
        if stage in shared and networks.needs(run.config, stage) and not place.exists():
            place.symlink_to(pathlib.Path("..") / common.name / stage)


def _leaves(config, at=""):
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _leaves(value, f"{at}{name}.")
        else:
            yield f"{at}{name}", value


def _read(file):
    try:
        return json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return {}
