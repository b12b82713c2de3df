"""Stage `evaluate`: samples of teacher and students at several numbers of steps, judged beside real and unigram text."""

import json

import numpy as np

from tsdfm_jax import sampling, scores, settings, workspace
from tsdfm_jax.data import windows
from tsdfm_jax.models import transformer
from tsdfm_jax.runtime import hosts, metrics as metrics_lib, signals, stage as bookkeeping


def run(config, workdir):
    """Leave `samples/*.jsonl` and `evaluate/rows.json`, one row for each set of texts and judge."""
    with workspace.job(config, workdir, "evaluate") as job:
        if job.finished is not None:
            return
        sets = list(wanted(config))
        jumps = sum(steps * -(-config.evaluate.samples // config.evaluate.batch) for model, steps, _ in sets if steps)
        with signals.stopping(), metrics_lib.progress("evaluate", jumps, "jump") as bar:
            write = Writer(config, workdir, job)
            rows = [row for model, steps, seed in sets for row in write(model, steps, seed, bar)]
        hosts.first(lambda: bookkeeping.atomic_write(job.directory / "rows.json", json.dumps(rows, indent=1)))
        job.finish({"rows": len(rows)})


def wanted(config):
    """Every (model, steps, seed) of the table; real and unigram text have no steps."""
    for seed in config.evaluate.seeds:
        yield "data", 0, seed
        yield "unigram", 0, seed
        yield from (("teacher", steps, seed) for steps in config.evaluate.teacher_steps)
        yield from ((f"student_{v}", steps, seed) for v in workspace.VARIANTS for steps in config.evaluate.student_steps)


class Writer:
    """Makes one set of texts after the other, keeps each on disk as it is done, and judges it."""

    def __init__(self, config, workdir, job):
        self._config, self._workdir, self._job = config, workdir, job
        self._mesh, self._tok = settings.mesh(config), workspace.tokenizer(config, workdir)
        self._path = settings.path(config, self._tok.vocab_size)
        self._data = workspace.require(config, workdir, "data")
        self._lexicon = windows.stored_lexicon(self._data)
        self._judges = [workspace.judge(config, workdir, self._mesh, i) for i in range(len(config.judges.widths))]
        self._samplers, self._networks = {}, {}

    def __call__(self, model, steps, seed, bar):
        """The rows of one set: one a judge."""
        x_NL, speed = self._texts(model, steps, seed, bar)
        c = self._config.evaluate
        row = {"model": model, "source": self._config.flow.source, "steps": steps, "seed": seed, "temperature": c.temperature}
        row |= {"top_p": c.top_p, "jump": self._config.flow.jump, "dtype": self._config.model.dtype}
        row |= {"samples": len(x_NL), "length": x_NL.shape[1], "tokens_per_second": speed}
        row |= scores.text_scores(x_NL, self._tok, self._lexicon)
        for number, judge in enumerate(self._judges):
            size = transformer.parameters(judge[1])
            yield {
                **row,
                "judge": f"judge_{number}",
                "judge_parameters": size,
                **scores.perplexity(judge, self._tok.eos_id, x_NL, c.batch, self._mesh),
            }

    def _texts(self, model, steps, seed, bar):
        """The set from disk where it is there already, else made and written: (x_NL, symbols a second or None)."""
        name = f"{model}_{steps}_{seed}" if steps else f"{model}_{seed}"
        file, note = self._workdir / "samples" / f"{name}.jsonl", self._job.directory / f"{name}.json"
        if hosts.first(lambda: file.exists() and note.exists()):
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            bar.advance(steps * -(-self._config.evaluate.samples // self._config.evaluate.batch))
            return np.array([line["tokens"] for line in lines], np.int32), json.loads(note.read_text())["tokens_per_second"]
        x_NL, seconds = MAKERS.get(model, Writer._sampled)(self, model, steps, seed, bar)
        speed = x_NL.size / seconds if seconds else None
        lines = [
            {"model": model, "steps": steps, "seed": seed, "index": i, "text": self._tok.decode_pretty(x), "tokens": x.tolist()}
            for i, x in enumerate(x_NL)
        ]

        def write():
            file.parent.mkdir(exist_ok=True)
            bookkeeping.atomic_write(file, "".join(json.dumps(line) + "\n" for line in lines))
            bookkeeping.atomic_write(note, json.dumps({"tokens_per_second": speed}))

        hosts.first(write)
        self._job.metrics.text(steps, f"{model}_{seed}", "\n\n---\n\n".join(line["text"] for line in lines[:4]))
        return x_NL, speed

    def _sampled(self, model, steps, seed, bar):
        network, c = self._network(model), self._config.evaluate
        kind = model.split("_")[0]
        if kind not in self._samplers:
            cfg = settings.sampler_config(self._config, c)
            self._samplers[kind] = sampling.Sampler(network.apply, self._path, self._mesh, self._config.data.length, c.batch, cfg)
        return self._samplers[kind](network.params, seed + 6000, c.samples, steps, advanced=bar.advance)

    def _network(self, model):
        if model not in self._networks:
            where = (self._config, self._workdir, self._mesh)
            self._networks[model] = (
                workspace.teacher(*where) if model == "teacher" else workspace.student(*where, model.removeprefix("student_"))
            )
        return self._networks[model]

    def _real(self, model, steps, seed, bar):
        """Held-out windows, others for every seed."""
        split = windows.manifest(self._data)["splits"]["heldout"]["windows"]
        number = self._config.evaluate.samples
        if number > split:
            raise ValueError(f"evaluate.samples {number} exceeds the {split} held-out windows: lower it or raise data.holdout")
        return windows.ordered(self._data, "heldout", self._config.seed + seed + 1)(range(number)), None

    def _unigram(self, model, steps, seed, bar):
        """Independent draws from the training text's frequencies."""
        count_V = np.zeros(self._path.symbols, np.int64)
        take = windows.ordered(self._data, "train", 0)
        total = windows.manifest(self._data)["splits"]["train"]["windows"]
        for first in range(0, total, 4096):
            count_V += np.bincount(take(range(first, min(first + 4096, total))).ravel(), minlength=len(count_V))
        shape = (self._config.evaluate.samples, self._config.data.length)
        return np.random.default_rng(seed).choice(len(count_V), shape, p=count_V / count_V.sum()).astype(np.int32), None


MAKERS = {"data": Writer._real, "unigram": Writer._unigram}
