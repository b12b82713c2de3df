"""The sets of texts of an evaluation; each is made once and kept on disk."""

import functools
import hashlib
import json
from typing import NamedTuple

import numpy as np

from tsdfm_jax.config import inputs, networks, settings
from tsdfm_jax.data import corpus, windows
from tsdfm_jax.evaluation import judging
from tsdfm_jax.inference import sampling
from tsdfm_jax.lineage import bookkeeping
from tsdfm_jax.lineage.artefact import digest
from tsdfm_jax.runtime import hosts
from tsdfm_jax.storage import atomic, places
from tsdfm_jax.workspace import graph, jobs, trained


class Set(NamedTuple):
    """One set: its model, number of steps (0 if none), seed and temperature; `file` for text from elsewhere."""

    model: str
    steps: int
    seed: int
    temperature: float
    file: str = ""

    def name(self, config):
        """The set's file name, without ending."""
        parts = [self.model.replace(":", "_"), *([self.steps] if self.steps else []), self.seed]
        suffix = [] if self.temperature == config.evaluate.temperature else [f"t{self.temperature:g}"]
        return "_".join(map(str, parts + suffix))


def wanted(config):
    """Every set of a config: the table's, the frontiers', then text from elsewhere. ValueError for two of one name."""
    c, sets = config.evaluate, []
    for seed in c.seeds:
        sets += [Set("data", 0, seed, c.temperature), Set("unigram", 0, seed, c.temperature)]
        for model in networks.models(config):
            steps_of = {"teacher": c.teacher_steps, "autoregressive": (config.data.length,)}.get(model, c.student_steps)
            sets += [Set(model, steps, seed, c.temperature) for steps in steps_of]
    for model, steps in settings.frontier(config):
        sets += [
            Set(model, steps, seed, temperature) for seed in c.seeds for temperature in (c.temperature, *c.frontier_temperatures)
        ]
    sets += [Set(f"text:{stem}", 0, 0, c.temperature, file) for stem, file in inputs.texts(config).items()]
    return list(dict.fromkeys(sets))


class Maker:
    """Makes sets, and writes each to `samples/` when it is done.

    `adopted` says that sets of an earlier version of the code, which do not say what they were made of, are still right.
    """

    def __init__(self, config, workdir, mesh, adopted=False):
        self._config, self._workdir, self._mesh, self._adopted = config, workdir, mesh, adopted
        self._tok = trained.tokenizer(config, workdir)
        self._path = settings.path(config, self._tok.vocab_size)
        self._data = jobs.require(config, workdir, "data")
        self._samplers, self._networks = {}, {}
        directories = {name: jobs.require(config, workdir, graph.model_directory(config, name)) for name in networks.models(config)}
        self._contents = {name: bookkeeping.done(directory)["content"] for name, directory in directories.items()}

    def __call__(self, text_set, bar):
        """(judging.Texts, about) of a set, read from disk if it stands there and was made of the same.

        `about` is `tokens_per_second` (None if nothing was generated), for text from elsewhere its `sha256` and how many
        texts were `cut` to the models' length, `made_of`, and `texts`, the sha256 of the .jsonl file.
        """
        name, made_of = text_set.name(self._config), self.made_of(text_set)
        file, about_file = self._workdir / "samples" / f"{name}.jsonl", self._workdir / "samples" / f"{name}.json"
        about = hosts.first(lambda: self._stored(file, about_file, made_of))
        if about is not None:
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            bar.advance(text_set.steps * -(-self._config.evaluate.samples // self._config.evaluate.batch))
            rows = [np.array(line["tokens"], np.int32) for line in lines]
            return self._texts(rows, [line["text"] for line in lines]), about
        make = Maker._external if text_set.file else MAKERS.get(text_set.model, Maker._sampled)
        rows, figures = make(self, text_set, bar)
        texts, common = self._texts(rows), {"model": text_set.model, "steps": text_set.steps, "seed": text_set.seed}
        common |= {"temperature": text_set.temperature}
        lines = [
            common | {"index": i, "text": text, "tokens": row.tolist()} for i, (row, text) in enumerate(zip(texts.rows, texts.text))
        ]
        body = "".join(json.dumps(line) + "\n" for line in lines).encode()
        about = figures | ({"sha256": sha256(text_set.file)} if text_set.file else {})
        about |= {"made_of": made_of, "texts": hashlib.sha256(body).hexdigest()}

        def write():
            file.parent.mkdir(exist_ok=True)
            atomic.overwrite(file, body)
            atomic.write_sealed(about_file, about)

        hosts.first(write)
        return texts, about

    def _stored(self, file, about_file, made_of):
        """What stands beside a set's texts on disk; None if they are not there, are damaged, or were made of something else."""
        about = atomic.read_json(about_file)
        if self._adopted and about and "made_of" not in about and file.exists():  # of an earlier version, and still the same
            about |= {"made_of": made_of, "texts": atomic.sha256(file)}
            atomic.write_sealed(about_file, about)
        about = atomic.read_if_sealed(about_file)
        is_whole = about.get("made_of") == made_of and file.is_file() and atomic.sha256(file) == about["texts"]
        return about if is_whole else None

    def made_of(self, text_set):
        """A hash of all that the texts of a set depend on."""
        c, network = self._config, None
        if text_set.model in networks.MODELS:
            network = self._contents[text_set.model]
        of = {"set": text_set._replace(file=""), "samples": c.evaluate.samples, "seed": c.seed, "network": network}
        of |= {"data": bookkeeping.done(self._data)["content"], "tokenizer": self._tok.content_hash, "length": c.data.length}
        if network is not None:
            of |= {"top_p": c.evaluate.top_p, "flow": c.flow.to_dict(), "dtype": c.model.dtype}
        if text_set.file:
            of |= {"sha256": sha256(text_set.file)}
        return digest(of)

    def _texts(self, rows, text=None):
        text = [self._tok.decode_pretty(row) for row in rows] if text is None else text
        return judging.Texts(rows=list(rows), text=text, tokenizer=self._tok.content_hash)

    def _sampled(self, text_set, bar):
        network, c = self._network(text_set.model), self._config.evaluate
        kind = text_set.model.split("_")[0]
        if kind not in self._samplers:
            cfg = settings.sampler_config(self._config, c, temperature=1.0)
            arguments = (self._mesh, self._tok, text_set.model, with_temperature(kind, network.apply))
            self._samplers[kind] = sampling.make_sampler(self._config, *arguments, c.batch, cfg)
        given = {"network": network.params, "temperature": np.float32(text_set.temperature)}
        seed = text_set.seed + sampling.TABLE_SEED
        x_NL, seconds = self._samplers[kind](given, seed, c.samples, text_set.steps, on_step=bar.advance)
        return x_NL, {"tokens_per_second": x_NL.size / seconds}

    def _network(self, model):
        if model not in self._networks:
            self._networks[model] = trained.model(self._config, self._workdir, self._mesh, model)
        return self._networks[model]

    def _real(self, text_set, bar):
        """Held-out windows, a different sample for every seed."""
        return self._heldout(text_set.seed, 0), {"tokens_per_second": None}

    def reference_of(self, text_set):
        """A hash of the text that a set is compared with."""
        c = self._config
        return digest([bookkeeping.done(self._data)["content"], c.evaluate.samples, c.seed, text_set.seed, self._tok.content_hash])

    def reference(self, seed):
        """Held-out text to compare every set with; it shares no window with the table's row of that seed."""
        return self._texts(self._heldout(seed, 1))

    def _heldout(self, seed, part):
        """Part 0 or 1 of the held-out windows, `evaluate.samples` each, in the seed's order."""
        split, number = windows.manifest(self._data)["splits"]["heldout"]["windows"], self._config.evaluate.samples
        if 2 * number > split:
            raise ValueError(
                f"evaluate.samples {number} exceeds half of the {split} held-out windows, one for the table and one to compare "
                f"with: lower it or raise data.holdout"
            )
        return windows.ordered(self._data, "heldout", self._config.seed + seed + 1)(range(part * number, (part + 1) * number))

    @functools.cached_property
    def _count_V(self):
        """Number of occurrences of each token in the training text."""
        count_V = np.zeros(self._path.text_vocab, np.int64)
        take = windows.ordered(self._data, "train", 0)
        total = windows.manifest(self._data)["splits"]["train"]["windows"]
        for first in range(0, total, 4096):
            count_V += np.bincount(take(range(first, min(first + 4096, total))).ravel(), minlength=len(count_V))
        return count_V

    def _unigram(self, text_set, bar):
        """Independent draws from the training text's token frequencies."""
        count_V, shape = self._count_V, (self._config.evaluate.samples, self._config.data.length)
        x_NL = np.random.default_rng(text_set.seed).choice(len(count_V), shape, p=count_V / count_V.sum()).astype(np.int32)
        return x_NL, {"tokens_per_second": None}

    def _external(self, text_set, bar):
        """Texts from elsewhere, each cut to the models' length."""
        length = self._config.data.length
        rows = self._tok.encode_batch(list(corpus.documents(corpus.CorpusConfig(files=_pattern(text_set.file)))))
        return [row[:length] for row in rows], {"tokens_per_second": None, "cut": sum(len(row) > length for row in rows)}


MAKERS = {"data": Maker._real, "unigram": Maker._unigram}


def with_temperature(kind, apply):
    """A network with the temperature as an input beside its weights, so that one program serves a whole frontier."""
    if kind != "autoregressive":
        return lambda given, x_BL, t_B, h_B: apply(given["network"], x_BL, t_B, h_B) / given["temperature"]

    def decode(given, cache, x_B):
        logits_BV, cache = apply(given["network"], cache, x_B)
        return logits_BV / given["temperature"], cache

    return decode


def _pattern(file):
    place = places.expanded(file)
    return f"{places.escaped(place)}/*.txt" if place.is_dir() else places.escaped(place)


def sha256(file):
    """sha256 of the names and contents of a file, or of a folder's .txt files; FileNotFoundError if there are none."""
    location = places.expanded(file)
    files = sorted(location.glob("*.txt")) if location.is_dir() else [location]
    if not files or not all(path.is_file() for path in files):
        raise FileNotFoundError(f"evaluate.text={file} is no .jsonl file and no folder of .txt files")
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
