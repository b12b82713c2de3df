"""Export of a run's trained model to a directory of its own; launch/export.py is the command."""

import json

import jax
from flax import traverse_util

from tsdfm_jax.config import methods, networks, ntm_networks, settings
from tsdfm_jax.evaluation import summary
from tsdfm_jax.exchange import directories, image_card, image_directory, loading, model_card, model_directory
from tsdfm_jax.report import image_page
from tsdfm_jax.runtime import mesh as meshes
from tsdfm_jax.storage import places
from tsdfm_jax.workspace import graph, record, trained

DEFAULT = {methods.TSDFM.name: "student_shaped", methods.NTM.name: "ntm"}  # by method: the model that is exported


def export(workdir, out, *, model=None, dtype="float32", force=False):
    """Write a model of a run into the directory `out`; returns its About. The arguments are the command's flags.

    Raises ValueError, one line, for a directory that is no run, an unfinished model, or an `out` that is in use; OSError if
    the disk is full.
    """
    workdir, out = places.expanded(workdir), places.expanded(out)
    config = record.config(workdir)
    method = methods.of(config)
    model = DEFAULT[method.name] if model is None else model
    settings.choose("--model", model, networks.FLOW_MODELS if method is methods.TSDFM else ntm_networks.SAMPLED)
    settings.choose("--dtype", dtype, directories.DTYPES)
    directories.check_free(out, force)
    mesh = meshes.make_mesh(meshes.MeshConfig(), jax.local_devices()[:1])
    write = _text if method is methods.TSDFM else _images
    return write(config, workdir, out, loading.load(workdir, model, mesh), model, dtype, force)


def _text(config, workdir, out, loaded, model, dtype, force):
    config = trained.own_config(config, workdir, model)
    report, reason = report_of(workdir, stage(config, model), loaded.hash, summary.SCHEMA)
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


def _images(config, workdir, out, loaded, model, dtype, force):
    report, reason = report_of(workdir, model, loaded.hash, image_page.SCHEMA)
    about = image_directory.of_parts(loaded.parts, out, dtype, origin(workdir, config, report))
    params = {name: jax.device_get(value) for name, value in image_directory.weights(loaded.parts).items()}
    card = lambda about: image_card.exported(about, loaded, config, report, reason)
    return image_directory.write(about, params, card, force)


def stage(config, model):
    """The directory of the stage that made a model; report.json lists the stage under that name."""
    return graph.model_directory(config, model)


def report_of(workdir, stage, digest, schema):
    """(report.json, "") of a run; (None, reason) if there is none, or it is of another version or of weights of another hash."""
    file = workdir / "report/report.json"
    try:
        report = json.loads(file.read_text())
    except FileNotFoundError:
        return None, "The run has no report.json: its stage `report` was not run."
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}): run --stage=report again") from None
    if report.get("schema") != schema:
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
