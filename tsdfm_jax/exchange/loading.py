"""`load`: a trained model of a run or of a model directory, ready to write text or to draw images."""

import functools

from ml_collections import ConfigDict

from tsdfm_jax.config import methods, networks, ntm_networks, settings
from tsdfm_jax.exchange import directories, image_directory, model_directory
from tsdfm_jax.inference import model as model_lib, sampling
from tsdfm_jax.models import transformer
from tsdfm_jax.normalizing import model as image_models, opening
from tsdfm_jax.runtime import compile_cache, mesh as meshes
from tsdfm_jax.storage import places
from tsdfm_jax.workspace import record, trained

PREFERRED = ("student_shaped", "student_blind", "autoregressive", "teacher")  # the default is the first of these that a run has
PREFERRED_OF_IMAGES = ("ntm", "ntm_identity", "flow_matching")  # likewise of a run of NTM


def load(directory, model=None, mesh=None):
    """Load a trained model from a run, or from a directory that launch.export or launch.import_fsdfm wrote.

    Compiled programs are kept on disk between processes, unless JAX's own settings say where to keep them, or not to; see
    `runtime.compile_cache.enable`.

    Args:
      directory (str | pathlib.Path): a run's work directory, or the directory of a single model.
      model (str | None): name of one of the run's models; None is the first that the run has of `student_shaped`,
        `student_blind`, `autoregressive` and `teacher`, or of `ntm`, `ntm_identity` and `flow_matching`. For a single model: None,
        its name or its kind.
      mesh (jax.sharding.Mesh | None): a mesh of `runtime.mesh.make_mesh`; None has all devices along `data`. It need not be
        the mesh of the training.

    Returns:
      opened (Model): the model: `inference.model.Model`, which writes text, or `normalizing.model.Model`, which draws images.

    Raises:
      ValueError: for a directory that is neither, an unknown name, a model that is unfinished or damaged, or a length that
        does not split over the mesh.
    """
    compile_cache.enable()
    directory = places.expanded(directory)
    mesh = meshes.make_mesh(meshes.MeshConfig()) if mesh is None else mesh
    if directories.is_model(directory):
        of_images = directories.kind(directory) in directories.OF_IMAGES
        return (_images_from_directory if of_images else _from_model_directory)(directory, model, mesh)
    config = record.config(directory)
    if methods.of(config) is methods.NTM:
        return _images_from_run(config, directory, model, mesh)
    if model is not None:
        settings.choose("model", model, networks.MODELS)
    model = next(name for name in PREFERRED if name in networks.models(config)) if model is None else model
    networks.check_made(config, "model", model)
    config = trained.own_config(config, directory, model)
    meshes.require_positions(config.data.length, mesh, "data.length")
    writer = sampling.writer(config, directory, mesh, model, trained.whole)
    if model == "autoregressive":
        cfg = settings.autoregressive(config, writer.tokenizer.vocab_size)
    else:
        vocab = settings.path(config, writer.tokenizer.vocab_size).vocab
        cfg = settings.network(config, vocab, step_conditioned=model != "teacher")
    return model_lib.Model(f"{model} of {directory}", cfg, writer.network, mesh, config.data.length, writer)


def _from_model_directory(directory, model, mesh):
    about = model_directory.read_about(directory)
    directories.check_name(about, model)
    meshes.require_positions(about.length, mesh, f"the length of {directory}")
    about, params = model_directory.read(directory, mesh)
    network = trained.Network(apply=functools.partial(transformer.apply, about.network), params=params, hash=about.hash)
    tok, flow = model_directory.tokenizer(about), {"source": about.path.source, "exponent": about.path.exponent, "jump": about.jump}
    config = ConfigDict({"data": {"length": about.length}, "flow": flow})
    writer = None if tok is None else sampling.Writer(config, mesh, tok, network)
    return model_lib.Model(str(about), about.network, network, mesh, about.length, writer)


def _images_from_run(config, directory, model, mesh):
    have = ntm_networks.models(config)
    if model is not None:
        settings.choose("model", model, ntm_networks.SAMPLED)
    model = next((name for name in PREFERRED_OF_IMAGES if name in have), "ntm") if model is None else model
    if model not in have:
        raise ValueError(f"model {model!r} is not among models {have} of {directory}: take one of those")
    return image_models.Model(opening.of_run(config, directory, mesh, model, trained.whole), mesh)


def _images_from_directory(directory, model, mesh):
    about = image_directory.read_about(directory)
    directories.check_name(about, model)
    return image_models.Model(image_directory.read(about, mesh), mesh)
