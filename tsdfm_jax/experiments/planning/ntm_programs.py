"""NTM's programs, to be compiled ahead of time: the updates of flow matching and of the trajectory model, a batch of images.

The interface of every method's such module is in aot_compile. Time runs from 0 = data to 1 = noise.
"""

import functools

from tsdfm_jax.experiments.planning import model_flops

PROGRAMS = ("flow_matching", "ntm", "sampler")
CLASSES = 10  # of the packages' images


def check(config, mesh):
    """Raise ValueError, one line, for batches that do not split over the devices."""
    from tsdfm_jax.config import ntm_validation

    ntm_validation.check_batches(config, mesh)


def data(config, vocab_size, image, classes):
    """The networks.Shape of the data: of a package's images or their latents, else of `image` (H, W, C) and `classes`.

    Raises ValueError, one line, for what is no size.
    """
    from tsdfm_jax.config import image_settings, ntm_settings
    from tsdfm_jax.normalizing import networks

    del vocab_size
    if not config.images.files:
        size = ntm_settings.image_size(config)
        image, classes = (str(size), str(size), "1"), CLASSES
    elif len(image) != 3 or not all(part.isdecimal() and int(part) for part in image):
        raise ValueError(f"--image={'x'.join(image)} is no height, width and channels: write it as 16x16x32")
    image = tuple(int(part) for part in image)
    if config.autoencoder.channels:
        image = image_settings.autoencoder(config, image).latent_shape
    return networks.Shape(image=image, patch=config.images.patch, classes=classes if config.images.label else 0)


def length(config, shape):
    """N, positions of attention."""
    del config
    return shape.row[0]


def batch(config, name):
    """Rows of a program."""
    return config.evaluate.batch if name == "sampler" else config[name].batch


def request(config):
    """What the sampler is asked for: the trajectory model, in the numbers of `sample`."""
    from tsdfm_jax.normalizing import table

    c = config.sample
    return table.request(config, "ntm", c.steps if c.steps in config.ntm.steps else config.ntm.steps[0], c.guidance)


def programs(config, shape, mesh, wanted=PROGRAMS):
    """{name: () -> jax.stages.Lowered}."""
    import jax
    import jax.numpy as jnp

    from tsdfm_jax.normalizing import drawing, trained, training
    from tsdfm_jax.runtime import mesh as meshes

    split = meshes.batch_sharding(mesh)

    def rows(name, **fields):
        fields |= {"y": ((), "int32")} if shape.classes else {}
        place = lambda size, kind: jax.ShapeDtypeStruct((batch(config, name), *size), jnp.dtype(kind), sharding=split)
        return {field: place(*about) for field, about in fields.items()}

    images = functools.partial(rows, x=(shape.image, "float32"))
    template = functools.partial(trained.template, config, shape, mesh)

    def ntm():
        start = template("flow_matching") if config.ntm.start == "flow_matching" else None
        return training.trajectory_learner(config, shape, mesh, "ntm", start).lower(images("ntm"))

    def sampler():
        return drawing.program(config, shape, mesh, request(config), 0).lower(template("ntm"), rows("sampler", index=((), "int32")))

    flow_matching = lambda: training.flow_matching_learner(config, shape, mesh).lower(images("flow_matching"))
    lowerings = {"flow_matching": flow_matching, "ntm": ntm, "sampler": sampler}
    return {name: lower for name, lower in lowerings.items() if name in wanted}


def passes(config, name):
    """{network: forward passes over a batch of images}; a trained pass counts three times, because its gradient costs two.

    The inverse, patch by patch with a cache, multiplies what one pass does. `flow` is one flow block of the transporter. Of whole
    trajectories all levels but noise are transported.
    """
    if name == "flow_matching":
        return {"flow_matching": 3}
    if name == "ntm":
        steps = 1 if config.ntm.loss == "pair" else max(config.ntm.steps)
        levels = 2 if config.ntm.loss == "pair" else steps
        anchor = steps if config.ntm.start == "flow_matching" else 0
        return {"predictor": 3 * steps, "flow": 3 * levels * config.transporter.flows, "flow_matching": anchor}
    asked = request(config)
    return {"predictor": asked.steps * (2 if asked.guidance else 1), "flow": config.transporter.flows}


def flops(config, shape, name):
    """Model FLOPs of one run of a program, over all devices."""
    return batch(config, name) * sum(count * forward(config, shape, network) for network, count in passes(config, name).items())


def forward(config, shape, name):
    """FLOPs of one forward pass of a network over one image; see model_flops.forward."""
    import jax

    from tsdfm_jax.models import patches
    from tsdfm_jax.normalizing import networks
    from tsdfm_jax.runtime import mesh as meshes

    cfg = getattr(networks, name)(config, shape)
    params = meshes.unbox(jax.eval_shape(lambda: patches.init(jax.random.key(0), cfg)))
    return model_flops.forward(params, cfg.width, cfg.patches)


def remedies(config, name, devices):
    """Settings to try where a program does not fit, in order, {key: value} of the config: see tsdfm_programs.remedies."""
    doubled, changes = [2**n for n in range(1, 12)], []
    if name == "sampler":
        changes += [{"evaluate.batch": config.evaluate.batch // n} for n in doubled if config.evaluate.batch % (n * devices) == 0]
    else:
        counts = [config[name].optimiser.accumulate * n for n in doubled]
        changes += [{f"{name}.optimiser.accumulate": n} for n in counts if config[name].batch % (n * devices) == 0]
    last = changes[-1] if changes else {}
    costly = [{"model.remat": "full"}] if config.model.remat != "full" and name != "sampler" else []
    costly += [{"mesh.data": 1, "mesh.fsdp": -1}] if config.mesh.fsdp == 1 else []
    candidates = [*changes, *costly, functools.reduce(lambda a, b: a | b, [*costly, last], {})]
    return [one for i, one in enumerate(candidates) if one and one not in candidates[:i]]
