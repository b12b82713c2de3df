"""What each stage of TS-DFM leaves: of which keys, sources and earlier artefacts it is made, and what of it others read."""

import functools
import json

from tsdfm_jax.config import networks, settings
from tsdfm_jax.data import corpus, hub, tensors
from tsdfm_jax.lineage.artefact import digest
from tsdfm_jax.storage import places
from tsdfm_jax.workspace import contents, graph, sources as outside

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
NEEDED = ("data", "flow", "model", "student", "teacher", "tokenizer")
TEXTS, JUDGES = ADDED = ("evaluate.text ", "evaluate.pretrained ")  # what `judged` calls its texts and judges
ADDING = ("seeds", "teacher_steps", "student_steps", "frontier", "frontier_temperatures", "text", "pretrained")


def stage_keys(config, stage):
    """All keys that what a stage makes depends on under this config, as plain JSON; at least its fingerprint."""
    keys = graph.fingerprint(config, stage)
    return {**keys, **_record_keys(config, "shaped")} if stage == "trajectories" else keys


def student_directory(variant, round_number):
    """The directory of a student of a round, below the work directory."""
    return f"student/{variant}/round_{round_number}"


def trajectories_directory(variant, round_number):
    """The directory of the records that a student of a round learns from."""
    return f"trajectories/round_{round_number}/{variant}"


def artefacts(config, chain):
    """Add all artefacts of a config to a graph.Chain."""
    add = chain.add
    add("tokenizer", "tokenizer")
    add("data", "data", ["tokenizer"])
    add("judges", "judges", ["data"])
    for name in ("teacher", "autoregressive"):
        if networks.needs(config, name):
            add(name, name, ["data"])
    if networks.needs(config, "compass"):
        # The pilot judge measures the compass, and changes nothing of it.
        keys, measuring = graph.fingerprint(config, "compass"), graph.values_of(config, MEASURING_KEYS)
        for key in MEASURING_KEYS:
            del keys["compass"][key.removeprefix("compass.")]
        add("compass", "compass", ["teacher", "data"], figures_of=["judges"], keys=keys, figure_keys=measuring)
    for r in range(config.rounds if networks.needs(config, "trajectories") else 0):
        for variant in networks.variants(config):
            _add_round(config, add, variant, r)
    additions = {f"evaluate.{key}": graph.value_of(config, f"evaluate.{key}") for key in ADDING} | {
        "models": list(networks.models(config))
    }
    add(
        "evaluate",
        "evaluate",
        ["data", "judges", *map(functools.partial(model_directory, config), networks.models(config))],
        additions=additions,
    )
    add("report", "report", list(chain.made), keys={}, additions=json.loads(config.to_json()))  # it shows the whole config


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
    keys = graph.fingerprint(config, "trajectories")
    if variant == "blind":
        del keys["shaping"]
    if "chain" in settings.TARGETS[config.student.target]:
        keys |= graph.values_of(config, CHAIN_KEYS)
    return keys


def directories(config, stage):
    """Names of the artefacts that a stage makes, in order, without a look at any file."""
    variants, rounds = networks.variants(config), range(config.rounds)
    if stage == "trajectories":
        return [trajectories_directory(v, r) for r in rounds for v in variants]
    if stage == "student":
        return [student_directory(v, r) for r in rounds for v in variants]
    return [stage] if networks.needs(config, stage) and stage in (*KEYS, "report") else []


def sampled(config):
    """The artefact that stage `sample` reads."""
    return (model_directory(config, config.sample.model),)


def sources(config, stage, memory, name):
    """{what: identity} of what the artefact `name` of a stage reads from outside; the identity of what is not there is None.

    Raises FileNotFoundError where a corpus is not there.
    """
    if stage == "tokenizer" and config.tokenizer.path:
        return outside.of_file("tokenizer.path", config.tokenizer.path, memory)
    if stage in ("tokenizer", "data"):
        return text(config, memory)
    if stage == "teacher" and config.teacher.path:
        return outside.of_model("teacher.path", config.teacher.path, memory)
    if stage == "student" and config.student.path and name.endswith("/round_0"):
        return outside.of_model("student.path", config.student.path, memory)
    return judged(config, memory) if stage == "evaluate" else {}


def text(config, memory):
    """The corpus: a hash of each file, or the version of the package."""
    source = settings.corpus_config(config)
    if not source.files:
        return {"package": f"{source.package} {corpus.version(source.package)}"}
    found = corpus.files(source)
    local = [file for file in found if not isinstance(file, hub.RemoteFile)]
    remote = {str(file): f"{file.size} bytes" for file in found if isinstance(file, hub.RemoteFile)}
    return {"files": {**remote, **outside.hashes(local, memory)}}


def judged(config, memory):
    """{what: identity} of the texts and judges from elsewhere that an evaluation adds; None for a judge that is not here yet."""
    c, found = config.evaluate, {}
    for file in places.split(c.text):
        path = places.expanded(file)
        found[TEXTS + file] = outside.of_folder(path, ("*.txt",), memory) if path.is_dir() else outside.hash_of(path, memory)
    for name in places.split(c.pretrained):
        directory = hub.on_disk(str(places.expanded(name)), tensors.PATTERNS)
        found[JUDGES + name] = outside.of_folder(directory, tensors.PATTERNS, memory) if directory else None
    return found


def of_windows(directory):
    """The content of prepared text: its shards and its lexicon."""
    manifest = json.loads((directory / "manifest.json").read_text())
    splits = {
        name: [contents.shards(split["shards"]), split["tokens"], split["bytes"]] for name, split in manifest["splits"].items()
    }
    return digest([splits, manifest["lexicon"]["sha256"]])


CONTENTS = {
    "data": lambda directory, figures: of_windows(directory),
    "judges": lambda directory, figures: digest({name: judge["hash"] for name, judge in figures["judges"].items()}),
    "compass": lambda directory, figures: digest([figures["kind"], figures.get("hash")]),
    "trajectories": lambda directory, figures: contents.of_records(directory),
}


def _other_text(config, workdir, artefact, states):
    manifest = workdir / "data" / "manifest.json"
    try:
        return manifest.exists() and json.loads(manifest.read_text())["corpus"] != corpus.fingerprint(
            settings.corpus_config(config)
        )
    except FileNotFoundError:  # the text is elsewhere
        return False


def _other_networks(config, workdir, artefact, states):
    for manifest in (workdir / artefact.name).glob("*/manifest.json"):
        recorded = json.loads(manifest.read_text())["sources"]
        generator = next(name for name in artefact.inputs if name == "teacher" or name.startswith("student"))
        wanted = {"generator": states[generator].content, "tokenizer": states["tokenizer"].content}
        if "compass" in artefact.inputs:
            figures = states["compass"].record["figures"]
            wanted["compass"] = figures.get("hash", f"lookahead-{config.compass.score}")
        if any(recorded.get(name) != value for name, value in wanted.items()):
            return True
    return False


def _other_tokenizer(config, workdir, artefact, states):
    metas = (workdir / artefact.name).glob("**/model/meta.json")
    return any(json.loads(meta.read_text())["tokenizer"] != states["tokenizer"].content for meta in metas)


EVIDENCE = {"tokenizer": _other_text, "data": _other_text, "trajectories": _other_networks}
EVIDENCE |= {stage: _other_tokenizer for stage in ("judges", "teacher", "autoregressive", "compass", "student")}
