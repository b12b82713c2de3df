"""A stage's bookkeeping on disk: the config that it began with, and the numbers that it finished with."""

import json
import pathlib

from tsdfm_jax.storage import atomic

DONE = "done.json"
FINGERPRINT = "fingerprint.json"
SECONDS = "seconds.json"  # seconds that the stage has run so far, and how many of them went into compiling


def begin(directory, fingerprint):
    """Make a stage's directory and note the config that it begins with; return its numbers if it is already finished, else None.

    `fingerprint` is a nested dict of the config keys that the stage's result depends on. Raises ValueError where the
    directory was begun or finished with other values.
    """
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if {file.name for file in directory.iterdir()} <= {FINGERPRINT, SECONDS}:
        (directory / FINGERPRINT).unlink(missing_ok=True)  # nothing is made yet: a mistyped config must not block the right one
    check(directory, fingerprint)
    finished = done(directory)
    if finished is not None:
        return finished["figures"]
    if not (directory / FINGERPRINT).exists():
        atomic.overwrite(directory / FINGERPRINT, json.dumps(fingerprint, indent=1))
    return None


def done(directory):
    """Read a finished stage's done.json, {"fingerprint", "figures"}; None if it is unfinished."""
    return _read(pathlib.Path(directory) / DONE)


def finish(directory, fingerprint, figures):
    """Mark a stage as finished: later runs skip it, and the stages after it may read its directory."""
    atomic.overwrite(pathlib.Path(directory) / DONE, json.dumps({"fingerprint": fingerprint, "figures": figures}, indent=1))


def check(directory, fingerprint):
    """Raise ValueError, naming the first key that differs, where a stage was begun or finished with another config."""
    directory = pathlib.Path(directory)
    finished = done(directory)
    recorded = finished["fingerprint"] if finished is not None else _read(directory / FINGERPRINT)
    if recorded is None:
        return
    current = json.loads(json.dumps(fingerprint))  # tuples become lists, as they did in the file
    for key, old, new in _differences(recorded, current, ""):
        raise ValueError(
            f"{directory} was made with {key}={old}, but the config now says {new}: use another --workdir, or delete that directory"
        )


def require(directory, stage_name):
    """Return the numbers of an earlier stage; raise ValueError if it is unfinished."""
    finished = done(directory)
    if finished is None:
        raise ValueError(f"{directory} is unfinished: run --stage={stage_name} first")
    return finished["figures"]


def _read(path):
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): delete it, and the stage runs again") from error


def _differences(old, new, prefix):
    """Yield (dotted key, old, new) for every difference of two nested dicts."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        if old != new:
            yield prefix, _short(old), _short(new)
        return
    for key in [*old, *(k for k in new if k not in old)]:
        dotted_key = f"{prefix}.{key}" if prefix else str(key)
        yield from _differences(old.get(key, "(unset)"), new.get(key, "(unset)"), dotted_key)


def _short(value, limit=80):
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= limit else text[: limit - 1] + "…"
