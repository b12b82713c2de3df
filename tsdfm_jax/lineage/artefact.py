"""What a stage leaves in one directory, and all that it is made of; its identity is a hash of that, as a build system's action key."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any


def digest(value: Any) -> str:
    """The sha256, in hex, of a value as canonical JSON; raises ValueError for a number that is not finite."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Artefact:
    """What an artefact should be made of. It says nothing of what is on disk.

    Attributes:
      name: its directory below the work directory, such as student/shaped/round_0.
      stage: the stage that makes it.
      keys: {config key: value} of the keys that its result depends on, as plain JSON.
      sources: {what: identity} of what it reads from outside the work directory, such as the corpus.
      inputs: the artefacts that it is made from, by name.
      figures_of: artefacts that its figures alone depend on. Nothing that is made from this artefact depends on them.
      figure_keys: {config key: value} of the keys that its figures alone depend on.
      additions: {key: value} that add to the result and make nothing of it wrong, such as further judges.
    """

    name: str
    stage: str
    keys: Mapping[str, Any]
    sources: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    inputs: Mapping[str, "Artefact"] = dataclasses.field(default_factory=dict)
    figures_of: Mapping[str, "Artefact"] = dataclasses.field(default_factory=dict)
    figure_keys: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    additions: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def identity(self) -> str:
        """A hash of its name and keys, of its sources, and of the identities of its inputs."""
        inputs = {name: artefact.identity for name, artefact in self.inputs.items()}
        return digest([self.name, self.keys, self.sources, inputs])

    @property
    def all_inputs(self) -> dict[str, "Artefact"]:
        """The artefacts that must be whole before this one is made."""
        return {**self.inputs, **self.figures_of}


def differences(old: Any, new: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted key, old, new) for every difference of two nested dicts; a key that one of them lacks is "(unset)" there."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        if old != new:
            yield prefix, old, new
        return
    for key in [*old, *(k for k in new if k not in old)]:
        dotted_key = f"{prefix}.{key}" if prefix else str(key)
        yield from differences(old.get(key, "(unset)"), new.get(key, "(unset)"), dotted_key)


def short(value: Any, limit: int = 60) -> str:
    """A value for a message."""
    text = value if isinstance(value, str) and value else json.dumps(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
