"""Checkpoints of a running stage and the model of a finished one, stored with Orbax."""

import functools
import hashlib
import json
import logging
import pathlib
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp

from tsdfm_jax.runtime import hosts, mesh as mesh_lib, signals
from tsdfm_jax.storage import atomic, checksums

LOG = logging.getLogger(__name__)
ITEMS = ("state", "params", "meta")
MODEL, META = "params", "meta.json"
# Devices that hold the same array share its writing only if each share has at least this many bytes.
SHARE_BYTES = 1 << 20


def _register():
    handler = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=SHARE_BYTES)
    absl = logging.getLogger("absl")  # Orbax warns of every replaced handler
    level = absl.level
    absl.setLevel(logging.ERROR)
    ocp.type_handlers.register_type_handler(jax.Array, handler, override=True)
    absl.setLevel(level)


_register()


class Checkpoints:
    """The newest `keep` checkpoints of one stage, each complete or absent.

    A checkpoint has three parts: `state` (the TrainState), `params` (the weights to use: the average if there is one) and
    `meta` (JSON: the position of the batches, the caller's data, and `identity`, a hash of what the stage's result is made of;
    a checkpoint with another identity counts as damaged). No part depends on the number of devices or
    processes that wrote it: the position of the batches is one number per iterator, the same in every process.
    """

    def __init__(self, directory, keep=2, asynchronous=True, identity=None):
        self.directory, self._identity = pathlib.Path(directory).absolute(), identity
        self._keep, self._asynchronous = keep, asynchronous

    @functools.cached_property
    def _manager(self):
        # Not before the first use: looking for checkpoints should not create directories.
        async_options = ocp.AsyncOptions(post_finalization_callback=self._seal_items)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=self._keep,
            enable_async_checkpointing=self._asynchronous,
            cleanup_tmp_directories=True,  # what a killed process left half written
            async_options=async_options if self._asynchronous else None,
        )
        return ocp.CheckpointManager(self.directory, options=options, item_names=ITEMS)

    def save(self, step, state, batches, meta):
        """Save after `step` updates; if asynchronous, returns when the arrays are copied, and writes in the background.

        `batches` is an iterator with get_state and set_state (in JSON), or None; `meta` a JSON dict. Raises OSError if the
        disk is full: at once, or at the next save or wait if it fills up meanwhile.
        """
        items = {
            "state": ocp.args.StandardSave(state),
            "params": ocp.args.StandardSave(state.averaged),
            "meta": ocp.args.JsonSave(
                {"caller": meta, "batches": None if batches is None else batches.get_state(), "identity": self._identity}
            ),
        }
        description = f"checkpoint {step} in {self.directory}"
        hosts.first(lambda: checksums.require_room(self.directory, _bytes(state) + _bytes(state.averaged), description))
        with signals.saving(), checksums.writing(description):
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        if not self._asynchronous:
            self._seal_items()

    def steps(self):
        """Steps of the finished checkpoints, newest first."""
        if not hosts.first(self.directory.exists):
            return []
        return hosts.first(functools.partial(sorted, self._manager.all_steps(), reverse=True))

    def latest(self):
        """Step of the newest finished checkpoint; None if there is none."""
        return next(iter(self.steps()), None)

    def restore(self, abstract, batches):
        """Read the newest intact checkpoint into the abstract state's shardings; set `batches` to their saved position.

        Returns (state, meta). A damaged checkpoint is moved to `<directory>.damaged`, with a warning, and the one before
        is used. Raises ValueError if there is none, none is intact, or it does not fit the config.
        """
        return self._read_newest(lambda step: self._restore_step(step, abstract, batches), ("state", "meta"), abstract)

    def restore_params(self, abstract=None, where=None):
        """Read the weights to use from the newest intact checkpoint, onto any number of devices; see `load_params`."""
        read = lambda step: _read_tree(self.directory / str(step) / MODEL, abstract, where)
        return self._read_newest(read, (MODEL,), abstract)

    def wait(self):
        """Return when everything saved is on disk."""
        with signals.saving(), checksums.writing(f"a checkpoint in {self.directory}"):
            self._manager.wait_until_finished()

    def close(self):
        """Wait, and end the background threads."""
        if "_manager" in self.__dict__:
            self.wait()
            with signals.saving():
                self._manager.close()
            del self.__dict__["_manager"]

    def _restore_step(self, step, abstract, batches):
        items = {"state": ocp.args.StandardRestore(abstract), "meta": ocp.args.JsonRestore()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        if batches is not None:
            batches.set_state(restored.meta["batches"])
        return restored.state, restored.meta["caller"]

    def _read_newest(self, read, items, abstract):
        """`read(step)` of the newest step with all items intact; the first item must fit `abstract`."""
        steps = self.steps()
        if not steps:
            raise ValueError(f"{self.directory} holds no checkpoint: run the stage that writes it first")
        damaged, reason = [], None
        for step in steps:
            path = self.directory / str(step)
            reason = hosts.first(lambda: next(filter(None, (checksums.damage(path / item) for item in items)), None))
            try:
                reason = reason or self._foreign(step)
                if reason is None:
                    _require_fit(path / items[0], abstract)
                    result = hosts.together(lambda: read(step))
                    self._set_aside(damaged)
                    return result
            except Misfit:
                raise  # intact, but of another model: older ones will not fit either
            except Exception as error:  # a broken file makes Orbax and TensorStore raise errors of many kinds
                reason = _first_line(error)
            LOG.warning("checkpoint %s is damaged (%s); going back to the one before", path, reason)
            damaged.append(step)
        raise ValueError(f"no checkpoint in {self.directory} can be read ({reason}): delete that directory to start anew")

    def _foreign(self, step):
        """Say so if a checkpoint is of another result than this one; None if it is not, or if an earlier version wrote it."""
        meta = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta
        identity = meta.get("identity") or self._identity
        return None if self._identity in (None, identity) else "it is of another run or network"

    def _set_aside(self, damaged):
        """Move damaged checkpoints aside, after an older one could be read, instead of deleting them."""
        if not damaged:
            return
        damaged_directory = self.directory.with_name(self.directory.name + ".damaged")

        def move():
            damaged_directory.mkdir(exist_ok=True)
            for step in damaged:
                shutil.rmtree(damaged_directory / str(step), ignore_errors=True)
                (self.directory / str(step)).rename(damaged_directory / str(step))

        hosts.first(move)
        self._manager.reload()

    def _seal_items(self):
        """Seal the items of a checkpoint; Orbax calls this in its background thread, just before it commits one."""
        if not hosts.is_first():
            return
        for item in self.directory.glob("*/*"):
            if item.name in ITEMS and not (item / checksums.SEAL).exists():
                try:
                    checksums.seal(item)
                except FileNotFoundError:
                    pass  # deleted meanwhile as too old to keep


class Misfit(ValueError):
    """A sound checkpoint of another model than the config asks for."""


def save_params(directory, params, meta):
    """Write a stage's finished model: the weights, and `meta` (a JSON dict) with their `tree_hash` as meta["hash"]."""
    directory = pathlib.Path(directory).absolute()
    meta = {**meta, "hash": tree_hash(params)}
    hosts.first(lambda: (directory / META).unlink(missing_ok=True))  # written last, it marks the model as complete
    hosts.first(lambda: checksums.require_room(directory, _bytes(params), f"model {directory}"))

    def seal_and_mark():
        checksums.seal(directory / MODEL)
        atomic.overwrite(directory / META, atomic.json_text(meta, indent=1))

    with signals.saving(), checksums.writing(f"model {directory}"), ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory / MODEL, params, force=True)
        checkpointer.wait_until_finished()
        hosts.first(seal_and_mark)
    return meta


def load_params(directory, abstract=None, where=None):
    """Read a stage's finished model onto any number of devices; returns (params, meta).

    `abstract` is the unboxed tree of shapes that the config builds, or None to accept any. `where` is a mesh (every device
    holds all), a sharding, or a tree of shardings; None means each abstract leaf's own sharding, else the first device.
    Raises ValueError if the model is missing, is damaged, or has other shapes.
    """
    directory = pathlib.Path(directory).absolute()
    meta = read_meta(directory)
    reason = hosts.first(lambda: checksums.damage(directory / MODEL))
    if reason is not None:
        raise ValueError(f"{directory / MODEL} is damaged ({reason}): run --stage={_stage(directory / META)}, and it is made again")
    _require_fit(directory / MODEL, abstract)
    return _read_tree(directory / MODEL, abstract, where), meta


def read_meta(directory):
    """The meta.json of a stage's finished model. Raises ValueError, one line, if it is missing or damaged."""
    file = pathlib.Path(directory).absolute() / META

    def read():
        try:
            return json.loads(file.read_text())
        except OSError:
            return None
        except ValueError:
            raise ValueError(f"{file} is damaged: run --stage={_stage(file)}, and it is written again") from None

    meta = hosts.first(read)
    if meta is None:
        raise ValueError(f"{file.parent} is unfinished: run --stage={_stage(file)} first")
    return meta


def _stage(file):
    """The stage that writes a file of a model: the folder of the model, but judges/0 and student/shaped/round_0 stand deeper."""
    student, judges, folder = ("", "", *file.parts)[-5:-2]
    if folder.startswith("round_") and student == "student":
        return student
    return judges if judges == "judges" and (folder.isdigit() or folder == "pilot") else folder


def tree_hash(params):
    """SHA-256, in hex, over the names, types, shapes and bytes of a tree of arrays: the same on any mesh."""
    digest = hashlib.sha256()
    for path, leaf in sorted(_leaves_by_name(params).items()):
        array = hosts.gather(leaf)
        digest.update(f"{path}:{array.dtype.name}:{array.shape};".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _bytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _leaves_by_name(tree):
    """{"blocks/attention/kernel": leaf}, with the same names for a dict, a dataclass, and Orbax's form of either."""

    def name(path):
        return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)

    return {name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _stored_shapes(path):
    """The tree of shapes and types that Orbax wrote at a path."""
    # The handler, not a checkpointer, which would warn of a missing file that only a whole checkpoint has, not an item.
    return ocp.StandardCheckpointHandler().metadata(path).tree


def _require_fit(path, abstract):
    if abstract is None:
        return
    stored, wanted = _leaves_by_name(_stored_shapes(path)), _leaves_by_name(abstract)
    for name in [*wanted, *stored]:
        stored_shape, wanted_shape = (getattr(tree.get(name), "shape", None) for tree in (stored, wanted))
        if stored_shape != wanted_shape:
            raise Misfit(
                f"{path} has {name} of shape {stored_shape or 'none'}, but the config builds {wanted_shape or 'none'}: "
                f"use the config that it was made with, or another --workdir"
            )


def _read_tree(path, abstract, shardings):
    if abstract is None:
        abstract = _stored_shapes(path)
    if shardings is None:
        on_first_device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shardings = jax.tree.map(lambda leaf: getattr(leaf, "sharding", None) or on_first_device, abstract)
        shardings = jax.tree.map(lambda s: s if isinstance(s, jax.sharding.Sharding) else on_first_device, shardings)
    elif isinstance(shardings, jax.sharding.Mesh):
        shardings = mesh_lib.replicated(shardings)
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, abstract)
    place = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path, jax.tree.map(place, abstract, shardings))


def _first_line(error):
    return f"{type(error).__name__}: {error}".splitlines()[0][:160]
