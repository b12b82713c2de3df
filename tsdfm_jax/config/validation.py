"""Checks of every key of a config before anything is computed: one line for the first error.

What holds for the keys of every method is here; each method has its own ranges and checks, see methods.Method.validation.
"""

import dataclasses
import difflib
import functools
import importlib.util
from collections.abc import Callable, Mapping

from tsdfm_jax.config import command_line, methods, settings
from tsdfm_jax.flow import sampler
from tsdfm_jax.runtime import mesh as meshes

KINDS = {bool: "True or False", float: "a number", str: "text, in quotes", tuple: "a tuple"}
TINY, HUGE = sampler.TINY, sampler.HUGE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranges:
    """What the values of a method's keys may be, beside their kinds, which are those of the defaults.

    Whole numbers are at least 1 and at most settings.LARGEST_INTEGER; other numbers 0, or of a size from TINY to HUGE.

    Attributes:
      minimum: {key, or its end: the least whole number}, where that is not 1.
      maximum: {key: the largest whole number}, where that is not settings.LARGEST_INTEGER.
      flags: keys that are True or False, and tuples that `check` of the method looks at.
      multiline: keys of text that may have several lines.
      tuples: {end of a key: check(key, value)} of tuples of numbers that are not whole.
    """

    minimum: Mapping[str, int]
    maximum: Mapping[str, int]
    flags: tuple[str, ...]
    multiline: tuple[str, ...] = ()
    tuples: Mapping[str, Callable[[str, tuple], None]] = dataclasses.field(default_factory=dict)


def validate(config):
    """Check every key of a config before anything is computed; raises ValueError, one line, for the first error."""
    check_keys(config)
    check_values(config)
    methods.of(config).load("validation").check(config)


@functools.cache
def base(file):
    """{dotted key: default} of a file of configs/ that has every key of a method."""
    spec = importlib.util.spec_from_file_location(f"{file.removesuffix('.py')}_config", command_line.CONFIGS / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(leaves(module.get_config()))


def check_keys(config):
    """Check that a config has the keys of its method's base and no others, with values of the same kind."""
    given, file = dict(leaves(config)), methods.of(config).base
    known = base(file)
    for key in given.keys() - known.keys():
        nearest = difflib.get_close_matches(key, known, 1)
        raise ValueError(f"{key} is no key of configs/{file}" + (f": is it {nearest[0]}?" if nearest else ": take it out"))
    for key, default in known.items():
        if key not in given:
            raise ValueError(
                f"the config has no {key}: begin with {file.removesuffix('.py')}.get_config() of configs/{file}, and change that"
            )
        value, kind = given[key], type(default)
        fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
        if value is not None and not fits and (kind in KINDS or isinstance(value, (str, bool, float))):
            raise ValueError(f"{key} {value!r} must be {KINDS.get(kind, 'a whole number')}")


def leaves(section, prefix=""):
    """Yield every (dotted key, value) of a config."""
    for name, value in section.items():
        if hasattr(value, "items"):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def check_values(config):
    """Check what must hold for every key by itself: it has a value, a string is one line, a number is in its range."""
    ranges = methods.of(config).load("validation").RANGES
    for key, value in leaves(config):
        check_value(key, value, ranges)


def check_value(key, value, ranges):
    """Check the value of one key."""
    if value is None:
        raise ValueError(f"{key} has no value: leave it out, and it has its default")
    if isinstance(value, str) and key not in ranges.multiline and len(value.splitlines()) > 1:
        raise ValueError(f"{key} {value!r} must be one line")
    if isinstance(value, str) or key in ranges.flags:
        return
    for end, check in ranges.tuples.items():
        if key.endswith(end):
            return check(key, value)
    minimum = next((minimum for name, minimum in ranges.minimum.items() if f".{key}.".endswith(f".{name}.")), 1)
    maximum = ranges.maximum.get(key, settings.LARGEST_INTEGER)
    for x in value if isinstance(value, tuple) else (value,):
        if isinstance(x, float) and not isinstance(value, tuple):
            if x != 0 and not TINY <= abs(x) <= HUGE:
                raise ValueError(f"{key} {x} must be 0 or a number of a size from {TINY} to {HUGE}")
        elif type(x) is not int or not minimum <= x <= maximum:
            raise ValueError(f"{key} {value!r} must be a whole number, at least {minimum} and at most {maximum:,}")


def check_divides(config, name, device_mesh):
    """Check that the batch of a section that trains a network splits over devices and microbatches."""
    section = functools.reduce(lambda node, part: node[part], name.split("."), config)
    meshes.require_divides(section.batch, device_mesh, f"{name}.batch")
    parts = section.optimiser.accumulate * meshes.batch_devices(device_mesh)
    if section.batch % parts:
        raise ValueError(
            f"{name}.batch={section.batch} is not divisible by {name}.optimiser.accumulate={section.optimiser.accumulate} on "
            f"{meshes.batch_devices(device_mesh)} devices: take a multiple of {parts}"
        )
