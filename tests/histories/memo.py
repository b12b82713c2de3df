"""Traced programs kept for the life of this process, so that many small runs in it do not trace the same program again.

A run builds its jitted functions anew, from closures over its settings. Two functions with the same code and the same
content behind it, down to the bytes of arrays, are the same program: `installed` gives the second one the first one's.
"""

import collections
import contextlib
import dataclasses
import enum
import functools
import hashlib
import pathlib
import types

import jax
import ml_collections
import numpy as np

# Sections and keys of a config that no traced function reads: what it needs of them it is handed as an argument or a dataclass.
# `guarded` holds them to it.
UNREAD = ("tokenizer", "judges", "evaluate", "report", "sample", "models", "rounds", "seed", "log_every", "save_every")
UNREAD_KEYS = {"data": ("files", "package", "limit_bytes", "holdout"), "trajectories": ("count", "seed", "shard")}
PLAIN = (type(None), bool, int, float, complex, str, bytes, np.dtype, np.generic, enum.Enum, type)
HASHED = (
    jax.sharding.Sharding,
    jax.sharding.Mesh,
    jax.sharding.AbstractMesh,
    jax.sharding.PartitionSpec,
    types.BuiltinFunctionType,
)
UNKNOWN = collections.Counter()  # types that kept a program from being kept, for tuning


class Unknown(TypeError):
    """A value whose content this module cannot tell."""


def content(value, seen=()):
    """A hashable form of all that a function or value is made of; raises Unknown for what it cannot tell."""
    if id(value) in seen:
        return "cycle", seen.index(id(value))
    inner = functools.partial(content, seen=(*seen, id(value)))
    if isinstance(value, PLAIN):
        return type(value).__name__, value if value == value else repr(value)
    if isinstance(value, HASHED):
        return value
    if isinstance(value, (np.ndarray, jax.Array)):
        return array(value)
    if isinstance(value, jax.ShapeDtypeStruct):
        return "shape", value.shape, value.dtype, value.sharding
    if isinstance(value, ml_collections.ConfigDict):
        return settings(value)
    if isinstance(value, dict) or type(value).__name__ in ("FrozenDict", "mappingproxy"):
        return type(value).__name__, tuple((inner(k), inner(v)) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return type(value).__qualname__, tuple(map(inner, value))
    if isinstance(value, (set, frozenset)):
        return "set", frozenset(map(inner, value))
    if isinstance(value, functools.partial):
        return "partial", inner(value.func), inner(value.args), inner(value.keywords)
    if isinstance(value, types.MethodType):
        return "method", inner(value.__func__), inner(value.__self__)
    if isinstance(value, types.FunctionType):
        return function(value, inner)
    if isinstance(value, types.ModuleType):
        return "module", value.__name__
    if isinstance(value, pathlib.Path):
        return "path", str(value)
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value) if field.name not in ("parent", "name")]
        return type(value), tuple((name, inner(getattr(value, name))) for name in names)
    return other(value)


def other(value):
    """The content of a jitted function of JAX itself, or of another object that lives as long as the process."""
    if hasattr(value, "content_hash"):  # a tokenizer
        return type(value), value.content_hash
    wrapped = getattr(value, "__wrapped__", None)
    if wrapped is not None and getattr(wrapped, "__module__", "").startswith(("jax", "flax", "optax")):
        return "jitted", id(value)
    UNKNOWN[type(value).__qualname__] += 1
    raise Unknown(type(value).__qualname__)


def array(value):
    """Shape, type, place and bytes of an array; tracers and arrays of random keys are unknown."""
    if isinstance(value, jax.core.Tracer) or jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended):
        UNKNOWN["tracer"] += 1
        raise Unknown("tracer")
    sharding = value.sharding if isinstance(value, jax.Array) else None
    return "array", value.shape, value.dtype, sharding, hashlib.sha256(np.asarray(value).tobytes()).digest()


def settings(config):
    """The values of a config that traced functions read."""
    values = config.to_dict()
    for name in UNREAD:
        values.pop(name, None)
    for section, names in UNREAD_KEYS.items():
        for name in names:
            values.get(section, {}).pop(name, None)
    return "config", repr(values)


def function(value, inner):
    """Code, defaults and closure of a function; globals are modules and constants, the same in the whole process."""
    try:
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
    except ValueError:
        raise Unknown("empty cell") from None
    return "function", value.__code__, inner(value.__defaults__), inner(value.__kwdefaults__), tuple(map(inner, cells))


def guarded(fun):
    """The same function, which raises AssertionError where it reads a key of a config that `settings` leaves out."""
    unread = {*UNREAD, *(name for names in UNREAD_KEYS.values() for name in names)}

    @functools.wraps(fun)
    def traced(*args, **kwargs):
        plain = ml_collections.ConfigDict.__getitem__

        def read(config, key):
            assert key not in unread, f"a traced function reads the key {key}: take it out of UNREAD"
            return plain(config, key)

        ml_collections.ConfigDict.__getitem__ = read
        try:
            return fun(*args, **kwargs)
        finally:
            ml_collections.ConfigDict.__getitem__ = plain

    return traced


@contextlib.contextmanager
def installed():
    """While the block runs, `jax.jit` and `jax.eval_shape` keep what they traced for functions of the package."""
    jit, eval_shape, kept, shapes = jax.jit, jax.eval_shape, {}, {}

    def kept_jit(fun=None, **options):
        if not ours(fun):
            return jit(fun, **options) if fun is not None else jit(**options)
        try:
            key = content((fun, options))
            hash(key)
        except Unknown:
            return jit(fun, **options)
        if key not in kept:
            kept[key] = jit(guarded(fun), **options)
        return kept[key]

    def kept_eval_shape(fun, *args, **kwargs):
        if not ours(fun):
            return eval_shape(fun, *args, **kwargs)
        try:
            key = content((fun, args, kwargs))
            hash(key)
        except Unknown:
            return eval_shape(fun, *args, **kwargs)
        if key not in shapes:
            shapes[key] = eval_shape(guarded(fun), *args, **kwargs)
        return shapes[key]

    jax.jit, jax.eval_shape = kept_jit, kept_eval_shape
    try:
        yield kept
    finally:
        jax.jit, jax.eval_shape = jit, eval_shape


def ours(fun):
    """Whether a function, below its wrappers, is one of the package."""
    while isinstance(fun, functools.partial) or hasattr(fun, "__wrapped__"):
        fun = fun.func if isinstance(fun, functools.partial) else fun.__wrapped__
    return (getattr(fun, "__module__", None) or "").startswith("tsdfm_jax")
