"""Stage `evaluate`: scores texts of the models, real text, unigram text and given files with every judge."""

import numpy as np

from tsdfm_jax.config import settings
from tsdfm_jax.data import windows
from tsdfm_jax.evaluation import elbo, judging, pretrained, text_metrics, text_sets
from tsdfm_jax.lineage.artefact import digest
from tsdfm_jax.models import transformer
from tsdfm_jax.runtime import hosts, metrics as metrics_lib, signals
from tsdfm_jax.storage import atomic, places
from tsdfm_jax.workspace import jobs, trained

FORMULAS = {
    "ppl_token": "exp(sum of NLL / number of tokens), over all texts",
    "ppl_sample": "mean over texts of exp(NLL / number of tokens)",
    "bits_per_byte": "sum of NLL / ln 2 / bytes of UTF-8, over all texts",
}


def run(config, workdir, remake=False):
    """Write `samples/*.jsonl`, `evaluate/<set>.json` with every text's metrics, and `evaluate/rows.json`.

    Every set of texts and every score says what it was made of, and stays while that holds: more steps, seeds, temperatures,
    judges or files of text only add to them.
    """
    with jobs.job(config, workdir, "evaluate", remake) as job:
        if job.finished is not None:
            return
        sets = text_sets.wanted(config)
        jumps = sum(text_set.steps * -(-config.evaluate.samples // config.evaluate.batch) for text_set in sets)
        with signals.stopping(), metrics_lib.progress("evaluate", jumps, "jump") as bar:
            examine = Examiner(config, workdir, job)
            rows = [atomic.finite(row) for text_set in sets for row in examine(text_set, bar)]
            bounds = elbo.bits_per_byte_of_models(config, workdir, job)
        hosts.first(lambda: atomic.overwrite(job.directory / "rows.json", atomic.json_text(rows, indent=1)))
        texts = [f"samples/{one.name(config)}.{ending}" for one in sets for ending in ("json", "jsonl")]
        job.finish({"rows": len(rows), "bounds": bounds, "formulas": FORMULAS}, more_files=texts)


class Examiner:
    """Gets the texts of one set after the other, scores them with every judge, and writes the results of each set."""

    def __init__(self, config, workdir, job):
        self._config, self._job, self.mesh = config, job, settings.mesh(config)
        self._tok = trained.tokenizer(config, workdir)
        self._make = text_sets.Maker(config, workdir, self.mesh, job.adopted)
        self._lexicon = windows.stored_lexicon(jobs.require(config, workdir, "data"))
        self._judges = [judging.trained_judge(config, workdir, self.mesh, i) for i in range(len(config.judges.widths))]
        self._judges += [pretrained.load(name, self.mesh) for name in places.split(config.evaluate.pretrained)]
        self._batch = config.evaluate.judge_batch or config.evaluate.batch
        self._references = {}

    def __call__(self, text_set, bar):
        """The rows of one set, one for each judge."""
        texts, about = self._make(text_set, bar)
        name = text_set.name(self._config)
        stored = hosts.first(lambda: self._stored_results(name, about))
        results = {**stored, "judges": dict(stored["judges"]), "features": dict(stored["features"])}
        results["texts"] = results["texts"] or self._text_figures(texts)
        for judge in self._judges:
            if judge.identity not in results["judges"]:
                if signals.stop_agreed():
                    raise signals.Interrupted("evaluate: stopped; the same command goes on from there")
                nll_N, tokens_N = judging.nll(judge, judging.rows_for(judge, texts), self._batch, self.mesh)
                results["judges"][judge.identity] = {"nll": nll_N.tolist(), "tokens": tokens_N.tolist()}
        last_judge, reference = self._judges[-1], self._make.reference_of(text_set)
        features = results["features"].get(last_judge.identity, {})
        if features.get("reference") != reference:
            figures = self._resemblance(last_judge, texts, text_set)
            results["features"][last_judge.identity] = {"reference": reference, "figures": figures}
        if results != stored:
            hosts.first(lambda: atomic.write_sealed(self._job.directory / f"{name}.json", atomic.finite(results)))
        self._job.metrics.text(text_set.steps, name, "\n\n---\n\n".join(texts.text[:4]))
        return [self._row(text_set, texts, about, results, judge) for judge in self._judges]

    def _stored_results(self, name, about):
        """The stored results of a set; empty ones if they are damaged or of other texts."""
        file, of = self._job.directory / f"{name}.json", digest([about["made_of"], about["texts"]])
        empty = {"of": of, "texts": None, "judges": {}, "features": {}}
        if self._job.adopted:
            self._adopt_results(file, of)
        stored = atomic.read_if_sealed(file)
        return stored if stored.get("of") == empty["of"] else empty

    def _adopt_results(self, file, of):
        """Give the results of an earlier version, whose scores are by the judges' weights alone, those of the judges trained here."""
        old, by_hash = atomic.read_json(file), {judge.hash: judge.identity for judge in self._judges if judge.settings is None}
        if "of" not in old and "judges" in old:
            judges = {by_hash[digest]: scores for digest, scores in old["judges"].items() if digest in by_hash}
            atomic.write_sealed(file, {"of": of, "texts": old["texts"], "judges": judges, "features": {}})

    def _text_figures(self, texts):
        """The metrics that need no judge; `entropy` is a list of each text's, for the frontiers."""
        x_NL, valid_NL = text_metrics.padded(texts.rows)
        nats_N = text_metrics.entropy_nats_N(x_NL, valid_NL)
        figures = {"entropy": nats_N.tolist(), "bytes": texts.bytes, "lexical": windows.lexical_share(texts.text, self._lexicon)}
        figures |= {f"distinct_{n}": text_metrics.distinct(x_NL, n, valid_NL) for n in (1, 2, 3)}
        return figures | {"repetition_4": float(text_metrics.repetition_N(x_NL, 4, valid_NL).mean())}

    def _resemblance(self, judge, texts, text_set):
        """MAUVE and the Fréchet distance to held-out text that is in no row of the table, by a judge's features."""
        features_ND = judging.features(judge, judging.rows_for(judge, texts), self._batch, self.mesh)
        if text_set.seed not in self._references:
            reference = self._make.reference(text_set.seed)
            self._references[text_set.seed] = judging.features(judge, judging.rows_for(judge, reference), self._batch, self.mesh)
        real_ND = self._references[text_set.seed][: len(features_ND)]
        if len(features_ND) < 2:
            return {"mauve": None, "mauve_spread": None, "frechet": None}
        mauve, spread = text_metrics.mauve(features_ND, real_ND, seed=0)
        return {"mauve": mauve, "mauve_spread": spread, "frechet": text_metrics.frechet(features_ND, real_ND)}

    def _row(self, text_set, texts, figures, results, judge):
        c, scores = self._config, results["judges"][judge.identity]
        nats, nll_and_tokens = float(np.mean(results["texts"]["entropy"])), (np.array(scores["nll"]), np.array(scores["tokens"]))
        bits = {"entropy_nats": nats, "entropy_bits": nats / float(np.log(2))}
        row = {
            "model": text_set.model,
            "source": c.flow.source,
            "steps": text_set.steps,
            "seed": text_set.seed,
            "temperature": text_set.temperature,
        }
        row |= {"top_p": c.evaluate.top_p, "jump": c.flow.jump, "dtype": c.model.dtype}
        row |= {"samples": len(texts.rows), "length": max(map(len, texts.rows)), "symbols": sum(map(len, texts.rows))}
        row |= {"tokens_per_second": figures["tokens_per_second"], "cut": figures.get("cut", 0), **bits}
        row |= {name: value for name, value in results["texts"].items() if name not in ("entropy", "bytes")}
        row |= results["features"][self._judges[-1].identity]["figures"] | {"features": self._judges[-1].name}
        own_tokenizer = judge.tokenizer.content_hash == texts.tokenizer
        row |= {"judge": judge.name, "judge_parameters": transformer.parameters(judge.params)}
        row |= {"judge_hash": judge.hash, "judge_identity": judge.identity}
        row |= {"judge_tokenizer": "own" if own_tokenizer else judge.tokenizer.content_hash}
        row |= {
            "judge_bos": judge.bos,
            "judge_bos_policy": judge.bos_policy,
            "judge_context": judge.context,
            **text_metrics.perplexity(*nll_and_tokens),
        }
        return row | {"bits_per_byte": text_metrics.bits_per_byte(nll_and_tokens[0], results["texts"]["bytes"])}
