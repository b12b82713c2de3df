"""The model card of a model of images, README.md beside its weights; all that it says comes from the files of the run."""

import jax

from tsdfm_jax.exchange import model_card
from tsdfm_jax.models import autoencoder, transformer
from tsdfm_jax.report import cells, image_cells

TRAINED = {
    "ntm": "trained by the exact likelihood of trajectories, with a transporter",
    "ntm_identity": "trained by the exact likelihood of trajectories, without a transporter: a Gaussian in every step",
    "flow_matching": "trained by flow matching: the baseline, and the start of the models with a likelihood",
}
LIMITS = """## What it must not be used for

The model draws images that resemble those that it was trained on. This card shows all that was measured: safety and bias were not.
Do not pass its images off as real ones, and do not use them in decisions about people.
"""


def exported(about, loaded, config, report, reason=""):
    """The card of a model of a run. `report` is the report.json of these weights, or None; `reason` then says why."""
    data = config.images.files or config.images.package
    parts = [
        header(data),
        f"# {cells.PLAIN[about.name]} of {about.origin['run']}\n\n{describe(about, loaded)}",
        how_made(about, config, report, data),
        measurements(about, report) if report else f"## What was measured\n\n{reason} No figures are given.\n",
        LIMITS,
        usage(about),
    ]
    return "\n".join(parts)


def header(data):
    """The YAML header."""
    tags = ["normalizing-flow", "flow-matching", "image-generation", "jax", "flax"]
    return model_card.header(license="apache-2.0", datasets=[data], pipeline_tag="unconditional-image-generation", tags=tags)


def describe(about, loaded):
    """The model's networks, levels and weights, from config.json."""
    data, net, levels = about.told["data"], about.told["model"], about.told["levels"]
    knows = f"{data['classes']} classes" if data["classes"] else f"vectors of {data['vector']}" if data["vector"] else "no labels"
    flows = about.told["transporter"]
    carried = f" Transporter: {flows['flows']} flow blocks of {flows['blocks']}, {flows['map']}." if flows["flows"] else ""
    steps = f" Steps: {', '.join(map(str, levels['steps']))}; trajectories end at t = {levels['end']:g}." if levels["steps"] else ""
    sizes = [f"{loaded.parameters:,} parameters"]
    if about.denoiser:
        sizes.append(f"a learned denoiser of {transformer.parameters(loaded.parts.denoiser()):,}")
    if about.autoencoder:
        made = jax.eval_shape(lambda: autoencoder.init(jax.random.key(0), about.autoencoder))
        latent = " × ".join(map(str, about.autoencoder.latent_shape))
        sizes.append(f"an autoencoder of {transformer.parameters(made):,}, with latents of {latent}")
    rounded = "rounded to bfloat16, " if about.dtype == "bfloat16" else ""
    return (
        f"Images of {' × '.join(map(str, loaded.shape))}, {knows}, in patches of {data['patch']} × {data['patch']}. "
        f"{', '.join(sizes)}; {net['blocks']} blocks of width {net['width']}, {net['heads']} heads.{carried}{steps} "
        f"Time runs from 0 = data to 1 = noise.\n\nWeights: {rounded}content hash `{about.hash}`"
        + (" (of the rounded weights, in float32)" if rounded else "")
        + ".\n"
    )


def how_made(about, config, report, data):
    """The images, command, commit, seed and training of the run."""
    section, origin = config.flow_matching if about.kind == "flow_matching" else config.ntm, about.origin
    count = f", {report['data']['counts']['train']:,} to train on" if report else ""
    start = ""
    if about.kind == "ntm" and section.start == "flow_matching":
        c = config.flow_matching
        start = f" Its predictor started from flow matching, {c.optimiser.steps:,} updates of {c.batch:,} images."
    lines = [
        "## How it was made\n",
        f"{TRAINED[about.name].capitalize()}.{start}\n",
        f"- images: `{data}`{count}",
        f"- command: `{origin['command']}`" if origin["command"] else "- command: not recorded",
        f"- commit: `{origin['commit']}`" if origin["commit"] else "- commit: not recorded",
        f"- seed: {config.seed}",
        f"- trained for {section.optimiser.steps:,} updates of {section.batch:,} images",
        "- the whole config: `origin.config` in config.json",
    ]
    return "\n".join(lines) + "\n"


def measurements(about, report):
    """The table of real images, flow matching and the model, means over seeds, and its likelihoods."""
    show = lambda line, name, scale, digits: f"{line.fields[name].value * scale:.{digits}f}" if name in line.fields else "–"
    lines = ["| | steps | guidance | ending | accuracy, % | Fréchet |", "|---|---|---|---|---|---|"]
    for line in image_cells.gather(report):
        if line.model in ("real", "flow_matching", about.name):
            ending = image_cells.ENDINGS[line.ending][0] if line.ending else "–"
            figures = f"{show(line, 'accuracy', 100, 1)} | {show(line, 'frechet', 1, 2)}"
            lines.append(f"| {cells.PLAIN[line.model]} | {line.steps or '–'} | {line.guidance:g} | {ending} | {figures} |")
    rounded = " The figures are those of the weights before rounding." if about.dtype == "bfloat16" else ""
    told = [
        f"- {row['steps']} steps: {row['trajectory_bits']:.3f} bits of trajectories (exact), {row['bound_bits']:.3f} (bound)"
        for row in image_cells.likelihoods(report)
        if row["model"] == about.name and cells.number(row.get("trajectory_bits")) and cells.number(row.get("bound_bits"))
    ]
    exact = report["exact"]
    likely = f"\nLikelihoods of held-out images, bits a number. Exact: {exact['exact']}. Bound: {exact['bound']}.\n\n"
    return (
        f"## What was measured\n\nAccuracy is the share of images that a classifier, trained by the same run, reads as what was asked "
        f"for; the Fréchet distance is on its features, to training images. Compare them within this run only.{rounded}\n\n"
        + "\n".join(lines)
        + "\n"
        + (likely + "\n".join(told) + "\n" if told else "")
        + f"\nThe run's own summary: *{report['verdict']}*\n"
    )


def usage(about):
    """An example in Python."""
    steps = max(about.told["levels"]["steps"], default=50)
    asked = f"steps={steps}, number=16"
    before, label = "", ""
    if about.names:
        label = f"label={about.names[0]!r}, "
    elif about.told["data"]["classes"]:
        label = "label=0, "
    elif width := about.told["data"]["vector"]:
        before, label = f"vector_V = [0.0] * {width}  # a vector of yours\n", "vector_V, "
    likely = "\nprint(model.log_likelihood(images.images).bound_bits)" if about.kind == "ntm" and about.told["drop"] else ""
    text = f'{before}images = model.sample({label}{asked})\nimages.save("images.png"){likely}'
    return f'## Use\n\n```python\nfrom tsdfm_jax import load\n\nmodel = load("DIR")  # the directory of this card\n{text}\n```\n'
