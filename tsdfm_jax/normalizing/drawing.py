"""Many images of a run's models, drawn batch by batch and decoded, with the seconds that they take."""

import functools
import time

import jax
import numpy as np

from tsdfm_jax.data import image_records
from tsdfm_jax.models import patches
from tsdfm_jax.normalizing import sampling, trained
from tsdfm_jax.runtime import hosts, mesh as meshes, pipeline

KEPT = 10  # images of each class that an evaluation keeps, for a page to choose from


class Drawing:
    """Draws with the models of a run; `draw(row, count, batch)` -> (x_NHWC, y, seconds an image).

    Weights are read once. Any number of first images has the classes in the proportions of `counts_K`, by default those of the
    training images. Of conditioning vectors, those of the held-out images are taken in turn.
    """

    def __init__(self, config, workdir, mesh, find=None, counts_K=None):
        self._config, self._mesh = config, mesh
        load = functools.partial(trained.network, config, workdir, mesh)
        self._network = functools.cache((lambda name: load(name)) if find is None else (lambda name: load(name, find)))
        options = () if find is None else (find,)
        self._store = trained.source(config, workdir, *options)
        self.shape = trained.shape(config, self._store)
        self._counts_K = counts_K
        if counts_K is None and self.shape.classes:
            self._counts_K = image_records.about(self._store)["counts_by_class"]["train"]
        self._decode = trained.decoder(config, workdir, mesh, config.evaluate.batch, *options)

    def conditions(self, count):
        """What the images are asked for as: int32 [N], float32 [N, V], or None."""
        if self.shape.classes:
            return in_proportion(self._counts_K, count)
        if self.shape.vector:
            have = trained.heldout(self._config, self._store)["y"]
            return have[np.arange(count) % len(have)]
        return None

    def weights(self, row):
        """The weights that a row is drawn with."""
        found = [self._network(name).params for name in row.networks]
        return {"model": found[0], "denoiser": found[1]} if len(found) > 1 else found[0]

    def __call__(self, row, count, batch):
        y, weights = self.conditions(count), self.weights(row)
        wanted = {"index": np.arange(count, dtype=np.int32)} | ({} if y is None else {"y": y})
        run = functools.partial(program(self._config, self.shape, self._mesh, row.request, row.seed), weights)
        batch = meshes.round_up(self._mesh, min(batch, count))
        first = meshes.put_whole(self._mesh, {name: value[np.arange(batch) % count] for name, value in wanted.items()})
        hosts.gather(run(first))  # compiles
        started = time.perf_counter()
        jax.block_until_ready(run(first))
        seconds = (time.perf_counter() - started) / batch
        x_NHWC = pipeline.mapped(self._mesh, run, wanted, batch, "evaluate")
        return self._decode(x_NHWC), y, seconds

    def traces(self, row, count, pixels):
        """The first trajectories of a row, level by level: [{label, t_T, x_THWC, u_THWC}], x decoded, both through `pixels`."""
        y, weights = self.conditions(count), self.weights(row)
        made = of_rows(self._config, self.shape, self._mesh, row.request, with_states=True)
        split = meshes.batch_sharding(self._mesh)
        at = np.arange(meshes.round_up(self._mesh, count)) % count
        wanted = {"index": at.astype(np.int32)} | ({} if y is None else {"y": y[at]})
        jitted = meshes.seeded(self._mesh, made, row.seed, in_shardings=(None, split), out_shardings=split)
        drawn = hosts.gather(jitted(weights, meshes.put_whole(self._mesh, wanted)))
        t_T = [float(t) for t in np.asarray(sampling.levels(row.request))]
        label = lambda i: int(y[i]) if y is not None and y.ndim == 1 else None
        each = [(label(i), self._decode(drawn.xs_BTHWC[i]), drawn.us_BTHWC[i]) for i in range(count)]
        return [{"label": name, "t_T": t_T, "x_THWC": pixels(x), "u_THWC": pixels(u)} for name, x, u in each]


def in_proportion(counts_K, number):
    """Labels of `number` images, int32, of which any first part has the classes in about these proportions."""
    shares = np.asarray(counts_K, np.float64) / max(sum(counts_K), 1)
    due = [((np.arange(int(np.ceil(share * number)) + 1) + 0.5) / share, k) for k, share in enumerate(shares) if share > 0]
    at, label = np.concatenate([when for when, _ in due]), np.concatenate([np.full(len(when), k) for when, k in due])
    return label[np.argsort(at, kind="stable")[:number]].astype(np.int32)


def program(config, shape, mesh, request, seed):
    """The jitted `(weights, {"index": int32 [B], "y": …}) -> x_BHWC` of a request, over a mesh, as a mesh.Seeded."""
    made = of_rows(config, shape, mesh, request)
    split = meshes.batch_sharding(mesh)
    images = lambda *given: made(*given).x_BHWC
    return meshes.seeded(mesh, images, seed, in_shardings=(None, split), out_shardings=split)


def of_rows(config, shape, mesh, request, with_states=False):
    """The function `(seed, weights, {"index": …, "y": …}) -> sampling.Drawn`, to be jitted over a mesh.

    Weights are gathered once, in the compute type: the inverse reads those of the transporter at every patch.
    """
    draw = sampling.drawer(config, shape, request, with_states)
    template = functools.partial(trained.template, config, shape, mesh)
    model = template("flow_matching" if request.model == "start" else request.model)
    wanted = {"model": model, "denoiser": template("denoiser")} if request.ending == "learned" else model

    def made(seed, weights, rows):
        weights = meshes.gathered(wanted, patches.in_dtype(config.model.dtype, weights))
        return draw(seed, weights, rows["index"], rows.get("y"))

    return made


def shown(y, count, each):
    """Places of the first `each` images of every class, in order of classes; without classes, the first 10 times as many."""
    if y is None or np.ndim(y) != 1:
        return np.arange(min(count, 10 * each))
    return np.concatenate([np.flatnonzero(y == label)[:each] for label in np.unique(y)])
