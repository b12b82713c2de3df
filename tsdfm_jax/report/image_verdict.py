"""What an NTM report says, in one sentence."""

from tsdfm_jax.report import image_cells


def sentence(report):
    """NTM at each of its numbers of steps beside flow matching at as many, and the transporter's worth.

    Both are taken as they are, without guidance and with their noise: a choice by the judge of the table would flatter.
    """
    lines = image_cells.gather(report)
    parts = [part for steps in sorted({line.steps for line in lines if line.model == "ntm"}) if (part := _at(lines, steps))]
    worth = [part for row in image_cells.likelihoods(report) if (part := _worth(report, row))]
    if not parts and not worth:
        return "No trajectory model was measured."
    return " ".join(parts + worth)


def plain(lines, model, steps):
    """The line of a model at a number of steps, without guidance and with noise; None without one."""
    fitting = (line for line in lines if (line.model, line.steps, line.guidance) == (model, steps, 0.0))
    return next((line for line in fitting if line.ending in ("", "noisy") and "frechet" in line.fields), None)


def _at(lines, steps):
    ntm, flow = plain(lines, "ntm", steps), plain(lines, "flow_matching", steps)
    if ntm is None:
        return None
    distance = ntm.fields["frechet"].value
    said = f"At {steps} step{'s' if steps > 1 else ''} NTM's images have a Fréchet distance of {distance:.3f}"
    if flow is not None and flow.fields["frechet"].value > 0:
        other = flow.fields["frechet"].value
        said += f", ×{distance / other:.2f} that of flow matching at as many steps ({other:.3f})"
    if "accuracy" in ntm.fields:
        said += f", and a classifier reads {ntm.fields['accuracy'].value:.1%} of them as what was asked for"
    return said + "."


def _worth(report, row):
    """How much better the likelihood is with a transporter, at one number of steps."""
    if row["model"] != "ntm":
        return None
    others = (one for one in report["likelihoods"] if one["model"] == "ntm_identity" and one["steps"] == row["steps"])
    other = next(others, None)
    if other is None:
        return None
    gain, steps = other["trajectory_bits"] - row["trajectory_bits"], row["steps"]
    word = "better" if gain >= 0 else "worse"
    return f"Its transporter makes trajectories of {steps} step{'s' if steps > 1 else ''} {abs(gain):.3f} bits a number {word}."
