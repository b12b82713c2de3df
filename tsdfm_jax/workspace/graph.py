"""The artefacts of a run: what each stage leaves, of which keys, sources and earlier artefacts it is made.

What they are, the method's module of artefacts says (methods.Method.artefacts):

  KEYS            {stage: the config keys that its result depends on, beside those of the stages before it}, in order
  NEEDED          sections that the config of any of its runs has
  ADDED           beginnings of the names of sources that add to a result and make nothing of it wrong
  CONTENTS        {stage: content(directory, figures)}, where the hash of what others read is more than figures["hash"]
  EVIDENCE        {stage: contradicts(config, workdir, artefact, states)} of artefacts without an identity, which an earlier version
                  of the code made; None where no version made such
  artefacts(config, chain)               adds all artefacts of a config to a Chain
  directories(config, stage)             names of the artefacts that a stage makes, in order, without a look at any file
  stage_keys(config, stage)              all keys that what a stage makes depends on under this config
  model_directory(config, model)         the directory of a model of the config
  sampled(config)                        the artefacts that stage `sample` reads, as far as what they are made of does not say it
  sources(config, stage, memory, name)   see sources.of
"""

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

from tsdfm_jax.config import methods
from tsdfm_jax.lineage.artefact import Artefact

Sources = Callable[[str, str], Mapping[str, Any]]


class Chain:
    """The artefacts of a config, each after those that it is made from.

    Attributes:
      made: {name: Artefact}.
    """

    def __init__(self, config, sources: Sources):
        self.made: dict[str, Artefact] = {}
        self._config, self._sources = config, sources

    def add(self, name, stage, inputs=(), *, keys=None, additions=None, figures_of=(), figure_keys=()):
        """Add the artefact `name` of a stage; `inputs` and `figures_of` are names of earlier ones, `keys` its stage's by default."""
        read = self._sources(name, stage)
        keys = fingerprint(self._config, stage) if keys is None else keys
        # What an evaluation reads from outside adds rows to its table, and makes no row wrong.
        about = {"sources": read} if additions is None else {"additions": {**additions, **read}}
        about |= {"inputs": {one: self.made[one] for one in inputs}, "figures_of": {one: self.made[one] for one in figures_of}}
        self.made[name] = Artefact(name=name, stage=stage, keys=keys, figure_keys=dict(figure_keys), **about)


def value_of(config, key):
    """The value of a dotted key, or of a section, as plain JSON."""
    value = functools.reduce(lambda node, part: node[part], key.split("."), config)
    return json.loads(json.dumps(value.to_dict() if hasattr(value, "to_dict") else value))


def values_of(config, keys):
    """{dotted key: its value}."""
    return {key: value_of(config, key) for key in keys}


def of_method(config):
    """The method's module of artefacts."""
    return methods.of(config).load("artefacts")


def stages(config):
    """The stages that have keys of their own, in order: those that make what later ones read."""
    return tuple(of_method(config).KEYS)


def fingerprint(config, stage):
    """The values of the keys that a stage's result depends on, as plain JSON."""
    return values_of(config, of_method(config).KEYS[stage])


def stage_keys(config, stage):
    """All keys that what a stage makes depends on under this config, as plain JSON; at least its `fingerprint`."""
    return of_method(config).stage_keys(config, stage)


def artefacts(config, sources: Sources) -> dict[str, Artefact]:
    """All artefacts of a config by name, each after those that it is made from.

    `sources(name, stage)` gives {what: identity} of what an artefact reads from outside the work directory.
    """
    chain = Chain(config, sources)
    of_method(config).artefacts(config, chain)
    return chain.made


def model_directory(config, model):
    """The directory of a model of the config."""
    return of_method(config).model_directory(config, model)


def sampled(config):
    """The artefacts that stage `sample` reads."""
    return of_method(config).sampled(config)


def directories(config, stage):
    """Names of the artefacts that a stage makes, in order, without a look at any file."""
    return of_method(config).directories(config, stage)


def upstream(made: Mapping[str, Artefact], names) -> list[str]:
    """These artefacts and all that they are made from, in order."""
    wanted, stack = set(), list(names)
    while stack:
        name = stack.pop()
        if name not in wanted:
            wanted.add(name)
            stack += made[name].all_inputs
    return [name for name in made if name in wanted]
