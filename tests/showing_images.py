"""A report and pictures of an NTM run in the format that the stages write: digits of a small font, for tests of the page.

Time runs from 0 = data to 1 = noise.
"""

import random

import numpy as np

from tests import showing
from tsdfm_jax.report import image_grid

FONT = """111101101101111 010110010010111 111001111100111 111001111001111 101101111001001
111100111001111 111100111101111 111001010010010 111101111101111 111101111001111""".split()
RECIPE = {"flow_matching": (2, 4, 8, 50), "start": (2, 4, 8), "ntm_identity": (4,), "ntm": (4,)}
BASE = {"flow_matching": 1.6, "start": 2.0, "ntm_identity": 1.9, "ntm": 1.7}


def digits(labels_N, seed=0, noise=0.1):
    """8×8 digits in [-1, 1], each moved, blurred and made noisy in its own way."""
    chance = np.random.default_rng(seed)
    x_NHWC = np.full((len(labels_N), 8, 8, 1), -1.0)
    for image, y in zip(x_NHWC, labels_N):
        stroke = np.array(list(FONT[y]), float).reshape(5, 3).repeat(1, 0)
        top, left = chance.integers(1, 3), chance.integers(1, 5)
        image[top : top + 5, left : left + 3, 0] = 2 * stroke - 1
        side = np.roll(image, 1, axis=1)
        image[:] = np.maximum(image, 0.6 * side - 0.4) * chance.uniform(0.85, 1)
    return x_NHWC + noise * chance.standard_normal(x_NHWC.shape)


def row(model, steps, seed, guidance, ending, **changes):
    """One row of the table: more steps give a smaller distance."""
    chance = random.Random(f"{model}{steps}{seed}{guidance}{ending}")
    distance = BASE[model] * (1 + 4 / steps**1.5) * (0.9 if ending == "noise_free" else 1) * (1 - 0.3 * guidance)
    told = {"model": model, "steps": steps, "guidance": guidance, "ending": ending, "seed": seed, "samples": 1000}
    told |= {
        "accuracy": min(1, 0.97 + 0.05 * guidance + chance.uniform(-0.01, 0.01)),
        "frechet": distance * chance.uniform(0.97, 1.03),
    }
    return told | {"seconds_per_image": 0.0004 * steps + 0.0011 * (model in ("ntm", "ntm_identity"))} | changes


def likelihood(model, steps, bits, **changes):
    """One row of the likelihoods: the step nearest to data takes most bits."""
    parts = [bits + 1.5 / k - 0.9 for k in range(1, steps + 1)]
    told = {"model": model, "steps": steps, "parameters": 350_112 if model == "ntm" else 214_820, "trajectory_bits": bits}
    return told | {"bound_bits": bits - 2.31, "by_step": parts, "images": 256, "t_min": 0.02} | changes


def report(seeds=(0, 1)):
    """A complete report."""
    rows = [{"model": "real", "steps": None, "guidance": None, "ending": None, "seed": None, "samples": 297, "accuracy": 0.983}]
    for model, steps in RECIPE.items():
        endings = (None,) if model == "flow_matching" else ("noisy", "noise_free")
        endings += ("score", "learned") if model == "ntm" else ()
        rows += [row(model, s, i, w, e) for s in steps for w in (0.0, 0.5) for e in endings for i in seeds]
    curves = {
        "flow_matching": (1.4, 0.24, 4000),
        "ntm": (40, 1.03, 4000),
        "ntm_identity": (40, 1.05, 4000),
        "denoiser": (0.2, 0.01, 1000),
    }
    sizes = {"flow_matching": 214_820, "ntm": 350_112, "ntm_identity": 214_820, "denoiser": 214_820}
    stages = {"images": {"seconds": 1.2, "share_of_time": 0.01}}
    for name, (first, last, steps) in curves.items():
        figures = {"seconds": 90.0, "share_of_time": 0.2, "peak_memory_bytes": 2**29, "images_per_second": 2800.0}
        stages[name] = figures | {"parameters": sizes[name], "curve": showing.curve(first, last, steps)}
    stages["evaluate"] = {"seconds": 60.0, "share_of_time": 0.1, "classifier": {"curve": showing.curve(2.3, 0.02, 1500)}}
    return {
        "schema": "ntm-1",
        "method": "ntm",
        "commit": "1c6b55b7fcd3b012231f18093674ae15a71701a5",
        "command": "python -m tsdfm_jax.main --config=configs/ntm_digits.py --workdir=runs/digits",
        "config": {"method": "ntm", "seed": 0, "images": {"package": "sklearn", "files": "", "patch": 2}, "ntm": {"steps": [4]}},
        "environment": {"python": "3.11.7", "device": "cpu", "jax": "0.10.2"},
        "verdict": "At 4 steps NTM's Fréchet distance is ×0.88 that of flow matching, and its trajectories cost 0.037 bits a number less.",
        "stages": stages,
        "data": data(),
        "likelihoods": [likelihood("ntm_identity", 4, 1.516), likelihood("ntm", 4, 1.479)],
        "rows": rows,
        "real": {"accuracy": 0.983, "frechet_halves": {"mean": 1.64, "spread": 0.12}},
        "exact": {"exact": "the density of a trajectory, from the model's own equations", "bound": "the bits of an image alone"},
    }


def data():
    names = "zero one two three four five six seven eight nine".split()
    counts = {"train": 1500, "heldout": 297}
    return {"shape": [8, 8, 1], "classes": 10, "class_names": names, "counts": counts, "package": "sklearn"}


def pictures(per_class=5, traces=3):
    """Grids of digits and trajectories of five levels."""
    labels_N = np.repeat(np.arange(10), per_class)
    grids = [{"title": "real images", "model": "real", "images_NHWC": image_grid.pixels(digits(labels_N)), "labels_N": labels_N}]
    for number, (model, steps) in enumerate(((m, s) for m, every in RECIPE.items() for s in every), 1):
        images = image_grid.pixels(digits(labels_N, seed=number, noise=0.6 / steps))
        name = {"flow_matching": "flow matching", "start": "start", "ntm": "NTM", "ntm_identity": "no transporter"}[model]
        grids.append({"title": f"{name}, {steps} steps", "model": model, "images_NHWC": images, "labels_N": labels_N})
    return {"grids": grids, "traces": [trace(y) for y in (3, 8, 0)[:traces]]}


def trace(y, levels=(0.02, 0.263, 0.509, 0.754, 1.0)):
    """Levels of one digit; u is x, squeezed more the nearer it is to data."""
    chance = np.random.default_rng(y)
    x_0, noise = digits([y], seed=y, noise=0)[0], chance.standard_normal((8, 8, 1))
    x_THWC = np.stack([(1 - t) * x_0 + t * noise for t in levels])
    u_THWC = np.stack([x if t == 1 else 0.5 * np.roll(x, 1, axis=0) + 0.4 * x for t, x in zip(levels, x_THWC)])
    return {"label": y, "t_T": list(levels), "x_THWC": image_grid.pixels(x_THWC), "u_THWC": image_grid.pixels(u_THWC)}
