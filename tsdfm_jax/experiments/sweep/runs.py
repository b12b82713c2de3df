"""The runs of a sweep: their names, commands, and shared stages."""

import dataclasses
import difflib
import hashlib
import json
import pathlib
import re
from typing import Any

from ml_collections import ConfigDict

COMMON = "common"
SAMPLES = ("sample.jsonl", "sample_[0-9]*.jsonl")
LONGEST = 120  # characters of a run's name; file systems allow 255 bytes
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a string", tuple: "a tuple"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a sweep.

    Attributes:
      name: its explicit name, or its overrides as a file name; unique in the sweep.
      overrides: {dotted key: value}, its changes to the config file and the command line.
      config: the whole config with the overrides.
      workdir: its work directory.
      arguments: command line arguments of main.
      named: whether the sweep gave the name explicitly.
    """

    name: str
    overrides: dict[str, Any]
    config: ConfigDict
    workdir: pathlib.Path
    arguments: list[str]
    named: bool = False

    def finished(self):
        """Whether main finished here with the same config: a sample, of its last stage, is not older than the report."""
        report, wanted = self.workdir / "report/report.json", json.loads(self.config.to_json())
        samples = [file.stat().st_mtime_ns for name in SAMPLES for file in self.workdir.glob(f"samples/{name}")]
        if not report.exists() or max(samples, default=-1) < report.stat().st_mtime_ns:
            return False
        return _read(report).get("config") == wanted == _read(self.workdir / "config.json")


def expand(file, config, given, hyper, root):
    """The runs of a sweep; `hyper` is the list of overrides from get_hyper.

    `given` are the overrides {dotted key: value} of the command line; `config` has them already. Raises ValueError, in one
    line, for an unknown key, a value of the wrong type, an invalid config, and two runs with the same config.
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
        explicit_name = getattr(entry, "name", "")
        name = check_name(file, explicit_name, runs) if explicit_name else name_of(overrides, short)
        full_config = config.copy_and_resolve_references()
        full_config.update_from_flattened_dict(overrides)
        same_as = seen.setdefault(full_config.to_json(), name)
        if len(seen) == len(runs):
            raise ValueError(f"runs '{same_as}' and '{name}' of the sweep have the same config: leave one out")
        check(name, full_config)
        workdir = root / name
        runs.append(
            Run(
                name=name,
                overrides=overrides,
                config=full_config,
                workdir=workdir,
                arguments=arguments(file, workdir, {**given, **overrides}),
                named=bool(explicit_name),
            )
        )
    return runs


def check_name(file, name, runs):
    """Return `name`; raises ValueError if it is no valid directory name, or another run has it."""
    if name in (COMMON, *(run.name for run in runs)) or re.search(r"[^A-Za-z0-9.,=_+-]", name) or name.startswith("."):
        raise ValueError(f"a run of {file} is called '{name}': give it a name of its own, of letters, digits and .,=_+-")
    return name


def fitting(config, key, value):
    """`value` in the config's type of `key`; raises ValueError for an unknown key and for a value of another type."""
    known = dict(_leaves(config))
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0)
        raise ValueError(f"the sweep sets {key}, and there is no such key: did you mean {near[0]}?")
    kind = type(known[key])
    accepted = {float: (float, int), tuple: (tuple, list)}.get(kind, kind)
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"the sweep sets {key}={value!r}, which must be {KINDS[kind]}, such as {known[key]!r}")
    return kind(value)


def check(name, config):
    """Raise ValueError if a run's config is invalid, as far as this can be known before the start."""
    import jax  # late: help and mistyped flags should not wait for it

    jax.config.update("jax_platforms", "cpu")  # the accelerators are for the runs
    from tsdfm_jax.config import methods, validation

    anywhere = config.copy_and_resolve_references()
    anywhere.mesh.update(data=1, fsdp=1, tensor=-1)  # batch sizes are checked on the machine with the devices
    try:
        methods.require(config, "tsdfm", "a sweep")
        validation.check_values(config)
        validation.validate(anywhere)
    except ValueError as error:
        raise ValueError(f"run '{name}' of the sweep: {error}") from error


def short_names(keys):
    """{dotted key: its shortest suffix that no other key has}."""
    parts = {key: key.split(".") for key in keys}
    ends = lambda key: [".".join(parts[key][-n:]) for n in range(1, len(parts[key]) + 1)]
    suffixes = [end for key in keys for end in ends(key)]
    return {key: next((end for end in ends(key) if suffixes.count(end) == 1), key) for key in keys}


def name_of(overrides, short):
    """A run's name from its overrides; if characters are replaced or the name is cut, a hash keeps it unique."""
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
    """The command line arguments of main."""
    flags = [f"--config={file}", f"--workdir={workdir}", *([f"--stage={','.join(stages)}"] if stages else [])]
    return flags + [
        f"--config.{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in overrides.items()
    ]


def shared_stages(configs):
    """The stages, from the first on, with the same result in all configs that have them; at least two configs must have them.

    A key that no stage names, such as mesh.data, counts for all stages; `models` for those from the compass on, `rounds` for
    those from the trajectories on, and keys of `evaluate` and of the autoregressive model for stage `evaluate`.
    """
    from tsdfm_jax.config import networks
    from tsdfm_jax.workspace import graph
    from tsdfm_jax.workspace.tsdfm_artefacts import KEYS

    stage_keys = [key for keys in KEYS.values() for key in keys] + ["evaluate", "report", "sample", "rounds", "models"]
    unnamed_keys = lambda c: {k: v for k, v in _leaves(c) if not any(f"{k}.".startswith(f"{name}.") for name in stage_keys)}
    shared, order = [], list(KEYS)
    for stage in order:
        users = [c for c in configs if networks.needs(c, stage)]
        if len(users) < 2:
            continue
        reached = lambda name: order.index(stage) >= order.index(name)
        evaluation_keys = lambda c: (c.evaluate.to_dict(), graph.stage_keys(c, "autoregressive")) if stage == "evaluate" else None
        further_keys = lambda c: (
            c.models if reached("compass") else None,
            c.rounds if reached("trajectories") else None,
            evaluation_keys(c),
        )
        if len({json.dumps([graph.stage_keys(c, stage), unnamed_keys(c), further_keys(c)]) for c in users}) == 1:
            shared.append(stage)
        elif stage != "autoregressive":  # only evaluate depends on it
            break
    return shared


def done(directory, stage, config):
    """Whether a stage is whole in a work directory, and made of what this config makes it of."""
    from tsdfm_jax.lineage.states import Kind
    from tsdfm_jax.workspace import graph, plan

    def is_whole(name):
        state = plan.of_artefact(config, directory, name, look=False).states[name]
        return state.kind in (Kind.DONE, Kind.EARLIER)

    try:
        return all(map(is_whole, graph.directories(config, stage)))
    except ValueError:  # something that it is made of is not whole
        return False


def link(run, shared, common):
    """Link a run's shared stages to the common work directory; stages that the run made itself stay.

    The links are relative, so that the sweep's directory can be moved. A link to a missing or outdated stage is removed,
    because the run would write through it.
    """
    from tsdfm_jax.config import networks
    from tsdfm_jax.workspace.tsdfm_artefacts import KEYS

    run.workdir.mkdir(parents=True, exist_ok=True)
    for stage in KEYS:
        link_path = run.workdir / stage
        if link_path.is_symlink() and not done(run.workdir, stage, run.config):
            link_path.unlink()
        if stage in shared and networks.needs(run.config, stage) and not link_path.exists():
            link_path.symlink_to(pathlib.Path("..") / common.name / stage)
            if stage == "evaluate":
                _link_texts(run.workdir, common)


def _link_texts(workdir, common):
    """Link the texts that an evaluation judged; the run's own samples stay its own."""
    (workdir / "samples").mkdir(exist_ok=True)
    for file in (common / "samples").glob("*.json*"):
        link_path = workdir / "samples" / file.name
        if not link_path.exists() and not file.name.startswith("sample."):
            link_path.symlink_to(pathlib.Path("../..") / common.name / "samples" / file.name)


def _leaves(config, prefix=""):
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _read(file):
    try:
        return json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return {}
