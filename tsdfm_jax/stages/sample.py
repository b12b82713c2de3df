"""Stage `sample`: writes text with one of the models, to the terminal while it is refined, and to JSONL."""

import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import time

import filelock
import rich.console
import rich.live
import rich.rule
import rich.text

from tsdfm_jax.config import networks, settings
from tsdfm_jax.data import prompts
from tsdfm_jax.inference import sampling
from tsdfm_jax.lineage import bookkeeping
from tsdfm_jax.lineage.artefact import digest
from tsdfm_jax.runtime import hosts, metrics, signals
from tsdfm_jax.storage import atomic, places
from tsdfm_jax.workspace import graph, jobs, trained

LIVE_TEXTS = 4  # texts that are shown while they are refined
PAUSE = 0.08  # seconds between two updates of the terminal
GIVEN_STYLE = "bold"
WRITTEN = ("text", "tokens", "given", "states")  # of a line, what the network wrote
# A model of byte tokens can write control characters, which a terminal would obey.
REPLACEMENTS = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def run(config, workdir, remake=False):
    """Print texts and write them to `samples/sample.jsonl`; `remake` means nothing to this stage.

    The same request to the same network prints the texts that are there, unless a terminal shows how they are refined.
    """
    del remake
    config = with_actual_steps(config)
    c, tok, console = config.sample, trained.tokenizer(config, workdir), rich.console.Console()
    requests, made_of = requests_of(config, tok), made_of_what(config, workdir)
    # The same in every process: all of them must gather each state that is shown.
    live = hosts.first(lambda: c.live and console.is_terminal and not console.is_dumb_terminal)
    samples, said = None if live else hosts.first(lambda: stored(workdir, made_of)), "as they were written before"
    if samples is None:
        writer = sampling.writer(config, workdir, settings.mesh(config), c.model)
        with signals.stopping(), Board(console, writer, c, sampling.rows(requests)) if live else contextlib.nullcontext() as board:
            options = dict(temperature=c.temperature, top_p=c.top_p, batch=c.batch, states=c.states, on_state=board)
            started, before = time.perf_counter(), metrics.compiled()
            samples = writer(requests, c.steps, **options)
            said = f"in {time.perf_counter() - started:.1f} s, of which {metrics.compiled() - before}"
    if hosts.is_first():
        file = write_jsonl(config, workdir, samples, made_of)
        show(console, c, tok, samples)
        errors = rich.console.Console(stderr=True, highlight=False, soft_wrap=True)  # stdout has only texts
        errors.print(f"{len(samples)} texts {said}; in {file}", style="dim", markup=False)


def made_of_what(config, workdir):
    """A hash of all that the texts depend on."""
    c = config.sample
    network = bookkeeping.done(jobs.require(config, workdir, graph.model_directory(config, c.model)))
    asked = {key: value for key, value in c.to_dict().items() if key not in ("live", "batch")}
    prompts_file = atomic.sha256(places.expanded(c.prompts)) if c.prompts else None
    computed = [config.data.length, config.flow.to_dict(), config.model.dtype]
    return digest([asked, prompts_file, computed, network["content"] if network else None, config.mesh.tensor])


def stored(workdir, made_of):
    """The Samples in sample.jsonl, if they were made of the same; None otherwise."""
    file = workdir / "samples" / "sample.jsonl"
    about = atomic.read_if_sealed(file.with_suffix(".json"))
    if about.get("made_of") != made_of or not file.is_file() or atomic.sha256(file) != about["texts"]:
        return None
    return [sample_of(json.loads(line)) for line in file.read_text().splitlines()]


def sample_of(line):
    """The Sample of a line of the JSONL."""
    ask = prompts.Ask(**{name: line[name] for name in ("prompt", "suffix", "infill", "span", "span_length", "seed")})
    fields = {name: line[name] for name in ("text", "tokens", "given", "index")}
    return sampling.Sample(ask=ask, states=line.get("states", []), **fields)


def with_actual_steps(config):
    """The config with the number of steps that its model really takes, for the headings and the JSONL."""
    actual = config.copy_and_resolve_references()
    actual.sample.steps = networks.evaluations(config, config.sample.model, config.sample.steps)
    return actual


def requests_of(config, tok):
    """The requests of the config, from its file of prompts if it has one. Raises ValueError for what cannot be written."""
    c = config.sample
    ask = settings.fill(prompts.Ask, c)
    if c.prompts:
        return hosts.first(lambda: prompts.from_file(c.prompts, ask, tok, config.data.length))
    return [prompts.request(tok, ask, config.data.length)]


def write_jsonl(config, workdir, samples, made_of=""):
    """Write `samples/sample.jsonl`, one text in each line, and beside it what they were made of; returns the file.

    Texts of another request that are there move to `sample_1.jsonl`, `sample_2.jsonl`, …; those that another network wrote for
    the same request are replaced. The same texts again only get a new time.
    """
    file = pathlib.Path(workdir) / "samples" / "sample.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [record(config.sample, sample) for sample in samples]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    with filelock.FileLock(file.parent / ".lock"):  # several commands may sample at once
        if file.exists() and file.read_bytes() == content:
            os.utime(file)
        else:
            if file.exists() and _requests(file.read_bytes()) not in (None, [_request(line) for line in lines]):
                _keep(file)
            atomic.overwrite(file, content)
        atomic.write_sealed(file.with_suffix(".json"), {"made_of": made_of, "texts": hashlib.sha256(content).hexdigest()})
    return file


def _keep(file):
    """Give the texts of an earlier request another name, unless they have one."""
    content, numbers = file.read_bytes(), itertools.count(1)
    while not atomic.create(kept := file.with_stem(f"{file.stem}_{next(numbers)}"), content):
        if kept.read_bytes() == content:
            return


def _request(line):
    return {key: value for key, value in line.items() if key not in WRITTEN}


def _requests(content):
    """What was asked for in a file of texts; None if it is damaged."""
    try:
        return [_request(json.loads(line)) for line in content.splitlines()]
    except (ValueError, AttributeError):
        return None


def record(c, sample):
    """The line of a text in the JSONL; `given` are positions, `states` (if requested) begin with the noise."""
    ask = sample.ask
    line = {"model": c.model, "steps": c.steps, "seed": ask.seed, "index": sample.index}
    line |= {name: getattr(ask, name) for name in ("prompt", "suffix", "infill", "span", "span_length")}
    line |= {"temperature": c.temperature, "top_p": c.top_p, "length": len(sample.tokens)}
    line |= {"text": sample.text, "tokens": sample.tokens, "given": sample.given}
    return line | ({"states": sample.states} if c.states else {})


def show(console, c, tok, samples):
    """Print texts to the terminal."""
    for sample in samples:
        console.print(rich.rule.Rule(title(c, sample), align="left"))
        # The terminal breaks long lines itself: in a file or a pipe the text stays unchanged.
        console.print(styled(tok, sample), soft_wrap=True)


def title(c, sample):
    """The heading of a text."""
    return f"{c.model}, {c.steps} steps, seed {sample.ask.seed}, text {sample.index}"


def styled(tok, sample):
    """A text with its given tokens in bold."""
    parts = ((piece.translate(REPLACEMENTS), GIVEN_STYLE if given else "") for piece, given in pieces(tok, sample))
    return rich.text.Text.assemble(*parts)


def pieces(tok, sample):
    """The text as a list of (characters, whether they were given).

    Each piece is what its tokens add to the text before them: decoded alone, they could begin with an extra space. If decoding
    more tokens changes the earlier text, the whole text is one piece and counts as not given.
    """
    given, parts, before, first = set(sample.given), [], "", 0
    for end in range(1, len(sample.tokens) + 1):
        if end < len(sample.tokens) and (end in given) == (first in given):
            continue
        text = tok.decode_pretty(sample.tokens[:end])
        if not text.startswith(before):
            return [(sample.text, False)]
        parts.append((text[len(before) :], first in given))
        before, first = text, end
    return parts


class Board:
    """Shows the first texts of a batch on the terminal while they are refined, and removes them at the end."""

    def __init__(self, console, writer, c, rows):
        self._writer, self._c, self._rows, self._last = writer, c, rows, 0.0
        self._live = rich.live.Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self):
        if hosts.is_first():
            self._live.start()
        return self

    def __exit__(self, *error):
        self._live.stop()

    def __call__(self, places, step, x_BL):
        """Draw the state after `step` steps of the texts at `places`, unless it is too soon after the last drawing."""
        now = time.monotonic()
        if not hosts.is_first() or (0 < step < self._c.steps and now - self._last < PAUSE):
            return
        self._last, parts = now, []
        for place, x_L in zip(places[:LIVE_TEXTS], x_BL):
            sample = self._writer.sample(self._rows[place], x_L)
            heading = f"{title(self._c, sample)}: step {step}, t = {step / self._c.steps:.3f}"
            parts += [rich.rule.Rule(heading, align="left"), styled(self._writer.tokenizer, sample)]
        self._live.update(rich.console.Group(*parts), refresh=True)
