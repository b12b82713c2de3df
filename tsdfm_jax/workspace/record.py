"""The files in which a work directory says what it was made with: config.json, command.txt and commands.jsonl."""

import json
import pathlib
import time

from ml_collections import ConfigDict

from tsdfm_jax.config import methods
from tsdfm_jax.lineage.artefact import differences
from tsdfm_jax.storage import atomic
from tsdfm_jax.workspace import graph

CONFIG, COMMAND, COMMANDS = "config.json", "command.txt", "commands.jsonl"
# The sections that belong to one stage alone, beside the keys of the method's artefacts.
SECTIONS = {"evaluate": ("evaluate",), "report": ("report",), "sample": ("sample",)}


def write(config, workdir, stages, command):
    """Note a command that begins: config.json stays what the directory was made with.

    A command that names no stage makes all of it. One that names some changes the keys of these stages and of those before
    them; one that only samples changes none. What it says beside that stands in its line of commands.jsonl.
    """
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    stored, wanted = atomic.read_json(workdir / CONFIG), json.loads(config.to_json())
    if list(stages) == ["sample"] and stored:
        made_with = stored
    else:
        made_with = merged(stored, wanted, stages) if stored and stages else wanted
        if command is not None:
            atomic.overwrite(workdir / COMMAND, command + "\n")
    if made_with != stored:
        atomic.overwrite(workdir / CONFIG, atomic.json_text(made_with, indent=1))
    line = {"time": time.strftime("%Y-%m-%d %H:%M:%S"), "command": command, "stages": list(stages)}
    line["overrides"] = {key: now for key, _, now in differences(made_with, wanted)}
    with open(workdir / COMMANDS, "a") as file:
        file.write(json.dumps(line) + "\n")


def merged(stored, wanted, stages):
    """`wanted` with the stored values of keys that belong to other stages than these and those before them."""
    order, keys = methods.of(wanted).order, graph.of_method(wanted).KEYS
    last = max(order.index(stage) for stage in stages)
    reached = set(stages) | set(order[:last]) - {"evaluate", "report"}
    owners = {}
    for stage in order:
        for key in (*keys.get(stage, ()), *SECTIONS.get(stage, ())):
            owners.setdefault(key, set()).add(stage)
    result = json.loads(json.dumps(wanted))
    for key, was, _ in differences(stored, wanted):
        of = {stage for prefix, stages_of in owners.items() if f"{key}.".startswith(f"{prefix}.") for stage in stages_of}
        if of and not of & reached and was != "(unset)":
            *path, leaf = key.split(".")
            node = result
            for part in path:
                node = node[part]
            node[leaf] = was
    return result


def require_method(config, workdir):
    """Raise ValueError, in one line, where a work directory holds a run of another method than the config's."""
    stored, method = atomic.read_json(pathlib.Path(workdir) / CONFIG), methods.of(config)
    if stored and (its := stored.get("method", methods.FIRST)) != method.name:
        raise ValueError(f"{workdir} holds a run of the method {its}, and this config's is {method.name}: give another --workdir")


def config(directory, method=""):
    """The config of a run's stages. Raises ValueError if there is none, if it is damaged, or not of the named method."""
    file = directory / CONFIG
    try:
        values = json.loads(file.read_text())
    except OSError:
        raise ValueError(f"{directory} is no work directory of a run: there is no {file} (give the --workdir of one)") from None
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}): run any stage in {directory} again, and it is written anew") from None
    needed = graph.of_method(values).NEEDED if isinstance(values, dict) else ()
    if not needed or not all(isinstance(values.get(name), dict) for name in needed):
        has = f": it must have {', '.join(needed)}" if needed else ""
        raise ValueError(f"{file} is not the config of a run{has} (give the --workdir of one)")
    if method and (its := methods.of(values).name) != method:
        raise ValueError(f"{directory} is a run of the method {its}, and this is for runs of {method}: take --stage=sample there")
    return ConfigDict(values)


def command(workdir):
    """The last command line in this work directory; None if the stages were called from Python."""
    file = pathlib.Path(workdir) / COMMAND
    return file.read_text().strip() if file.exists() else None
