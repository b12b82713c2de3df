"""Checks of the keys of NTM: ranges, choices, and what must fit together.

Time runs from 0 = data to 1 = noise.
"""

import functools

from tsdfm_jax.config import ntm_networks, ntm_settings, settings, validation
from tsdfm_jax.models import attention
from tsdfm_jax.runtime import mesh as meshes

# Exceptions of validation.Ranges, by full key or its end.
MINIMUM = {"seed": 0, "evaluate.seeds": 0, "images.size": 0, "images.limit": 0, "autoencoder.channels": 0, "warmup": 0}
MINIMUM |= {"model.kv_heads": 0, "report.traces": 0, "sample.label": -1, "evaluate.samples": 2}
MINIMUM |= {"mesh.data": -1, "mesh.fsdp": -1, "mesh.tensor": -1}
MAXIMUM = {"autoencoder.halvings": 16, "sample.number": 2**16, "sample.batch": 2**16, "sample.steps": 2**16}
MAXIMUM |= {"report.grid": 10, "ntm.steps": 2**16, "evaluate.steps": 2**16, "evaluate.flow_matching_steps": 2**16}
FLAGS = ("images.latents", "evaluate.noise_free", "sample.noise_free", "models")
SHARES = ("flow_matching.uniform", "flow_matching.drop", "ntm.drop")
POSITIVE = ("flow_matching.time_deviation",)  # numbers above 0
NOT_NEGATIVE = ("autoencoder.noise", "ntm.anchor", "sample.guidance")
STEEPEST = 20.0  # the largest size of ntm.shift: float32 holds the levels of such a schedule
LEAST_LEVEL = 1e-6  # the least level but 0 at which data may end: float32 holds its square, and what is divided by it


def check_numbers(key, value):
    """Check that every entry of a tuple is a number of a size that float32 holds."""
    if not all(type(x) in (int, float) and (x == 0 or validation.TINY <= abs(x) <= validation.HUGE) for x in value):
        raise ValueError(f"{key} {value} must each be 0 or a number of a size from {validation.TINY} to {validation.HUGE}")


RANGES = validation.Ranges(
    minimum=MINIMUM,
    maximum=MAXIMUM,
    flags=FLAGS,
    tuples={"ntm.t_min": check_numbers, "evaluate.guidance": check_numbers},
)


def check(config):
    """Check choices, and what must fit together; raises ValueError, one line, for the first error."""
    ntm_networks.check_models(config)
    check_choices(config)
    check_sizes(config)
    check_images(config)
    check_model(config)
    check_steps(config)
    check_levels(config)
    check_guidance(config)
    check_sample(config)
    device_mesh = settings.mesh(config)
    check_batches(config, device_mesh)
    check_attention(config, device_mesh.devices.flat[0].platform)


def value(config, key):
    """The value of a dotted key."""
    return functools.reduce(lambda node, part: node[part], key.split("."), config)


def check_choices(config):
    """Check that every name is a known one."""
    settings.choose("model.dtype", config.model.dtype, ntm_settings.DTYPES)
    settings.choose("transporter.map", config.transporter.map, ntm_settings.MAPS)
    settings.choose("ntm.loss", config.ntm.loss, ntm_settings.LOSSES)
    settings.choose("ntm.start", config.ntm.start, ntm_settings.STARTS)
    settings.choose("sample.denoise", config.sample.denoise, ntm_settings.ENDINGS)
    if not config.images.files:
        settings.choose("images.package", config.images.package, ntm_settings.PACKAGES)


def check_sizes(config):
    """Check numbers that are not whole: shares, scales and weights."""
    for key in SHARES:
        if not 0.0 <= value(config, key) <= 1.0:
            raise ValueError(f"{key} {value(config, key)} is no share: take a number from 0 to 1")
    for key in POSITIVE:
        if not value(config, key) > 0:
            raise ValueError(f"{key} {value(config, key)} must be above 0")
    for key in NOT_NEGATIVE:
        if value(config, key) < 0:
            raise ValueError(f"{key} {value(config, key)} is below 0: take 0 or more")
    if not 0.0 < config.images.holdout < 1.0:
        raise ValueError(f"images.holdout {config.images.holdout} leaves a split empty: take a number between 0 and 1")
    if not 0.0 < config.denoiser.clip <= 1.0:
        raise ValueError(f"denoiser.clip {config.denoiser.clip} is no quantile of a size: take a number above 0, and at most 1")
    if not config.evaluate.seeds:
        raise ValueError("evaluate.seeds () is empty: the table needs one")


def check_images(config):
    """Check what is known of the images without their files: kind, size, and whether patches divide it."""
    c, size = config.images, ntm_settings.latent_size(config)
    if c.latents and not c.files:
        raise ValueError("images.latents True reads .npz files, and images.files is empty: name them, or set images.latents=False")
    if c.latents and c.size:
        raise ValueError(f"images.latents True takes latents as they are, and images.size is {c.size}: set images.size=0")
    if c.latents and config.autoencoder.channels:
        raise ValueError(
            f"images.latents True are latents already, and autoencoder.channels is {config.autoencoder.channels}: set one of them "
            f"to False or 0"
        )
    if size % c.patch:
        what = "latents" if config.autoencoder.channels else "images"
        raise ValueError(f"images.patch {c.patch} does not divide {what} of {size} × {size}: take a number that divides {size}")


def check_model(config):
    """Check the shape of the networks, and every optimiser."""
    c = config.model
    if c.width % c.heads or (c.width // c.heads) % 4:
        raise ValueError(
            f"model.width {c.width} does not split into {c.heads} heads of a size divisible by 4: change model.width or model.heads"
        )
    if c.kv_heads and c.heads % c.kv_heads:
        raise ValueError(f"model.kv_heads {c.kv_heads} does not divide model.heads {c.heads}: take a number that does, or 0")
    settings.choose("model.remat", c.remat, ("none", "full", "dots"))
    for name in trained(config):
        try:
            settings.optimiser(value(config, name))
        except ValueError as error:
            raise ValueError(f"{name}.optimiser: {error}") from None


def check_steps(config):
    """Check the numbers of steps that models are trained with and sampled with."""
    steps = config.ntm.steps
    if not steps:
        raise ValueError("ntm.steps () is empty: give a number of steps, such as (4,)")
    if len(set(steps)) < len(steps):
        raise ValueError(f"ntm.steps {steps} name a number twice: leave one out")
    if config.ntm.loss == "trajectory" and len(steps) > 1:
        raise ValueError(
            f"ntm.loss trajectory needs a single number of steps, and ntm.steps is {steps}: take one, or ntm.loss=pair"
        )


def check_levels(config):
    """Check that data's end of a trajectory lies below the first level of every schedule that it is used with."""
    c, steps = config.ntm, config.ntm.steps
    if abs(c.shift) > STEEPEST:
        raise ValueError(f"ntm.shift {c.shift} is too far from 0: take a number from {-STEEPEST} to {STEEPEST}")
    if len(c.t_min) != 2 or not 0 <= c.t_min[0] <= c.t_min[1]:
        raise ValueError(f"ntm.t_min {c.t_min} is no range: give two levels, the smaller first, such as (0.0, 0.05)")
    sampled = [*steps, *config.evaluate.steps]  # flow matching's untrained start has the same levels
    for key, level, numbers in (("ntm.t_min", c.t_min[1], steps), ("ntm.t_sample", c.t_sample, sampled)):
        first = ntm_settings.first_level(c.shift, max(numbers))
        if not LEAST_LEVEL <= level < first:
            raise ValueError(
                f"{key} {c.t_min if key == 'ntm.t_min' else level} must end between {LEAST_LEVEL} and {first:.4g}, the first level of "
                f"{max(numbers)} steps (ntm.shift {c.shift}): take another, fewer steps or a larger ntm.shift"
            )


def check_guidance(config):
    """Check the weights of guidance, and that every model that they are used with has an unconditional one."""
    weights = config.evaluate.guidance
    if not weights or min(weights) < 0:
        raise ValueError(f"evaluate.guidance {weights} must be weights, 0 or more: (0.0,) is none")
    sampled = config.sample.guidance > 0
    for key, used, names in (
        ("evaluate.guidance", max(weights) > 0, ntm_networks.models(config)),
        ("sample.guidance", sampled, (config.sample.model,)),
    ):
        if used and not config.images.label:
            raise ValueError(f"{key} needs labels to be guided by, and images.label is empty: name them there, or set {key} to 0")
        for section in sorted({"ntm" if name in ntm_networks.NORMALIZING else name for name in names} - {"denoiser"}):
            if used and not config[section].drop:
                raise ValueError(
                    f"{key} needs a model that knows hidden labels, and {section}.drop is 0: raise it, or set {key} to 0"
                )


def check_sample(config):
    """Check the keys of `sample`."""
    c = config.sample
    if c.model in ntm_networks.NORMALIZING and c.steps not in config.ntm.steps:
        raise ValueError(
            f"sample.steps {c.steps} is not among ntm.steps {config.ntm.steps}, which {c.model} is trained with: take one"
        )
    if c.denoise != "none" and c.model not in ntm_networks.NORMALIZING:
        raise ValueError(f"sample.denoise {c.denoise} is of networks with a likelihood, not of {c.model}: set sample.denoise=none")
    if c.denoise == "learned" and "denoiser" not in ntm_networks.models(config):
        raise ValueError(f"sample.denoise learned needs the denoiser, and models is {ntm_networks.models(config)}: add denoiser")
    if c.denoise == "learned" and c.model != "ntm":
        raise ValueError(
            f"sample.denoise learned is of sample.model ntm, which it learnt from, not of {c.model}: take score or none"
        )
    if c.noise_free and c.model not in ntm_networks.NORMALIZING:
        raise ValueError(f"sample.noise_free means nothing to {c.model}, which adds no noise: set it to False")
    if c.noise_free and c.denoise != "none":
        raise ValueError(
            f"sample.denoise {c.denoise} follows a last step with noise, and sample.noise_free is True: take one of them"
        )
    if c.label >= 0 and not config.images.label:
        raise ValueError(f"sample.label {c.label} needs labels, and images.label is empty: set sample.label=-1")


def trained(config):
    """The sections whose networks this config trains."""
    stages = ("autoencoder", "flow_matching", "ntm", "denoiser")
    return (*(stage for stage in stages if ntm_networks.needs(config, stage)), "evaluate.classifier")


def check_batches(config, device_mesh):
    """Check that every batch splits over devices and microbatches; a network that is not made may have any."""
    for name in trained(config):
        validation.check_divides(config, name, device_mesh)
    meshes.require_divides(config.evaluate.batch, device_mesh, "evaluate.batch")


def check_attention(config, platform):
    """Check that the devices can compute the attention, and that it takes so many patches, where their number is known."""
    c = config.model
    attention.check(c.attention, attention.network_lacks(c.attention, c.dtype, c.width // c.heads))
    attention.check_devices(c.attention, platform, attention.TILE)
    patches = (ntm_settings.latent_size(config) // config.images.patch) ** 2
    if c.attention == "splash" and patches % attention.TILE:
        attention.check(c.attention, f"takes a multiple of {attention.TILE} patches, not {patches}: change images.patch")
