"""Work directories of an earlier version of the code, whose artefacts have no identity: adopted where all that is known agrees."""

import json
import os

from tsdfm_jax.config import settings
from tsdfm_jax.data import corpus
from tsdfm_jax.lineage import bookkeeping
from tsdfm_jax.lineage.states import Kind
from tsdfm_jax.workspace import contents


def adopt(config, workdir, artefact, states):
    """Give a finished artefact without an identity the record that it would have today; returns whether it did.

    It is adopted if its fingerprint agrees with the config, if all that it is made from is adopted or made here, if what it
    recorded of these agrees, and if none of these was made after it.
    """
    file = _record_file(workdir, artefact)
    record = bookkeeping.done(file.parent)
    if record is None or "identity" in record or "summary_of" in record:
        return False
    if any(states[name].kind not in (Kind.DONE, Kind.MORE) for name in artefact.all_inputs):
        return False
    try:
        if _contradicts(config, workdir, artefact, record, states):
            return False
        contents_by_name = {name: one.content for name, one in states.items()}
        content = contents.of(workdir / artefact.name, artefact.stage, record["figures"])
        made_of = bookkeeping.made_of(artefact, contents_by_name) | {"adopted": True}
        times = os.stat(file)
        bookkeeping.finish(workdir, artefact.name, made_of, record["figures"], content)
        os.utime(workdir / artefact.name / bookkeeping.DONE, ns=(times.st_atime_ns, times.st_mtime_ns))
        return True
    except (OSError, ValueError, KeyError, TypeError):  # a damaged file: the artefact is made again
        return False


def _record_file(workdir, artefact):
    """The done.json of an artefact; one served both sets of records of a round."""
    place = workdir / artefact.name
    own = place / bookkeeping.DONE
    return place.parent / bookkeeping.DONE if artefact.stage == "trajectories" and place.is_dir() and not own.exists() else own


def _contradicts(config, workdir, artefact, record, states):
    """Whether anything on disk says that an artefact was made of something else."""
    fingerprint = record["fingerprint"]
    if any(fingerprint[key] != artefact.keys[key] for key in fingerprint if key in artefact.keys):
        return True
    ended = _record_file(workdir, artefact).stat().st_mtime
    for name in artefact.all_inputs:  # one that began after this had ended was made again since
        seconds = states[name].record["figures"].get("seconds", 0)
        if (workdir / name / bookkeeping.DONE).stat().st_mtime - ended > seconds > 0:
            return True
    return artefact.stage in EVIDENCE and EVIDENCE[artefact.stage](config, workdir, artefact, states)


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
