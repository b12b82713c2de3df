"""Work directories of an earlier version of the code, whose artefacts have no identity: adopted where all that is known agrees."""

import os

from tsdfm_jax.lineage import bookkeeping
from tsdfm_jax.lineage.states import Kind, earlier_changes
from tsdfm_jax.workspace import contents, graph


def record_of(config, workdir, artefact, states):
    """The done.json that a finished artefact without an identity would have today; None if it cannot be adopted.

    It is adopted if its fingerprint agrees with the config, if all that it is made from is adopted or made here, if what it
    recorded of these agrees, and if none of these was made after it.
    """
    try:
        record = bookkeeping.done(_record_file(workdir, artefact).parent)
        if graph.of_method(config).EVIDENCE is None or record is None or "identity" in record or "summary_of" in record:
            return None
        inputs = {name: states[name] for name in artefact.all_inputs}
        if any(inputs[name].kind not in (Kind.DONE, Kind.MORE) for name in artefact.inputs):
            return None
        if _contradicts(config, workdir, artefact, record, states):
            return None
        made_of = bookkeeping.made_of(artefact, {name: one.content for name, one in inputs.items()})
        content = contents.of(config, workdir / artefact.name, artefact.stage, record["figures"])
        return bookkeeping.finished(workdir, artefact.name, made_of, record["figures"], content) | {"adopted": True}
    except (OSError, ValueError, KeyError, TypeError):  # a damaged file: the artefact is made again
        return None


def adopt(workdir, artefact, record):
    """Write the record of an adopted artefact, with the time of the old one."""
    times = os.stat(_record_file(workdir, artefact))
    bookkeeping.restamp(workdir / artefact.name, record)
    os.utime(workdir / artefact.name / bookkeeping.DONE, ns=(times.st_atime_ns, times.st_mtime_ns))


def _record_file(workdir, artefact):
    """The done.json of an artefact; one served both sets of records of a round."""
    place = workdir / artefact.name
    own = place / bookkeeping.DONE
    return place.parent / bookkeeping.DONE if artefact.stage == "trajectories" and place.is_dir() and not own.exists() else own


def _contradicts(config, workdir, artefact, record, states):
    """Whether anything on disk says that an artefact was made of something else."""
    if any(earlier_changes(artefact, record["fingerprint"])):
        return True
    ended = _record_file(workdir, artefact).stat().st_mtime
    for name, one in artefact.all_inputs.items():  # one that began after this had ended was made again since
        seconds = states[name].record["figures"].get("seconds", 0) if states[name].record else 0
        if seconds and _record_file(workdir, one).stat().st_mtime - ended > seconds:
            return True
    contradicts = graph.of_method(config).EVIDENCE.get(artefact.stage)
    return contradicts is not None and contradicts(config, workdir, artefact, states)
