"""The files in which a work directory says what it was made with: config.json, command.txt and commands.jsonl."""

import json
import pathlib
import time

from ml_collections import ConfigDict

from tsdfm_jax.lineage.artefact import differences
from tsdfm_jax.storage import atomic
from tsdfm_jax.workspace import graph

CONFIG, COMMAND, COMMANDS = "config.json", "command.txt", "commands.jsonl"
# The sections that belong to one stage alone, beside the keys of graph.KEYS.
NEEDED = ("data", "flow", "model", "student", "teacher", "tokenizer")  # sections that the config of any run has
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
    order = [*graph.KEYS, "report", "sample"]
    last = max(order.index(stage) for stage in stages)
    reached = set(stages) | set(order[:last]) - {"evaluate", "report"}
    owners = {}
    for stage in order:
        for key in (*graph.KEYS.get(stage, ()), *SECTIONS.get(stage, ())):
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


def config(directory):
    """The config of a run's stages. Raises ValueError if there is none, or if it is damaged."""
    file = directory / CONFIG
    try:
        values = json.loads(file.read_text())
    except OSError:
        raise ValueError(f"{directory} is no work directory of a run: there is no {file} (give the --workdir of one)") from None
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}): run any stage in {directory} again, and it is written anew") from None
    if not isinstance(values, dict) or not all(isinstance(values.get(name), dict) for name in NEEDED):
        raise ValueError(f"{file} is not the config of a run: it must have {', '.join(NEEDED)} (give the --workdir of one)")
    return ConfigDict(values)
