"""The artefacts of a run: what each stage leaves, of which keys, sources and earlier artefacts it is made."""

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

from tsdfm_jax.config import networks, settings
from tsdfm_jax.lineage.artefact import Artefact

# The config keys that each stage's result depends on, beside those of the stages before it.
KEYS = {
    "tokenizer": ("seed", "data.package", "data.files", "data.field", "data.limit_bytes", "tokenizer"),
    "data": ("data.length", "data.holdout", "data.windows_per_shard"),
    "judges": ("judges", "model.dtype", "teacher.heldout", "seed"),
    "teacher": ("flow.source", "flow.exponent", "model", "teacher"),
    "autoregressive": ("autoregressive", "model", "flow.source", "teacher.heldout", "seed"),
    "compass": ("compass", "shaping", "flow", "trajectories.chain"),
    "trajectories": ("shaping", "trajectories", "flow", "student.target", "student.progressive"),
    "student": ("student",),
    # Keys that add sets of texts or judges are not here: the stage keeps its results and adds to them.
    "evaluate": ("evaluate.samples", "evaluate.temperature", "evaluate.top_p", "flow", "rounds"),
}
# Keys that only some configs' results depend on; see `_further_keys`.
CHAIN_KEYS = ("student.step_weights",)
# Keys of the compass that measure it and change nothing of it.
MEASURING_KEYS = ("compass.heldout", "compass.steered_samples", "compass.steered_steps")
ADDING = ("seeds", "teacher_steps", "student_steps", "frontier", "frontier_temperatures", "text", "pretrained")


def value_of(config, key):
    """The value of a dotted key, or of a section, as plain JSON."""
    value = functools.reduce(lambda node, part: node[part], key.split("."), config)
    return json.loads(json.dumps(value.to_dict() if hasattr(value, "to_dict") else value))


def fingerprint(config, stage):
    """The values of the keys that a stage's result depends on, as plain JSON."""
    return {key: value_of(config, key) for key in KEYS[stage]}


def stage_keys(config, stage):
    """All keys that what a stage makes depends on under this config, as plain JSON; at least its `fingerprint`."""
    keys = fingerprint(config, stage)
    return {**keys, **_record_keys(config, "shaped")} if stage == "trajectories" else keys


def student_directory(variant, round_number):
    """The directory of a student of a round, below the work directory."""
    return f"student/{variant}/round_{round_number}"


def trajectories_directory(variant, round_number):
    """The directory of the records that a student of a round learns from."""
    return f"trajectories/round_{round_number}/{variant}"


def artefacts(config, sources: Callable[[str, str], Mapping[str, Any]]) -> dict[str, Artefact]:
    """All artefacts of a config by name, each after those that it is made from.

    `sources(name, stage)` gives {what: identity} of what an artefact reads from outside the work directory.
    """
    made: dict[str, Artefact] = {}

    def add(name, stage, inputs=(), *, keys=None, additions=None, figures_of=(), figure_keys=()):
        read = sources(name, stage)
        keys = fingerprint(config, stage) if keys is None else keys
        # What an evaluation reads from outside adds rows to its table, and makes no row wrong.
        about = {"sources": read} if additions is None else {"additions": {**additions, **read}}
        about |= {"inputs": {one: made[one] for one in inputs}, "figures_of": {one: made[one] for one in figures_of}}
        made[name] = Artefact(name=name, stage=stage, keys=keys, figure_keys=dict(figure_keys), **about)

    add("tokenizer", "tokenizer")
    add("data", "data", ["tokenizer"])
    add("judges", "judges", ["data"])
    for name in ("teacher", "autoregressive"):
        if networks.needs(config, name):
            add(name, name, ["data"])
    if networks.needs(config, "compass"):
        # The pilot judge measures the compass, and changes nothing of it.
        keys, measuring = fingerprint(config, "compass"), {key: value_of(config, key) for key in MEASURING_KEYS}
        for key in MEASURING_KEYS:
            del keys["compass"][key.removeprefix("compass.")]
        add("compass", "compass", ["teacher", "data"], figures_of=["judges"], keys=keys, figure_keys=measuring)
    for r in range(config.rounds if networks.needs(config, "trajectories") else 0):
        for variant in networks.variants(config):
            _add_round(config, add, variant, r)
    additions = {f"evaluate.{key}": value_of(config, f"evaluate.{key}") for key in ADDING} | {
        "models": list(networks.models(config))
    }
    add(
        "evaluate",
        "evaluate",
        ["data", "judges", *map(functools.partial(model_directory, config), networks.models(config))],
        additions=additions,
    )
    add("report", "report", list(made), keys={}, additions=json.loads(config.to_json()))  # it shows the whole config
    return made


def model_directory(config, model):
    """The directory of a model of the config; a student is that of the last round."""
    return student_directory(model.removeprefix("student_"), config.rounds - 1) if model.startswith("student_") else model


def _add_round(config, add, variant, r):
    records, before = trajectories_directory(variant, r), [student_directory(variant, r - 1)] if r else []
    by_compass = ["compass"] if variant == "shaped" else []
    add(records, "trajectories", [*(before or ["teacher"]), "data", *by_compass], keys=_record_keys(config, variant))
    add(student_directory(variant, r), "student", [records, "teacher", *before])


def _record_keys(config, variant):
    """The keys behind a set of records: blind ones have nothing of the shaping, chains have the steps that students draw."""
    keys = fingerprint(config, "trajectories")
    if variant == "blind":
        del keys["shaping"]
    if "chain" in settings.TARGETS[config.student.target]:
        keys |= {key: value_of(config, key) for key in CHAIN_KEYS}
    return keys


def upstream(made: Mapping[str, Artefact], names) -> list[str]:
    """These artefacts and all that they are made from, in order."""
    wanted, stack = set(), list(names)
    while stack:
        name = stack.pop()
        if name not in wanted:
            wanted.add(name)
            stack += made[name].all_inputs
    return [name for name in made if name in wanted]


def directories(config, stage):
    """Names of the artefacts that a stage makes, in order, without a look at any file."""
    variants, rounds = networks.variants(config), range(config.rounds)
    if stage == "trajectories":
        return [trajectories_directory(v, r) for r in rounds for v in variants]
    if stage == "student":
        return [student_directory(v, r) for r in rounds for v in variants]
    return [stage] if networks.needs(config, stage) and stage in (*KEYS, "report") else []
