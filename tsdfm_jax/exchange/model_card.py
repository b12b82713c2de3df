"""The model card, README.md beside a model's weights; all that it says comes from the files of the run or of the import."""

import jax

from tsdfm_jax.models import transformer
from tsdfm_jax.report import cells
from tsdfm_jax.storage import atomic

TRAINED = {
    "teacher": "discrete flow matching on the corpus",
    "student_shaped": "distilled with step-size conditioning, from trajectories with midpoints chosen by a compass",
    "student_blind": "distilled with step-size conditioning, from trajectories with midpoints drawn without a choice",
}
LIMITS = """## What it must not be used for

The model writes text that resembles its corpus; it does not know what is true. This card shows all that was measured: facts,
safety, bias and the following of instructions were not. Do not use its text as information or advice, in decisions about
people, or where a reader could believe that a person wrote it.
"""


def exported(about, config, report, reason=""):
    """The card of a model of a run. `report` is the report.json of these weights, or None; `reason` then says why."""
    name = f"{cells.PLAIN[about.name]} of {about.origin['run']}"
    data = config.data.package if not config.data.files else config.data.files
    parts = [
        header(license="apache-2.0", datasets=[data]),
        f"# TS-DFM: {name}\n\n{describe(about)}",
        how_made(about, config, report, data),
        measurements(about, report) if report else f"## What was measured\n\n{reason} No figures are given.\n",
        LIMITS,
        usage(about),
    ]
    return "\n".join(parts)


def imported(about):
    """The card of an imported model."""
    origin = about.origin
    dictionary = f", its dictionary `{origin['dictionary']}`" if origin["dictionary"] else ""
    parts = [
        header(),
        f"# FS-DFM: {about.kind}\n\n{describe(about)}",
        f"## How it was made\n\nImported from the PyTorch checkpoint `{origin['file']}`{dictionary} (sha256 `{origin['sha256']}`)"
        + (f", by\n\n```\n{origin['command']}\n```\n" if origin["command"] else ".\n"),
        "Licence, training data and limits of the weights are those of that checkpoint: see where it was published.\n",
        f"The length of {about.length:,} tokens, the exponent {about.path.exponent:g} and the jump `{about.jump}` come from the "
        f"import's flags or their defaults; the checkpoint does not hold them.\n",
        "## What was measured\n\nThe import measures nothing. No figures are given.\n",
        LIMITS,
        usage(about),
    ]
    return "\n".join(parts)


def header(**more):
    """The YAML header; strings are written as JSON, which YAML reads."""
    text = {"pipeline_tag": "text-generation", "tags": ["discrete-flow-matching", "text-generation", "jax", "flax"]}
    fields = {name: value for name, value in more.items() if name not in text}
    fields |= {"library_name": "tsdfm_jax"} | text | {name: more[name] for name in text if name in more}
    return "---\n" + "".join(f"{key}: {atomic.json_text(value)}\n" for key, value in fields.items()) + "---\n"


def describe(about):
    """The model's shape, path, weights and tokenizer, from config.json."""
    net, path = about.network, about.path
    size = transformer.parameters(transformer_shapes(net))
    conditioning = " It is conditioned on the step size." if about.kind == "student" else ""
    rounded = "rounded to bfloat16, " if about.dtype == "bfloat16" else ""
    tok = f"tokenizer `{about.tokenizer}` (sha256 of its file)" if about.tokenizer else "no tokenizer"
    return (
        f"A {about.kind} of discrete flow matching: {size:,} parameters, {net.blocks} blocks of width {net.width}, {net.heads} heads, "
        f"conditioning {net.cond_width}, vocabulary {path.text_vocab:,}, texts of up to {about.length:,} tokens. Source `{path.source}`, "
        f"kappa(t) = t^{path.exponent:g}, jump `{about.jump}`.{conditioning}\n\n"
        f"Weights: {rounded}content hash `{about.hash}`"
        + (" (of the rounded weights, in float32)" if rounded else "")
        + f"; {tok}.\n"
    )


def transformer_shapes(net):
    """The parameters of a network as shapes."""
    return jax.eval_shape(lambda: transformer.init(jax.random.key(0), net, 1))


def how_made(about, config, report, data):
    """The corpus, command, commit, seed and training of the run."""
    origin, section = about.origin, config.teacher if about.kind == "teacher" else config.student
    if path := section.get("path", ""):
        start = (
            f"It was taken from `{path}`, not trained." if about.kind == "teacher" else f"It started from the weights of `{path}`."
        )
    else:
        start = ""
    lines = [
        "## How it was made\n",
        f"{TRAINED[about.name].capitalize()}. {start}".rstrip() + "\n",
        f"- corpus: `{data}`" + _corpus(report),
        f"- command: `{origin['command']}`" if origin["command"] else "- command: not recorded",
        f"- commit: `{origin['commit']}`" if origin["commit"] else "- commit: not recorded",
        f"- seed: {config.seed}",
    ]
    if about.kind == "student" or not path:
        updates = section.optimiser.steps * (config.rounds if about.kind == "student" else 1)
        tokens = updates * section.batch * config.data.length
        lines.append(f"- trained on {tokens:,} tokens: {updates:,} updates of {section.batch:,} windows")
    if about.kind == "student":
        teacher_path = config.teacher.get("path", "")
        c, tokens = config.teacher, config.teacher.optimiser.steps * config.teacher.batch * config.data.length
        lines.append(
            f"- its teacher: loaded from `{teacher_path}`"
            if teacher_path
            else f"- its teacher: {tokens:,} tokens, {c.optimiser.steps:,} updates"
        )
        c, whole = config.trajectories, config.student.target != "chain"
        kind = f"complete ones of {c.midpoints} midpoints" if whole else f"chains `{c.chain}`"
        lines.append(f"- trajectories: {c.count:,} in each of {config.rounds} round{'s' * (config.rounds > 1)}, {kind}")
    if about.name == "student_shaped":
        lines.append(
            f"- shaping: K = {config.shaping.candidates}, compass `{config.compass.kind}`, selection `{config.shaping.selection}`"
        )
    lines.append("- the whole config: `origin.config` in config.json")
    return "\n".join(lines) + "\n"


def _corpus(report):
    if not report:
        return ""
    train = report["stages"]["data"]["splits"]["train"]
    return f", {train['documents']:,} documents, {train['tokens']:,} tokens"


def measurements(about, report):
    """The table of metrics of the model, its teacher and real text, means over seeds."""
    temperature = report["config"]["evaluate"]["temperature"]
    rows = [row for row in report["rows"] if row["temperature"] == temperature]
    judges = {row["judge"]: row["judge_parameters"] for row in sorted(rows, key=lambda row: row["judge_parameters"])}
    lines = [
        "| | steps | entropy, nats | " + " | ".join(f"ppl, {name} ({size / 1e6:.2f}M)" for name, size in judges.items()) + " |"
    ]
    lines.append("|---" * (3 + len(judges)) + "|")
    for model in dict.fromkeys(("data", "teacher", about.name)):
        for steps in sorted({row["steps"] for row in rows if row["model"] == model}):
            model_rows = [row for row in rows if (row["model"], row["steps"]) == (model, steps)]
            means = [_mean(row["entropy_nats"] for row in model_rows)]
            means += [_mean(row["ppl_token"] for row in model_rows if row["judge"] == judge) for judge in judges]
            lines.append(
                f"| {cells.PLAIN[model]} | {steps or '–'} | {means[0]:.2f} | "
                + " | ".join(f"{mean:,.0f}" for mean in means[1:])
                + " |"
            )
    first_row, seeds = rows[0], len({row["seed"] for row in rows})
    sampling = f"{first_row['samples']} texts of {first_row['length']} tokens per row and seed, {seeds} seed{'s' * (seeds > 1)}, temperature {temperature:g}"
    rounded = " The figures are those of the weights before rounding." if about.dtype == "bfloat16" else ""
    bound = report["bounds"].get(about.name)
    bits = f"\nELBO of held-out text (a bound on −log p): {bound:.3f} bits per byte.\n" if bound else ""
    return (
        f"## What was measured\n\nGenerative perplexity (`ppl_token`: {report['formulas']['ppl_token']}), {sampling}.{rounded} A lower "
        f"perplexity can mean lower diversity: compare the entropy.\n\n" + "\n".join(lines) + f"\n{bits}\nThe run's own "
        f"summary: *{report['verdict']}*\n"
    )


def _mean(values):
    values = list(values)
    return sum(values) / len(values)


def usage(about):
    """An example in Python."""
    text = f'for sample in model.sample("The", steps={64 if about.kind == "teacher" else 8}, number=3):\n    print(sample)'
    if about.tokenizer is None:
        text = "logits_BLV = model.logits([[0, 1, 2]], [0.5])  # no tokenizer: tokens in, logits out\nprint(logits_BLV.shape)"
    return f'## Use\n\n```python\nfrom tsdfm_jax import load\n\nmodel = load("DIR")  # the directory of this card\n{text}\n```\n'
