"""Stage `sample`: text from the teacher or a student, to the terminal and to JSONL."""

import json
import pathlib

import numpy as np
import rich.console
import rich.rule

from tsdfm_jax import sampling, settings, workspace
from tsdfm_jax.runtime import hosts, mesh as meshes, signals, stage as bookkeeping


def run(config, workdir):
    """Print texts and leave them in `samples/sample.jsonl`; it runs whenever it is asked for."""
    c = config.sample
    tok, mesh = workspace.tokenizer(config, workdir), settings.mesh(config)
    given_L = prompt(tok, c.prompt, config.data.length)
    where = (config, workdir, mesh)
    network = workspace.teacher(*where) if c.model == "teacher" else workspace.student(*where, c.model.removeprefix("student_"))
    batch = -(-c.number // meshes.batch_devices(mesh)) * meshes.batch_devices(mesh)
    cfg = settings.sampler_config(config, c)
    draw = sampling.Sampler(network.apply, settings.path(config, tok.vocab_size), mesh, config.data.length, batch, cfg)
    with signals.stopping():
        x_NL, seconds = draw(network.params, c.seed, c.number, c.steps, given_L=given_L)
    if hosts.is_first():
        show(config, workdir, tok, x_NL)


def show(config, workdir, tok, x_NL):
    """Texts to the terminal and to disk."""
    c = config.sample
    lines = [
        {
            "model": c.model,
            "steps": c.steps,
            "seed": c.seed,
            "index": i,
            "prompt": c.prompt,
            "text": tok.decode_pretty(x),
            "tokens": x.tolist(),
        }
        for i, x in enumerate(x_NL)
    ]
    file = pathlib.Path(workdir) / "samples" / "sample.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    bookkeeping.atomic_write(file, "".join(json.dumps(line) + "\n" for line in lines))
    console = rich.console.Console()
    for line in lines:
        console.print(rich.rule.Rule(f"{c.model}, {c.steps} steps, seed {c.seed}, text {line['index']}", align="left"))
        console.print(line["text"], markup=False, highlight=False)


def prompt(tok, text, length):
    """A prompt's symbols at the front, -1 (free) behind it; ValueError where it leaves no room."""
    ids = tok.encode(text) if text else np.zeros(0, np.int32)
    if len(ids) >= length:
        raise ValueError(f"sample.prompt is {len(ids)} symbols long, and the model writes {length}: shorten it")
    return np.concatenate([ids, np.full(length - len(ids), -1)]).astype(np.int32)
