"""Stage `evaluate`: scores texts of the models, real text, unigram text and given files with every judge."""

import json

import numpy as np

from tsdfm_jax.config import settings
from tsdfm_jax.data import windows
from tsdfm_jax.evaluation import elbo, judging, pretrained, text_metrics, text_sets
from tsdfm_jax.models import transformer
from tsdfm_jax.runtime import hosts, metrics as metrics_lib, signals
from tsdfm_jax.storage import atomic
from tsdfm_jax.workspace import jobs, trained

FORMULAS = {
    "ppl_token": "exp(sum of NLL / number of tokens), over all texts",
    "ppl_sample": "mean over texts of exp(NLL / number of tokens)",
    "bits_per_byte": "sum of NLL / ln 2 / bytes of UTF-8, over all texts",
}


def run(config, workdir):
    """Write `samples/*.jsonl`, `evaluate/<set>.json` with every text's metrics, and `evaluate/rows.json`.

    Earlier results are kept: more steps, seeds, temperatures, judges or files of text only add to them.
    """
    with jobs.job(config, workdir, "evaluate") as job:
        sets = text_sets.wanted(config)
        wanted = {one.name(config) for one in sets}
        texts = {one.file: text_sets.sha256(one.file) for one in sets if one.file}
        asked = json.loads(json.dumps([sorted(wanted), sorted(texts.items()), settings.listed(config.evaluate.pretrained)]))
        if job.finished is not None and job.finished["asked"] == asked:
            return
        jumps = sum(one.steps * -(-config.evaluate.samples // config.evaluate.batch) for one in sets)
        with signals.stopping(), metrics_lib.progress("evaluate", jumps, "jump") as bar:
            examine = Examiner(config, workdir, job)
            rows = [row for one in sets for row in examine(one, bar)]
            found = elbo.bits_per_byte_of_models(config, workdir, job)
        hosts.first(lambda: atomic.overwrite(job.directory / "rows.json", json.dumps(rows, indent=1)))
        job.finish({"rows": len(rows), "asked": asked, "bounds": found, "formulas": FORMULAS})


class Examiner:
    """Gets the texts of one set after the other, scores them with every judge, and writes the results of each set."""

    def __init__(self, config, workdir, job):
        self._config, self._job, self.mesh = config, job, settings.mesh(config)
        self._tok = trained.tokenizer(config, workdir)
        self._make = text_sets.Maker(config, workdir, self.mesh)
        self._lexicon = windows.stored_lexicon(jobs.require(config, workdir, "data"))
        self._judges = [judging.trained_judge(config, workdir, self.mesh, i) for i in range(len(config.judges.widths))]
        self._judges += [pretrained.load(name, self.mesh) for name in settings.listed(config.evaluate.pretrained)]
        self._batch = config.evaluate.judge_batch or config.evaluate.batch
        self._references = {}

    def __call__(self, one, bar):
        """The rows of one set, one for each judge."""
        texts, figures = self._make(one, bar)
        name = one.name(self._config)
        kept = self._kept(name, figures)
        kept["texts"] = kept.get("texts") or self._text_figures(texts)
        for judge in self._judges:
            if judge.hash not in kept["judges"]:
                if signals.stop_agreed():
                    raise signals.Interrupted("evaluate: stopped; the same command goes on from there")
                nll_N, tokens_N = judging.nll(judge, judging.rows_for(judge, texts), self._batch, self.mesh)
                kept["judges"][judge.hash] = {"nll": nll_N.tolist(), "tokens": tokens_N.tolist()}
        last = self._judges[-1]
        if last.hash not in kept["features"]:
            kept["features"][last.hash] = self._resemblance(last, texts, one)
        hosts.first(lambda: atomic.overwrite(self._job.directory / f"{name}.json", json.dumps(kept)))
        self._job.metrics.text(one.steps, name, "\n\n---\n\n".join(texts.text[:4]))
        return [self._row(one, texts, figures, kept, judge) for judge in self._judges]

    def _kept(self, name, figures):
        """The stored results of a set, or empty ones if a given file has changed since."""
        file = self._job.directory / f"{name}.json"
        before = hosts.first(lambda: json.loads(file.read_text()) if file.exists() else {})
        fresh = {"sha256": figures.get("sha256"), "judges": {}, "features": {}}
        return before if before.get("sha256", "") == fresh["sha256"] else fresh

    def _text_figures(self, texts):
        """The metrics that need no judge; `entropy` is a list of each text's, for the frontiers."""
        x_NL, valid_NL = text_metrics.padded(texts.rows)
        nats_N = text_metrics.entropy_nats_N(x_NL, valid_NL)
        found = {"entropy": nats_N.tolist(), "bytes": texts.bytes, "lexical": windows.lexical_share(texts.text, self._lexicon)}
        found |= {f"distinct_{n}": text_metrics.distinct(x_NL, n, valid_NL) for n in (1, 2, 3)}
        return found | {"repetition_4": float(text_metrics.repetition_N(x_NL, 4, valid_NL).mean())}

    def _resemblance(self, judge, texts, one):
        """MAUVE and the Fréchet distance to held-out text that is in no row of the table, by a judge's features."""
        mine_ND = judging.features(judge, judging.rows_for(judge, texts), self._batch, self.mesh)
        if one.seed not in self._references:
            held = self._make.reference(one.seed)
            self._references[one.seed] = judging.features(judge, judging.rows_for(judge, held), self._batch, self.mesh)
        real_ND = self._references[one.seed][: len(mine_ND)]
        if len(mine_ND) < 2:
            return {"mauve": None, "mauve_spread": None, "frechet": None}
        mauve, spread = text_metrics.mauve(mine_ND, real_ND, seed=0)
        return {"mauve": mauve, "mauve_spread": spread, "frechet": text_metrics.frechet(mine_ND, real_ND)}

    def _row(self, one, texts, figures, kept, judge):
        c, told = self._config, kept["judges"][judge.hash]
        nats, told_N = float(np.mean(kept["texts"]["entropy"])), (np.array(told["nll"]), np.array(told["tokens"]))
        bits = {"entropy_nats": nats, "entropy_bits": nats / float(np.log(2))}
        row = {"model": one.model, "source": c.flow.source, "steps": one.steps, "seed": one.seed, "temperature": one.temperature}
        row |= {"top_p": c.evaluate.top_p, "jump": c.flow.jump, "dtype": c.model.dtype}
        row |= {"samples": len(texts.rows), "length": max(map(len, texts.rows)), "symbols": sum(map(len, texts.rows))}
        row |= {"tokens_per_second": figures["tokens_per_second"], "cut": figures.get("cut", 0), **bits}
        row |= {name: value for name, value in kept["texts"].items() if name not in ("entropy", "bytes")}
        row |= kept["features"][self._judges[-1].hash] | {"features": self._judges[-1].name}
        own = judge.tokenizer.content_hash == texts.tokenizer
        row |= {"judge": judge.name, "judge_parameters": transformer.parameters(judge.params), "judge_hash": judge.hash}
        row |= {"judge_tokenizer": "own" if own else judge.tokenizer.content_hash}
        row |= {
            "judge_bos": judge.bos,
            "judge_bos_policy": judge.bos_policy,
            "judge_context": judge.context,
            **text_metrics.perplexity(*told_N),
        }
        return row | {"bits_per_byte": text_metrics.bits_per_byte(told_N[0], kept["texts"]["bytes"])}
