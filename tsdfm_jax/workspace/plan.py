"""The state of a work directory under a config: what is whole, what is stale and why, and what a run would make."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Mapping

from tsdfm_jax.lineage import bookkeeping, drafts, stamps
from tsdfm_jax.lineage.states import Kind, State, not_adopted, roots, state
from tsdfm_jax.workspace import adoption, graph, sources

SOURCES = "sources.json"  # the hashes of files outside the work directory, so that none is read twice


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The state of a work directory under a config.

    Attributes:
      workdir: the directory.
      states: the state of each artefact by name, each after those that it is made from.
      adopted: the artefacts of an earlier version of the code that were adopted just now.
    """

    workdir: pathlib.Path
    states: Mapping[str, State]
    adopted: tuple[str, ...] = ()

    def named(self, stages: Iterable[str]) -> list[str]:
        """The artefacts that some stages make, in order."""
        stages = tuple(stages)
        return [name for name, one in self.states.items() if one.artefact.stage in stages]

    def wanted(self, config, stages: Iterable[str]) -> list[str]:
        """The artefacts that some stages make or read, in order; of all stages if none is named."""
        read = graph.sampled(config) if "sample" in stages else ()
        return [name for name in self.states if not stages or name in read or name in self.named(stages)]

    def stale(self, names: Iterable[str]) -> list[str]:
        """The stale ones among these artefacts and all that they are made from, in order; a stale page is simply written anew."""
        made = {name: one.artefact for name, one in self.states.items()}
        stale = [name for name in graph.upstream(made, names) if self.states[name].kind is Kind.STALE]
        return [name for name in stale if made[name].stage != "report"]

    def require(self, name: str) -> None:
        """Raise ValueError, in one line, unless an artefact is whole and is what the config makes."""
        one = self.states[name]
        if one.kind is Kind.STALE:
            raise ValueError(self.refusal([name]))
        if one.kind is Kind.MORE and one.artefact.stage != "report":
            raise ValueError(f"{self.workdir / name} has less than is asked for ({one.reasons[0]}): run --stage={name} first")
        if one.kind is Kind.DAMAGED:
            where, stage = self.workdir / name, one.artefact.stage
            raise ValueError(f"{where} is damaged ({one.reasons[0]}): run --stage={stage}, and it is made again")
        if one.record is None:
            raise ValueError(f"{self.workdir / name} is unfinished: run --stage={one.artefact.stage} first")

    def stages(self, names: Iterable[str]) -> list[str]:
        """The stages that make these artefacts, in order, each once."""
        return list(dict.fromkeys(self.states[name].artefact.stage for name in names))

    def refusal(self, names: Iterable[str]) -> str:
        """Why stale artefacts stop a run, and the remedies, in one line; "" if none is stale."""
        stale = self.stale(names)
        if not stale:
            return ""
        causes = {}
        for one in roots(self.states, stale):
            causes.setdefault(one.reasons, {}).setdefault(one.artefact.stage, []).append(one.artefact.name)
        told = [self._phrase(reasons, by_stage) for reasons, by_stage in causes.items()]
        artefacts = {name: one.artefact for name, one in self.states.items()}
        remade = [name for name in graph.upstream(artefacts, names) if self.states[name].kind is Kind.STALE]
        ended = [one.record["figures"].get("seconds", 0) for name in remade if (one := self.states[name]).record]
        cost = f", {_time(sum(ended))} by their last times" if ended else ""
        return (
            f"{_listed(told, '; ')}. --remake makes again what depends on it, and nothing else "
            f"({', '.join(self.stages(remade))}{cost}); another --workdir leaves this one as it is"
        )

    def _phrase(self, reasons, by_stage):
        """What some artefacts were made with, {stage: names}."""
        places = [str(self.workdir / _common(names)) for names in by_stage.values()]
        return f"{_listed(places)} {'was' if len(places) == 1 else 'were'} made with {_listed(reasons)}"


def _common(names):
    """The one name, or the folder that all names have in common."""
    return names[0] if len(names) == 1 else os.path.commonpath(names)


def _listed(parts, separator=", "):
    parts = list(parts)
    return separator.join(parts[:3]) + (f" and {len(parts) - 3} more" if len(parts) > 3 else "")


def _time(seconds):
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def make(config, workdir, *, change: bool = True) -> Plan:
    """Look at a work directory as a config would have it.

    With `change`, for the holder of its lock, it ends what a kill cut short, adopts what an earlier version of the code made,
    and remembers the hashes of files.
    """
    workdir = pathlib.Path(workdir)
    memory = stamps.Memory(workdir / SOURCES)
    artefacts = graph.artefacts(config, lambda name, stage: read_sources(config, workdir, memory, name, stage))
    if change:
        for name, artefact in artefacts.items():
            drafts.recover(workdir, name, artefact.identity)
        memory.save()
    states, adopted = {}, []
    for name, artefact in artefacts.items():
        if record := adoption.record_of(config, workdir, artefact, states):
            adopted.append(name)
            if not change:
                states[name] = State(artefact=artefact, kind=Kind.DONE, reasons=("by an earlier version",), record=record)
                continue
            adoption.adopt(workdir, artefact, record)
        found = state(workdir, artefact, states, restamp=change)
        states[name] = not_adopted(found) if found.kind is Kind.EARLIER else found
    return Plan(workdir=workdir, states=states, adopted=tuple(adopted))


def read_sources(config, workdir, memory, name, stage):
    """What an artefact reads from outside; of what is no longer there, what was recorded when it was made."""
    kept = recorded_sources(config, workdir, name)
    try:
        found = sources.of(config, stage, memory, name)
    except FileNotFoundError:
        if not kept:
            raise
        return kept
    return {what: kept.get(what) if now is None else now for what, now in found.items()}


def recorded_sources(config, workdir, name):
    """What an artefact on disk says that it read from outside; empty if it does not say."""
    record = bookkeeping.done(workdir / name) or bookkeeping.begun(workdir / name) or {}
    about = record.get("made_of", {})
    return about.get("sources") or {
        k: v for k, v in about.get("additions", {}).items() if k.startswith(graph.of_method(config).ADDED)
    }


def of_artefact(config, workdir, name: str, *, look: bool) -> Plan:
    """The state of one artefact and of all that it is made from, by their records.

    `look` says whether it is to be made: then its sources outside, its files and those of its inputs are looked at, and
    ValueError is raised for the first of its inputs that is not whole.
    """
    workdir = pathlib.Path(workdir)
    memory = stamps.Memory(workdir / SOURCES)

    def read(one, stage):
        return read_sources(config, workdir, memory, one, stage) if look and one == name else recorded_sources(config, workdir, one)

    made, states = graph.artefacts(config, read), {}
    for one in graph.upstream(made, [name]):
        states[one] = state(workdir, made[one], states, verify=look and one in (name, *made[name].all_inputs))
    memory.save()
    if look and states[name].kind is Kind.EARLIER:
        states[name] = not_adopted(states[name])
    found = Plan(workdir=workdir, states=states)
    for one in made[name].all_inputs if look else ():
        found.require(one)
    return found
