"""The methods: what each is made of, and where that is written. A config names its method with the key `method`.

To add one, write an entry in METHODS and what it names: the file of its keys, its stages, and the modules of its networks, its
validation, its inputs, its artefacts and its programs. Nothing else asks which method a run is of.
"""

import dataclasses
import importlib
from types import ModuleType

FIRST = "tsdfm"  # the method of a config without the key `method`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """A method, known by data and by the names of modules, which are imported when they are asked for.

    Attributes:
      name: the value of the key `method`.
      base: the file of configs/ that has every key of its configs once.
      order: its stages, in order; the last three are evaluate, report and sample.
      rounds: stages, neighbours in `order`, that alternate `config.rounds` times; with none, no stage is run twice.
      given: sections of the config whose key `path` may name a model to load instead of training it.
      stages: the package of its stages, each with `run(config, workdir, remake=False)`, after a round's number where it has rounds.
      networks: the module with `models(config)`, the names of the networks that are made, and `unneeded(config, stage)`, why a
        config does not need a stage, "" if it does.
      validation: the module with `RANGES`, a validation.Ranges, and `check(config)`; see validation.validate.
      inputs: the module with `check(config, workdir, stages)`, of the files that a config names.
      artefacts: the module of what its stages leave; see workspace.graph.
      programs: the module of its programs to compile ahead of time; see experiments.planning.aot_compile.
      benchmark: the module of its programs to time beside their bare passes; see experiments.benchmark.command.
    """

    name: str
    base: str
    order: tuple[str, ...]
    rounds: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    stages: str
    networks: str
    validation: str
    inputs: str
    artefacts: str
    programs: str
    benchmark: str

    def load(self, part: str) -> ModuleType:
        """One of its modules, by the name of the attribute, or a stage."""
        return importlib.import_module(f"{self.stages}.{part}" if part in self.order else getattr(self, part))

    def needs(self, config, stage: str) -> bool:
        """Whether a config of this method needs a stage."""
        return not self.load("networks").unneeded(config, stage)

    def plan(self, stages, rounds: int) -> list[tuple[str, tuple]]:
        """List the (stage, arguments) of the named stages, of all if none is named; those of `rounds` alternate.

        Raises ValueError, one line, for a name that is no stage of this method.
        """
        for name in stages:
            if not name:
                raise ValueError(
                    f"--stage={','.join(stages)} has an empty name: take out a comma, or add one of {', '.join(self.order)}"
                )
            if name not in self.order:
                others = [other.name for other in METHODS.values() if name in other.order]
                whose = f" (it is one of the method {others[0]}, and this config's is {self.name})" if others else ""
                raise ValueError(f"--stage={name} is not one of {', '.join(self.order)}{whose}")
        wanted = [name for name in self.order if not stages or name in stages]
        if not self.rounds:
            return [(name, ()) for name in wanted]
        first, last = self.order.index(self.rounds[0]), self.order.index(self.rounds[-1])
        before = [(name, ()) for name in wanted if self.order.index(name) < first]
        middle = [(name, (r,)) for r in range(rounds) for name in wanted if name in self.rounds]
        return before + middle + [(name, ()) for name in wanted if self.order.index(name) > last]


TSDFM = Method(
    name="tsdfm",
    base="base.py",
    order=(
        "tokenizer",
        "data",
        "judges",
        "teacher",
        "autoregressive",
        "compass",
        "trajectories",
        "student",
        "evaluate",
        "report",
        "sample",
    ),
    rounds=("trajectories", "student"),
    given=("teacher", "student"),
    stages="tsdfm_jax.stages",
    networks="tsdfm_jax.config.networks",
    validation="tsdfm_jax.config.tsdfm_validation",
    inputs="tsdfm_jax.config.inputs",
    artefacts="tsdfm_jax.workspace.tsdfm_artefacts",
    programs="tsdfm_jax.experiments.planning.tsdfm_programs",
    benchmark="tsdfm_jax.experiments.benchmark.parts",
)
NTM = Method(
    name="ntm",
    base="ntm_base.py",
    order=("images", "autoencoder", "flow_matching", "ntm", "denoiser", "evaluate", "report", "sample"),
    stages="tsdfm_jax.stages.ntm",
    networks="tsdfm_jax.config.ntm_networks",
    validation="tsdfm_jax.config.ntm_validation",
    inputs="tsdfm_jax.config.ntm_inputs",
    artefacts="tsdfm_jax.workspace.ntm_artefacts",
    programs="tsdfm_jax.experiments.planning.ntm_programs",
    benchmark="tsdfm_jax.experiments.benchmark.ntm_parts",
)
METHODS = {method.name: method for method in (TSDFM, NTM)}


def of(config) -> Method:
    """The Method of a config, a ConfigDict or a dict. Raises ValueError, one line, for one that there is not."""
    name = config.get("method", FIRST)
    if name not in tuple(METHODS):
        raise ValueError(f"method {name!r} is not one of {', '.join(METHODS)}: begin with {_bases()} of configs/")
    return METHODS[name]


def require(config, name: str, who: str) -> None:
    """Raise ValueError, in one line, where `who` (a command) is of one method and the config of another."""
    if (found := of(config).name) != name:
        raise ValueError(f"{who} is for configs of the method {name}, and this one is of {found}: give one that begins with "
                         f"configs/{METHODS[name].base}")  # fmt: skip


def _bases():
    return " or ".join(method.base for method in METHODS.values())
