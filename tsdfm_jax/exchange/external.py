"""Models that a run loads from a directory: `teacher.path` is its teacher, `student.path` has the students' initial weights."""

from tsdfm_jax.config import methods
from tsdfm_jax.exchange import model_directory
from tsdfm_jax.lineage.states import Kind

SHAPE = ("blocks", "width", "heads", "cond_width", "mlp_ratio")
FLOW = ("source", "exponent")
KINDS = {"teacher": ("teacher",), "student": model_directory.KINDS}


def check(config, states):
    """Check the models that a run will load, before anything is computed; `states` are those of what it will make.

    Raises ValueError, one line, for a directory that holds no model, or one that does not fit the config.
    """
    stages = {state.artefact.stage for state in states if state.kind is not Kind.DONE}
    for section in methods.of(config).given:
        if config[section].path and section in stages:
            read_about(config, section)


def read_about(config, section):
    """The About of the model in `teacher.path` or `student.path`; raises ValueError if the config does not fit it."""
    directory = config[section].path
    about = model_directory.read_about(directory)
    if about.kind not in KINDS[section]:
        raise ValueError(f"{section}.path {directory} holds a {about.kind}: give the directory of a {KINDS[section][0]}")
    values = {f"model.{name}": getattr(about.network, name) for name in SHAPE} | {
        f"flow.{name}": getattr(about.path, name) for name in FLOW
    }
    for key, value in values.items():
        group, name = key.split(".")
        if config[group][name] != value:
            raise ValueError(
                f"{section}.path {directory} has {name} {value}, but {key} is {config[group][name]}: "
                f"set --config.{key}={value}, or take another model"
            )
    if config.data.length > about.length:
        raise ValueError(
            f"{section}.path {directory} was trained on {about.length} tokens, but data.length is {config.data.length}: "
            f"set --config.data.length={about.length} or less"
        )
    return about


def read(config, section, tok, mesh):
    """(About, params) of the model in `teacher.path` or `student.path`, for a run with the tokenizer `tok`.

    Raises ValueError, one line, for a model that does not fit, and for a damaged directory.
    """
    about, directory = read_about(config, section), config[section].path
    remedy = "take it with --config.tokenizer.path, or take another model"
    if about.path.text_vocab != tok.vocab_size:
        raise ValueError(
            f"{section}.path {directory} has {about.path.text_vocab} tokens, but the run's tokenizer {tok.vocab_size}: {remedy}"
        )
    if about.tokenizer not in (None, tok.content_hash):
        raise ValueError(
            f"{section}.path {directory} was trained with tokenizer {about.tokenizer[:12]}, but the run's is {tok.content_hash[:12]}: {remedy}"
        )
    return model_directory.read(directory, mesh)


def record(about):
    """What a stage records of a model that it loaded."""
    return {"path": str(about.directory), "name": about.name, "kind": about.kind, "hash": about.hash}
