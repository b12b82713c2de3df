"""Sampling from a tiny trained run: given text stays, texts are independent of each other, errors are one line."""

import dataclasses
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import nbclient
import nbformat
import numpy as np
import pytest
import rich.console
from ml_collections import ConfigDict

from tests import tiny
from tsdfm_jax import load, main
from tsdfm_jax.config import validation
from tsdfm_jax.data import prompts
from tsdfm_jax.flow import path as paths, sampler
from tsdfm_jax.inference import sampling
from tsdfm_jax.runtime import mesh as meshes, metrics, signals
from tsdfm_jax.stages import sample as stage
from tsdfm_jax.workspace import trained

ROOT = pathlib.Path(__file__).parents[2]
V, LENGTH = 6, 8


def config(**changes):
    c = tiny.get_config()
    with c.unlocked():
        c.update_from_flattened_dict({"sample.steps": 3} | changes)
    return c


@pytest.fixture(scope="module")
def a_run(finished, tmp_path_factory):
    """A work directory with a teacher and its students, made on eight devices."""
    return shutil.copytree(finished, tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture(scope="module")
def model(a_run):
    return load(a_run)


def texts(samples):
    return [sample.text for sample in samples]


def a_sampler(batch):
    """(path, apply, Sampler) with a posterior from a fixed table."""
    path = paths.Path(source="uniform", exponent=1.0, text_vocab=V)
    table_VV = np.random.default_rng(0).normal(size=(V, V)).astype(np.float32)
    apply = lambda params, x_BL, t_B, h_B: jnp.asarray(table_VV)[x_BL] + params
    return path, apply, sampling.Sampler(apply, path, meshes.make_mesh(meshes.MeshConfig()), LENGTH, batch, sampler.SamplerConfig())


def test_a_text_is_its_seed_its_number_and_what_is_given():
    """A text does not depend on batch, neighbours or a watcher; its states are those of sampler.states."""
    number, steps = 19, 5
    rng = np.random.default_rng(1)
    seed_N, index_N = rng.integers(0, 4, number), rng.integers(0, 3, number)
    given_NL = np.where(rng.random((number, LENGTH)) < 0.3, rng.integers(0, V, (number, LENGTH)), -1)
    path, apply, draw = a_sampler(16)
    kept = {}

    def seen(first, step, x_BL):
        kept.setdefault(step, []).append((first, x_BL))

    ask = dict(index_N=index_N, given_NL=given_NL)
    x_NL, _ = draw(0.0, seed_N, number, steps, **ask)
    watched_NL, _ = draw(0.0, seed_N, number, steps, **ask, on_state=seen)
    assert (x_NL == watched_NL).all() and (x_NL[given_NL >= 0] == given_NL[given_NL >= 0]).all()
    assert [[first for first, _ in kept[step]] for step in range(steps + 1)] == [[0, 16]] * (steps + 1)
    state_SNL = np.stack([np.concatenate([x_BL for _, x_BL in kept[step]]) for step in range(steps + 1)])
    key_N = jax.vmap(lambda seed, i: jax.random.fold_in(jax.random.key(seed), i))(seed_N, index_N)
    given = jnp.asarray(np.maximum(given_NL, 0)), jnp.asarray(given_NL >= 0)
    posterior = lambda x_BL, t_B, h_B: apply(0.0, x_BL, t_B, h_B)
    want_SNL = jax.jit(lambda key_N: sampler.states(key_N, path, posterior, steps, *given, sampler.SamplerConfig()))(key_N)
    assert (state_SNL == want_SNL).all()
    few = a_sampler(8)[2]
    for i in (0, 18):
        alone, _ = few(0.0, int(seed_N[i]), 1, steps, index_N=[index_N[i]], given_NL=given_NL[i : i + 1])
        assert (alone[0] == x_NL[i]).all()
    everything = few(0.0, 3, number, steps)[0]
    assert (draw(0.0, 3, 7, steps)[0] == everything[:7]).all() and len(np.unique(everything, axis=0)) > number // 2


def test_it_stops_between_two_calls():
    """A stop signal during a watched step ends sampling before the next step."""
    heard, (_, _, draw) = [], a_sampler(8)

    def seen(first, step, x_BL):
        heard.append(step)
        if step == 2:
            os.kill(os.getpid(), signals.HANDLED[0])

    with pytest.raises(signals.Interrupted), signals.stopping():
        draw(0.0, 0, 8, 9, on_state=seen)
    assert heard == [0, 1, 2]
    assert draw(0.0, 0, 8, 9)[0].shape == (8, LENGTH)  # the next call works again


@pytest.mark.parametrize("ask, length", [
    (dict(prompt="The Senate"), 16),
    (dict(suffix=" of war", length=12), 12),
    (dict(prompt="The", suffix=" of the"), 16),
    (dict(infill="The____ of____", span_length=3), None),
])  # fmt: skip
def test_given_text_stays(model, ask, length):
    """Given text is in every state from noise to the final text, which has the requested length."""
    for sample in model.sample(**ask, steps=3, number=2, states=True):
        assert length is None or len(sample.tokens) == length
        assert len(sample.states) == 4 and sample.states[-1] == sample.text == str(sample) and repr(sample.text) in repr(sample)
        first, *others = ask["infill"].split("____") if "infill" in ask else (ask.get("prompt", ""), ask.get("suffix", ""))
        for state in sample.states:
            assert state.startswith(first) and state.endswith(others[-1]) and others[0] in state[len(first) :]
        given = model.tokenizer.decode([sample.tokens[i] for i in sample.given])
        assert given == first + "".join(others) and len(sample.given) < len(sample.tokens)
        assert len({*sample.states}) > 1


def test_any_batch_and_any_mesh(a_run, model):
    """Texts do not depend on their number, the batch or the devices."""
    ask = dict(prompt="The Senate", steps=3, seed=4)
    many = texts(model.sample(**ask, number=11, batch=8))
    assert texts(model.sample(**ask, number=2)) == many[:2] and len({*many}) > 5
    assert texts(model.sample(**ask | {"seed": 5}, number=8)) != many[:8]
    alone = load(a_run, mesh=meshes.make_mesh(meshes.MeshConfig(), jax.devices()[:1]))
    assert texts(alone.sample(**ask, number=11)) == many and alone.hash == model.hash


def test_a_second_call_compiles_nothing(model):
    """Another prompt, number, length, seed or number of steps compiles nothing; another temperature does."""
    model.sample("The", steps=2, states=True)
    with metrics.count_compilations() as again:
        model.sample(infill="The ____", span_length=2, steps=5, number=7, seed=3)
        model.sample(suffix=" of", length=9, steps=1, states=True)
    assert again.count == 0
    with metrics.count_compilations() as other:
        model.sample("The", temperature=0.5)
    assert other.count > 0


def test_short_texts_take_a_short_window():
    """A text is sampled in the smallest half, quarter, … of the window that holds it; the order of requests stays."""
    path, apply, _ = a_sampler(8)
    flow = {"source": "uniform", "exponent": 1.0, "jump": "bridge"}
    tok = types.SimpleNamespace(vocab_size=V, decode_pretty=lambda x_L: " ".join(map(str, x_L)))
    network = trained.Network(apply=apply, params=jnp.zeros(()), hash="")
    mesh = meshes.make_mesh(meshes.MeshConfig())
    write = sampling.Writer(ConfigDict({"data": {"length": 80}, "flow": flow}), mesh, tok, network)

    def request(length, number=1):
        free_L = np.full(80, prompts.FREE, np.int32)
        free_L[0] = 3
        return prompts.Request(ask=prompts.Ask(number=number), given_L=free_L, length=length)

    lengths, seen = (80, 5, 20, 21, 40, 41), []
    found = write(
        [request(n) for n in lengths], 2, states=True, on_state=lambda places, step, x_BL: seen.append((places, step, x_BL.shape))
    )
    assert [len(sample.tokens) for sample in found] == list(lengths) and all(sample.tokens[0] == 3 for sample in found)
    assert write.windows([(request(n), 0) for n in lengths]) == {80: [0, 5], 20: [1, 2], 40: [3, 4]}
    assert seen[0] == ([0, 5], 0, (2, 80)) and seen[3] == ([1, 2], 0, (2, 20)) and len(seen) == 9
    (alone,) = write([request(21)], 2)
    assert alone.tokens == found[3].tokens and [len(state.split()) for state in found[3].states] == [21] * 3
    few = sampling.Writer(ConfigDict({"data": {"length": 80}, "flow": flow}), mesh, tok, network, "autoregressive")
    assert few.windows([(request(5), 0)]) == {80: [0]}


@pytest.mark.parametrize("ask, said", [
    (dict(length=17), ("17", "16")),
    (dict(prompt="The Senate of the Union and the House of the people"), ("16", "shorten")),
    (dict(steps=0), ("steps 0",)),
    (dict(steps=2.0), ("steps 2.0",)),
    (dict(batch=0), ("batch 0",)),
    (dict(temperature=0.0), ("temperature 0.0",)),
    (dict(temperature=1e-45), ("temperature 1e-45", "1e-30")),
    (dict(temperature="1"), ("temperature '1'",)),
    (dict(temperature=None), ("temperature None",)),
    (dict(temperature=[1.0]), ("temperature [1.0]",)),
    (dict(top_p=2.0), ("top_p 2.0",)),
    (dict(top_p=True), ("top_p True",)),
    (dict(infill=""), ("infill ''", "leave it out")),
    (dict(infill=0), ("infill 0", "text")),
    (dict(length=0), ("length 0", "at least 1")),
])  # fmt: skip
def test_what_cannot_be_sampled_is_one_line(model, ask, said):
    """Bad numbers and texts that do not fit are refused in one line that names them."""
    with pytest.raises(ValueError) as caught:
        model.sample(**ask)
    assert "\n" not in str(caught.value) and all(part in str(caught.value) for part in said), str(caught.value)


def test_what_cannot_be_loaded_is_one_line(a_run, tmp_path):
    """A missing run, foreign or damaged config, missing or unknown model and bad mesh each give a one-line error."""
    assert load(a_run, "teacher").hash != load(a_run, "student_blind").hash
    tensor = meshes.make_mesh(meshes.MeshConfig(data=1, tensor=3), jax.devices()[:3])
    (tmp_path / "other").mkdir(), (tmp_path / "damaged").mkdir(), (tmp_path / "begun").mkdir()
    (tmp_path / "other/config.json").write_text('{"data": 3}')
    (tmp_path / "damaged/config.json").write_text("{")
    (tmp_path / "begun/config.json").write_text((a_run / "config.json").read_text())
    os.symlink(a_run / "tokenizer", tmp_path / "begun/tokenizer")
    for directory, options, said in [
        (tmp_path / "nowhere", {}, "nowhere"),
        (tmp_path / "other", {}, "config of a run"),
        (tmp_path / "damaged", {}, "not JSON"),
        (tmp_path / "begun", {}, "--stage=student"),
        (tmp_path / "begun", {"model": "teacher"}, "--stage=teacher"),
        (a_run, {"model": "student"}, "student_shaped"),
        (a_run, {"mesh": tensor}, "mesh.tensor=3"),
    ]:
        with pytest.raises(ValueError) as caught:
            load(directory, **options)
        assert said in str(caught.value) and "\n" not in str(caught.value), str(caught.value)


def written(where):
    """The lines of the file that was written, or found to be the same, last."""
    newest = max((where / "samples").glob("sample*.jsonl"), key=lambda file: file.stat().st_mtime_ns)
    return [json.loads(line) for line in newest.read_text().splitlines()]


def run(where, **changes):
    main.run(config(**{f"sample.{key}": value for key, value in changes.items()}), where, ["sample"])
    return written(where)


def test_a_file_of_prompts(a_run, tmp_path, capsys):
    """A line's texts do not depend on other lines; the JSONL records request and given tokens; plain output has no colours."""
    file = tmp_path / "prompts.jsonl"
    asks = [{"prompt": "The Senate"}, {"infill": "The____ of the", "span_length": 4, "number": 3}, {"suffix": " war", "seed": 9}]
    file.write_text("\n".join(map(json.dumps, asks)))
    lines = run(a_run, prompts=str(file), states=True, batch=3, model="student_blind")
    said, beside = capsys.readouterr()
    assert re.search(
        r"\d texts in [\d.]+ s, of which [\d.]+ s compiling \d+ programs.*; in .*/samples/sample.jsonl$", beside.strip()
    )
    assert "\x1b" not in said and all(line["text"].translate(stage.REPLACEMENTS) in said for line in lines)
    assert [line["index"] for line in lines] == [0, 1, 0, 1, 2, 0, 1] and [line["seed"] for line in lines] == [0] * 5 + [9] * 2
    for line in lines:
        assert line["model"] == "student_blind" and line["steps"] == 3 and line["length"] == len(line["tokens"])
        assert len(line["states"]) == 4 and line["states"][-1] == line["text"] and max(line["given"]) < line["length"]
        assert line["text"].startswith(line["prompt"]) and line["text"].endswith(line["suffix"])
        assert not line["infill"] or (line["text"].startswith("The") and line["text"].endswith(" of the"))
    for i, fields in ((0, {"prompt": "The Senate"}), (2, {"infill": "The____ of the", "span_length": 4, "number": 3})):
        alone = run(a_run, **fields, model="student_blind")
        assert [line["tokens"] for line in alone] == [line["tokens"] for line in lines[i : i + len(alone)]]
        assert all("states" not in line for line in alone)


@pytest.mark.parametrize("changes, said", [
    ({"infill": "The Senate"}, "____"),
    ({"infill": "The ____", "prompt": "We"}, "infill"),
    ({"span": ""}, "span"),
    ({"length": 17}, "16"),
    ({"prompts": "a.csv"}, "a.csv"),
    ({"prompts": "a.txt", "suffix": "war"}, "sample.suffix"),
    ({"number": 2**16 + 1}, "sample.number"),
    ({"batch": 0}, "sample.batch"),
])  # fmt: skip
def test_a_config_that_cannot_be_sampled_is_refused(changes, said):
    """A bad request in the config is refused before training, as far as no tokenizer is needed to know."""
    with pytest.raises(ValueError) as caught:
        validation.validate(config(**{f"sample.{key}": value for key, value in changes.items()}))
    assert "\n" not in str(caught.value) and said in str(caught.value), str(caught.value)


def test_a_terminal_shows_texts_as_they_are_refined(a_run, monkeypatch, capsys):
    """A terminal shows every step of the first texts with its time, given text in bold, and at the end all texts."""
    monkeypatch.setattr(stage, "PAUSE", 0.0)
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "120"}.items():
        monkeypatch.setenv(name, value)
    lines = run(a_run, prompt="The Senate", number=6)
    colours = re.compile("\x1b" + r"\[[0-9;?]*[A-Za-z]")
    coloured = capsys.readouterr().out
    said = colours.sub("", coloured)
    for step in range(4):
        assert said.count(f"step {step}, t = {step / 3:.3f}") >= stage.LIVE_TEXTS
    assert f"text {stage.LIVE_TEXTS - 1}: step" in said and f"text {stage.LIVE_TEXTS}: step" not in said
    assert said.count("text 5") == 1 and "\x1b[1mThe Senate\x1b[0m" in coloured
    assert said.index(lines[5]["text"].translate(stage.REPLACEMENTS)) > said.index("text 5")
    run(a_run, prompt="The Senate", number=6, live=False)
    assert "step 1" not in colours.sub("", capsys.readouterr().out)


def test_given_characters_are_told_from_written_ones(model):
    """The pieces of a text join to the text, and its given pieces are the given text; control characters are not printed."""
    for sample in model.sample(infill="The____ of____ war", span_length=2, number=4):
        found = stage.pieces(model.tokenizer, sample)
        assert "".join(piece for piece, _ in found) == sample.text
        assert [piece for piece, given in found if given] == ["The", " of", " war"]
    console = rich.console.Console(file=io.StringIO())
    stage.show(console, config().sample, model.tokenizer, [sample])
    assert sample.text.translate(stage.REPLACEMENTS) in console.file.getvalue()
    bad = dataclasses.replace(sample, text="\x1b[2J", tokens=model.tokenizer.encode("\x1b[2J").tolist(), given=[])
    stage.show(console, config().sample, model.tokenizer, [bad])
    assert "\ufffd[2J" in console.file.getvalue() and "\x1b" not in console.file.getvalue()


def test_importing_the_package_does_not_import_jax():
    """Importing the package imports no JAX; `load` is found on demand, and other names raise AttributeError."""
    code = "import sys, tsdfm_jax; assert not {'jax', 'flax', 'rich'} & set(sys.modules); tsdfm_jax.laod"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stderr.strip().endswith("AttributeError: module 'tsdfm_jax' has no attribute 'laod'"), done.stderr
    assert load.__module__ == "tsdfm_jax.exchange.loading"


def test_the_notebook_runs(a_run, monkeypatch):
    """Every cell of the notebook runs in a fresh kernel; the notebook is stored without outputs."""
    book = nbformat.read(ROOT / "notebooks/sampling.ipynb", as_version=4)
    nbformat.validate(book)
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    monkeypatch.setenv("TSDFM_RUN", str(a_run))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    nbclient.NotebookClient(book, timeout=300, kernel_name="python3").execute()
    said = "".join(output.get("text", "") for cell in cells for output in cell.outputs)
    assert said.count("The Senate") >= 3 + 9 + 4 and "t = 1.000" in said
