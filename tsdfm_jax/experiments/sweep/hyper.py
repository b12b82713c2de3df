"""Functions to compose a sweep: lists of overrides, each a dict {dotted config key: value}.

`get_hyper(hyper)` of a config file gets this module and returns such a list, one dict a run:

    hyper.product([hyper.sweep("shaping.candidates", (2, 4)), hyper.sweep("shaping.tau", (0.0, 0.5))])
"""

import itertools


def sweep(key, values):
    """One key through several values: [{key: value}, …]; ValueError if `values` is no list, tuple or range."""
    if not isinstance(values, (list, tuple, range)):
        raise ValueError(f"hyper.sweep('{key}', {values!r}): the values must be a list, such as [{values!r}]")
    return [{key: value} for value in values]


class Named(dict):
    """One run's overrides with an explicit name, instead of a name made of the overrides."""

    name = ""


def named(name, overrides):
    """The overrides of a run named `name`."""
    entry = Named(overrides)
    entry.name = name
    return entry


def differing(name, base, config):
    """The overrides of a run named `name` that turn the config `base` into `config`: every key with another value."""
    before = dict(_leaves(base))
    return named(name, {key: value for key, value in _leaves(config) if before[key] != value})


def _leaves(config, prefix=""):
    for key, value in config.items():
        if hasattr(value, "items"):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def product(parts):
    """Every combination of one entry from each part; the last part varies fastest. ValueError if two entries set one key."""
    return [_merge(chosen) for chosen in itertools.product(*parts)]


def zipit(parts):
    """Merge the first entries, then the second ones, and so on; ValueError if the parts differ in length."""
    lengths = [len(part) for part in parts]
    if len(set(lengths)) > 1:
        keys = "; ".join(", ".join(dict.fromkeys(key for entry in part for key in entry)) for part in parts)
        raise ValueError(f"hyper.zipit of {' and '.join(map(str, lengths))} entries ({keys}): give each as many values")
    return [_merge(chosen) for chosen in zip(*parts)]


def chainit(parts):
    """The entries of all parts, one part after the other."""
    return list(itertools.chain.from_iterable(parts))


def _merge(entries):
    merged = {}
    for entry in entries:
        for key in entry:
            if key in merged:
                raise ValueError(f"the sweep sets {key} twice in one run ({merged[key]!r}, {entry[key]!r}): leave one out")
        merged |= entry
    return merged
