"""Export of a run's trained model to a directory of its own; launch/export.py is the command."""

import json

import jax
from flax import traverse_util

from tsdfm_jax.config import methods, networks, settings
from tsdfm_jax.evaluation import summary
from tsdfm_jax.exchange import loading, model_card, model_directory
from tsdfm_jax.runtime import mesh as meshes
from tsdfm_jax.storage import places
from tsdfm_jax.workspace import graph, record, trained


def export(workdir, out, *, model="student_shaped", dtype="float32", force=False):
    """Write a model of a run into the directory `out`; returns its model_directory.About. The arguments are the command's flags.

    Raises ValueError, one line, for a directory that is no run, an unfinished model, or an `out` that is in use; OSError if
    the disk is full.
    """
    settings.choose("--model", model, networks.FLOW_MODELS)
    settings.choose("--dtype", dtype, model_directory.DTYPES)
    workdir, out = places.expanded(workdir), places.expanded(out)
    model_directory.check_free(out, force)
    config = record.config(workdir, methods.TSDFM.name)
    mesh = meshes.make_mesh(meshes.MeshConfig(), jax.local_devices()[:1])
    loaded = loading.load(workdir, model, mesh)
    config = trained.own_config(config, workdir, model)
    report, reason = report_of(workdir, stage(config, model), loaded.hash)
    about = model_directory.About(
        directory=out,
        kind=model.split("_")[0],
        name=model,
        network=loaded.network,
        length=loaded.length,
        path=settings.path(config, loaded.tokenizer.vocab_size),
        jump=config.flow.jump,
        tokenizer=loaded.tokenizer.content_hash,
        dtype=dtype,
        origin=origin(workdir, config, report),
    )
    params = {name: jax.device_get(value) for name, value in traverse_util.flatten_dict(loaded.params, sep="/").items()}
    file = next((workdir / "tokenizer").glob("tokenizer.*"))
    card = lambda about: model_card.exported(about, config, report, reason)
    return model_directory.write(about, params, card, tokenizer=file, force=force)


def stage(config, model):
    """The directory of the stage that made a model; report.json lists the stage under that name."""
    return graph.model_directory(config, model)


def report_of(workdir, stage, digest):
    """(report.json, "") of a run; (None, reason) if there is none, or it is of another version or of weights of another hash."""
    file = workdir / "report/report.json"
    try:
        report = json.loads(file.read_text())
    except FileNotFoundError:
        return None, "The run has no report.json: its stage `report` was not run."
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}): run --stage=report again") from None
    if report.get("schema") != summary.SCHEMA:
        return None, "The run's report.json is of another version of the code than the export."
    if report.get("stages", {}).get(stage, {}).get("hash") != digest:
        return None, "The run's report.json is of other weights than these: its stage `report` was run before them."
    return report, ""


def origin(workdir, config, report):
    """How the run was made, as config.json holds it; the commit comes from the report, None without one."""
    file = workdir / "command.txt"
    command = report["command"] if report else file.read_text().strip() if file.exists() else None
    fields = {"run": workdir.absolute().name, "command": command, "commit": report["commit"] if report else None}
    return fields | {"config": config.to_dict()}
