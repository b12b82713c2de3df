"""The pieces that a sweep is put together from: lists of overrides, each a dict {dotted config key: value}.

`get_hyper(hyper)` of a config file is handed this module and returns such a list, a dict for each run:

    hyper.product([hyper.sweep("shaping.candidates", (2, 4)), hyper.sweep("shaping.tau", (0.0, 0.5))])
"""

import itertools


def sweep(key, values):
    """One key through several values: [{key: value}, …]; ValueError where `values` is no list, tuple or range."""
    if not isinstance(values, (list, tuple, range)):
        raise ValueError(f"hyper.sweep('{key}', {values!r}): the values must be a list, such as [{values!r}]")
    return [{key: value} for value in values]


class Named(dict):
    """One run's overrides under a name of its own, instead of one made of them."""

    name = ""


def named(name, overrides):
    """The overrides of a run that is called `name`."""
    entry = Named(overrides)
    entry.name = name
    return entry


def differing(name, base, config):
    """A run called `name` that turns the config `base` into `config`: every key whose value differs."""
    before = dict(_leaves(base))
    return named(name, {key: value for key, value in _leaves(config) if before[key] != value})


def _leaves(config, at=""):
    for key, value in config.items():
        if hasattr(value, "items"):
            yield from _leaves(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", value


def product(parts):
    """Every combination of one entry from each part, the last part turning fastest; ValueError where two set one key."""
    return [_merge(chosen) for chosen in itertools.product(*parts)]


def zipit(parts):
    """The first entries together, then the second ones, and so on; ValueError where the parts are not of one length."""
    lengths = [len(part) for part in parts]
    if len(set(lengths)) > 1:
        keys = "; ".join(", ".join(dict.fromkeys(key for entry in part for key in entry)) for part in parts)
        raise ValueError(f"hyper.zipit of {' and '.join(map(str, lengths))} entries ({keys}): give each as many values")
    return [_merge(chosen) for chosen in zip(*parts)]


def chainit(parts):
    """The entries of every part, one part after the other."""
    return list(itertools.chain.from_iterable(parts))


def _merge(entries):
    merged = {}
    for entry in entries:
        for key in entry:
            if key in merged:
                raise ValueError(f"the sweep sets {key} twice in one run ({merged[key]!r}, {entry[key]!r}): leave one out")
        merged |= entry
    return merged
