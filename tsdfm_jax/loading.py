"""A trained run as an object that writes text: `load("runs/quickstart").sample("My fellow citizens", steps=8)`."""

import json
import pathlib

from ml_collections import ConfigDict

from tsdfm_jax import prompts, sampling, settings
from tsdfm_jax.runtime import mesh as meshes

SECTIONS = ("data", "flow", "model", "student", "teacher", "tokenizer")


def load(directory, model="student_shaped", mesh=None):
    """A model of a run, ready to write.

    `directory` is the run's work directory, `model` one of teacher, student_shaped and student_blind, `mesh` a mesh of
    `runtime.mesh.make_mesh`: all devices along `data` unless given, whatever mesh the model was trained on.
    Raises ValueError, in one line, for a directory that is no run, a model that is not finished, and an unknown name.
    """
    settings.choose("model", model, settings.MODELS)
    directory = pathlib.Path(directory)
    config = stored_config(directory)
    mesh = meshes.make_mesh(meshes.MeshConfig()) if mesh is None else mesh
    meshes.require_positions(config.data.length, mesh, "data.length")
    return Model(f"{model} of {directory}", sampling.writer(config, directory, mesh, model))


def stored_config(directory):
    """The config that a run's stages were made with. Raises ValueError where there is none."""
    file = directory / "config.json"
    try:
        values = json.loads(file.read_text())
    except OSError:
        raise ValueError(f"{directory} is no work directory of a run: there is no {file} (give the --workdir of one)") from None
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}): run any stage in {directory} again, and it is written anew") from None
    if not isinstance(values, dict) or not all(isinstance(values.get(name), dict) for name in SECTIONS):
        raise ValueError(f"{file} is not the config of a run: it must have {', '.join(SECTIONS)} (give the --workdir of one)")
    return ConfigDict(values)


class Model:
    """A trained model; `load` makes it.

    Attributes:
      name: which one, and of which run.
      length: symbols of its longest text.
      tokenizer: its tokenizer.
      hash: content hash of its weights.
    """

    def __init__(self, name, write):
        self.name, self._write = name, write
        self.length, self.tokenizer, self.hash = write.length, write.tokenizer, write.hash

    def __repr__(self):
        return f"Model({self.name}: up to {self.length} symbols)"

    def sample(
        self,
        prompt="",
        *,
        suffix="",
        infill=None,
        span="____",
        span_length=8,
        steps=8,
        number=1,
        temperature=1.0,
        top_p=1.0,
        seed=0,
        length=None,
        states=False,
        batch=64,
    ):
        """Texts, as a list of `number` sampling.Sample, each of which prints as its text.

        Given text stays as it is: `prompt` at the beginning, `suffix` at the end, or `infill` with a marker `span` for every
        `span_length` symbols to be written. `length` counts symbols (None: as many as the model writes). Text i is a function
        of (seed, i): not of `number`, nor of `batch`, the texts computed at once. With `states` each Sample keeps its text
        of every step. A call compiles only where temperature, top_p or the batch's size are new.
        Raises ValueError, in one line, for what cannot be written.
        """
        prompts.check_whole("steps", steps, 1)
        prompts.check_whole("batch", batch, 1)
        ask = prompts.Ask(
            prompt=prompt,
            suffix=suffix,
            infill=infill or "",
            span=span,
            span_length=span_length,
            length=0 if length is None else length,
            number=number,
            seed=seed,
        )
        wanted = [prompts.request(self.tokenizer, ask, self.length)]
        return self._write(wanted, steps, temperature=temperature, top_p=top_p, batch=batch, states=states)
