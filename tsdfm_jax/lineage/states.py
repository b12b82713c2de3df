"""Whether what stands on disk is what it should be: whole, missing, damaged, or stale and why."""

import dataclasses
import enum
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from tsdfm_jax.lineage import bookkeeping, stamps
from tsdfm_jax.lineage.artefact import Artefact, differences, short


class Kind(enum.Enum):
    """What an artefact on disk is. Only a stale one is something that a user may want to keep."""

    DONE = "done"
    MISSING = "not made yet"
    UNFINISHED = "unfinished"
    DAMAGED = "damaged"
    MORE = "more is asked for"
    EARLIER = "of an earlier version"
    STALE = "stale"


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """The state of one artefact.

    Attributes:
      artefact: what it should be.
      kind: what it is.
      reasons: why it is stale, damaged or has more to do, one phrase for each cause.
      because: names of the artefacts whose change makes this one stale; empty where the cause is its own.
      record: its done.json, None unless it is finished.
      remeasured: whether it is stale in its figures alone, so that nothing made from it is.
    """

    artefact: Artefact
    kind: Kind
    reasons: tuple[str, ...] = ()
    because: tuple[str, ...] = ()
    record: Mapping[str, Any] | None = None
    remeasured: bool = False

    @property
    def content(self) -> str | None:
        """The hash of its content, None if that is not known before it is made."""
        known = self.kind in (Kind.DONE, Kind.MORE) or self.remeasured
        return self.record["content"] if known and self.record else None


def state(root: pathlib.Path, artefact: Artefact, inputs: Mapping[str, State], verify: bool = True, restamp: bool = False) -> State:
    """The state of an artefact below `root`; `inputs` are the states of those that it is made from, by name.

    With `verify` the files of a finished one are looked at: their times and sizes, and the bytes of those that differ. With
    `restamp` those that have another time and the same bytes need not be read again.
    """
    directory = root / artefact.name
    record = bookkeeping.done(directory)
    recorded = record or bookkeeping.begun(directory)
    if recorded is None:
        return State(artefact=artefact, kind=Kind.MISSING)
    about = dict(artefact=artefact, record=record)
    own = tuple(_own_changes(artefact, recorded))
    if "made_of" not in recorded:  # what it was made of is not known: adopted elsewhere, if all that is known agrees
        kind = Kind.STALE if own else Kind.UNFINISHED if record is None else Kind.EARLIER
        return State(kind=kind, reasons=own, **about)
    because, reasons = _input_changes(artefact.inputs, recorded["made_of"]["inputs"], inputs)
    if not (own or because or reasons or artefact.additions or recorded["identity"] == artefact.identity):
        reasons = ("inputs of another artefact",)
    if own or because or reasons:
        return State(kind=Kind.STALE, reasons=(*own, *reasons), because=because, **about)
    because, reasons = _input_changes(artefact.figures_of, recorded["made_of"]["figures_of"], inputs)
    reasons = (*_changes(recorded["made_of"]["figure_keys"], artefact.figure_keys), *reasons)
    if because or reasons:
        return State(kind=Kind.STALE, reasons=reasons, because=because, remeasured=record is not None, **about)
    if record is None:
        return State(kind=Kind.UNFINISHED, **about)
    if verify:
        problem, restamped = stamps.fault(root, record["files"])
        if problem:
            return State(kind=Kind.DAMAGED, reasons=(problem,), **about)
        if restamped and restamp:
            bookkeeping.restamp(directory, record)
    more = tuple(_changes(recorded["made_of"]["additions"], artefact.additions))
    return State(kind=Kind.MORE if more else Kind.DONE, reasons=more, **about)


def not_adopted(earlier: State) -> State:
    """The state of what an earlier version made, where something on disk says that it does not fit."""
    return dataclasses.replace(
        earlier, kind=Kind.STALE, reasons=("inputs that do not fit what is here now, by an earlier version",)
    )


def _own_changes(artefact, recorded):
    """Phrases for what differs in keys and sources."""
    if "made_of" in recorded:
        yield from _changes(recorded["fingerprint"], artefact.keys)
        yield from _changes(recorded["made_of"]["sources"], artefact.sources)
    else:
        yield from earlier_changes(artefact, recorded["fingerprint"])


def earlier_changes(artefact: Artefact, fingerprint: Mapping[str, Any]) -> Iterator[str]:
    """Phrases for the keys of an artefact of an earlier version, which knew fewer keys or more, that differ."""
    for key, was, now in differences(fingerprint, artefact.keys):
        if "(unset)" not in (was, now):
            yield f"{key}={short(was)}, but the config now says {short(now)}"
    for key, now in artefact.figure_keys.items():
        section, _, name = key.partition(".")
        if (was := fingerprint.get(section, {}).get(name, now)) != now:
            yield f"{key}={short(was)}, but the config now says {short(now)}"


def _changes(old, new):
    old_and_new = [(key, was, now) for key, was, now in differences(old, new)]
    files = [change for change in old_and_new if change[0].startswith("files.")]
    if len(files) > 3:
        yield f"other data: {len(files)} files differ, such as {files[0][0].removeprefix('files.')}"
        old_and_new = [change for change in old_and_new if change not in files]
    for key, was, now in old_and_new:
        if key.startswith("files."):
            words = "is new" if was == "(unset)" else "is gone" if now == "(unset)" else "has changed"
            yield f"other data: {key.removeprefix('files.')} {words}"
        else:
            yield f"{key}={short(was)}, but the config now says {short(now)}"


def _input_changes(wanted, recorded, states) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(names of the inputs that are or will be others than those it was made of, phrases for those that changed unseen)."""
    because, reasons = [], []
    for name, artefact in wanted.items():
        if name not in recorded:
            continue  # a further model: more to do, which `additions` say
        identity, content, keys = recorded[name]
        now = states[name]
        if now.kind is Kind.STALE and not now.remeasured:
            because.append(name)
        elif identity != artefact.identity and now.content is None:
            changes = list(_changes(keys, artefact.keys))
            reasons.append(f"another {name} than this config makes" + (f" ({', '.join(changes[:3])})" if changes else ""))
        elif identity != artefact.identity or content is not None and now.content not in (None, content):
            reasons.append(f"another {name} than the one that is here now")
    return tuple(because), tuple(reasons)


def roots(states: Mapping[str, State], names) -> Iterator[State]:
    """The stale states among `names` and their inputs whose cause is their own, each once."""
    seen = set()
    stack = list(names)
    while stack:
        name = stack.pop(0)
        if name in seen or name not in states:
            continue
        seen.add(name)
        if states[name].kind is Kind.STALE and states[name].reasons:
            yield states[name]
        stack += states[name].because
