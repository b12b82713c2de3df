"""An imported FS-DFM checkpoint gives PyTorch's logits; one that cannot be imported gives a one-line error."""

import collections
import hashlib
import os
import pathlib
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import traverse_util

from tests import published_models
from tsdfm_jax import load
from tsdfm_jax.exchange import fsdfm, model_directory, model_import
from tsdfm_jax.runtime import mesh as meshes

torch = pytest.importorskip("torch")
from tests.parity import fsdfm_torch  # noqa: E402  it needs torch

ROOT = pathlib.Path(__file__).parents[2]
TEXT_VOCAB, LENGTH = 61, 12
SHAPE = dict(width=24, heads=3, cond=10, blocks=2)
DRAW = np.random.default_rng(5)
T_B, H_B = np.array([0.0, 0.37, 1.0], np.float32), np.array([1.0, 0.125, 2.0**-10], np.float32)


def network(student, vocab=TEXT_VOCAB, **changes):
    torch.set_num_threads(1)
    return fsdfm_torch.born(student=student, vocab=vocab, **SHAPE | changes)


@pytest.fixture(scope="module")
def networks():
    """A teacher without a mask token, and a student with one."""
    return {"teacher": network(False), "student": network(True, TEXT_VOCAB + 1)}


@pytest.fixture
def words(tmp_path):
    published_models.write_tokenizer(tmp_path / "words.json", TEXT_VOCAB)
    return str(tmp_path / "words.json")


def state(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def wrapped(names, *prefixes):
    return {"".join(prefixes) + name: value for name, value in names.items()}


def save(tmp_path, body, **options):
    torch.save(body, tmp_path / "x.pth", **options)
    return tmp_path / "x.pth"


def bare(network):
    """The network's tensors without rotary frequencies, as when the buffer is not stored."""
    return {name: value for name, value in state(network).items() if "inv_freq" not in name}


def in_blocks(network):
    """The network's tensors with a copy of the rotary frequencies in every block."""
    held = state(network)
    return bare(network) | {f"blocks.{i}.rotary_emb.inv_freq": held["rotary_emb.inv_freq"] for i in range(SHAPE["blocks"])}


WRAPPINGS = {
    "a state dict": lambda n: (state(n), {}),
    "under model, beside other things": lambda n: ({"model": state(n), "step": 7, "optimizer": {"lr": 0.1, "state": {}}}, {}),
    "wrapped twice, no frequencies": lambda n: (
        {"student_model": wrapped(bare(n), "module.", "_orig_mod."), "teacher_model": state(network(False))},
        dict(dictionary="student_model", heads=3),
    ),
    "an average, frequencies in the blocks": lambda n: (
        {"student_ema_model": wrapped(in_blocks(n), "_orig_mod.", "module.", "module.") | {"n_averaged": torch.tensor(3)}},
        {},
    ),
}


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_logits_are_those_of_torch(kind, networks, words, tmp_path):
    """Logits agree to 1e-4 in float32, with and without a step size, with and without a mask token, on one device and eight."""
    theirs = networks[kind]
    told = model_import.convert(save(tmp_path, state(theirs)), tmp_path / "out", tokenizer=words)
    assert (told.kind, told.path.source, told.path.text_vocab) == (
        kind,
        {"teacher": "uniform", "student": "mask"}[kind],
        TEXT_VOCAB,
    )
    assert (told.network.heads, told.network.blocks, told.length, told.jump) == (3, 2, 1024, "cumulative")
    x_BL = DRAW.integers(0, told.network.vocab, (3, LENGTH))
    many = [meshes.make_mesh(meshes.MeshConfig(data=2, fsdp=2, tensor=2))] if kind == "student" else []
    for model in [load(tmp_path / "out", mesh=mesh) for mesh in (one_device(), *many)]:
        assert model.hash == told.hash and model.tokenizer.decode([3, 1]) == "w3 w1"
        for h_B in [None, H_B] if kind == "student" else [None]:
            with torch.no_grad():
                wanted = theirs(torch.tensor(x_BL), torch.tensor(T_B), None if h_B is None else torch.tensor(h_B)).numpy()
            got = model.logits(x_BL, T_B, h_B)
            assert got.dtype == np.float32 and got.shape == wanted.shape and 0.5 < wanted.std() < 10
            print(f"largest difference {np.abs(got - wanted).max():.1e} of a spread of {wanted.std():.1f}")
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4)


def one_device():
    return meshes.make_mesh(meshes.MeshConfig(), jax.devices()[:1])


def test_wrappings_do_not_matter(networks, words, tmp_path):
    """The same tensors give the same weights, however they are wrapped, named and saved."""
    theirs, found = networks["student"], {}
    for wrapping, make in WRAPPINGS.items():
        body, options = make(theirs)
        # The older format of torch.save does not support memory mapping.
        file = save(tmp_path, body, _use_new_zipfile_serialization="beside" not in wrapping)
        found[wrapping] = model_import.convert(file, tmp_path / "out", tokenizer=words, force=True, **options)
    assert len({told.hash for told in found.values()}) == 1 and len({told.network for told in found.values()}) == 1
    assert [told.origin["dictionary"] for told in found.values()] == ["", "model", "student_model", "student_ema_model"]


def test_without_a_tokenizer(networks, tmp_path):
    """A model without a tokenizer gives logits but no text; a student's logits depend on h_B; bad inputs are refused."""
    file = save(tmp_path, state(networks["student"]))
    model_import.convert(file, tmp_path / "out", source="mask")
    model = load(tmp_path / "out", "student", one_device())
    x_BL = [[TEXT_VOCAB, 0, 5]]
    told, untold = model.logits(x_BL, [0.5], [0.5]), model.logits(x_BL, [0.5])
    assert model.tokenizer is None and told.shape == (1, 3, TEXT_VOCAB + 1) and np.abs(told - untold).max() > 0.1
    with pytest.raises(ValueError, match="has no tokenizer.*--tokenizer"):
        model.sample()
    for given, said in [
        (([[TEXT_VOCAB + 1]], [0.5]), "the model has 0 to 61"),
        (([[0]], [0.5, 0.5]), "t_B"),
        (([[0]], [0.5], [2.0]), "h_B"),
        (([[0.5]], [0.5]), "whole numbers"),
    ]:
        with pytest.raises(ValueError, match=said):
            model.logits(*given)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_becomes_float32_exactly(dtype, networks, tmp_path):
    """Half-precision values become float32 without a change."""
    names = {name: value.to(getattr(torch, dtype)) for name, value in bare(networks["teacher"]).items()}
    held = fsdfm.read(save(tmp_path, names))
    cfg = fsdfm.network(held, 3)
    params = fsdfm.parameters(held, traverse_util.flatten_dict(model_directory.abstract(cfg, one_device()), sep="/"))
    ours = collections.Counter(np.concatenate([value.ravel() for value in params.values()]).tolist())
    assert ours == collections.Counter(torch.cat([value.float().ravel() for value in names.values()]).tolist())
    assert all(value.dtype == np.float32 for value in params.values())


class Anything:
    """An object that is not a tensor."""


def changed(**changes):
    """A function that changes some of the teacher's tensors, and removes those given as None."""
    given = {name.replace("__", "."): value for name, value in changes.items()}

    def body(names):
        return {name: value for name, value in (names | given).items() if value is not None}

    return body


ones = torch.ones
REFUSED = {
    "lacks 'blocks.1.qw.weight' (1 of a teacher's 34 names missing)": (changed(blocks__1__qw__weight=None), {}),
    "(11 of a student's 46 names missing)": (changed(dt_embedding__mlp__0__weight=ones(10, 256)), {}),
    "holds 'blocks.1.qw.bias', which a teacher": (changed(blocks__1__qw__bias=ones(24)), {}),
    "'output_layer.linear.bias' has shape (3,), not (61,)": (changed(output_layer__linear__bias=ones(3)), {}),
    "lacks 'time_embedding.mlp.0.weight'": (changed(time_embedding__mlp__0__weight=None), {}),
    "reads 128 features of the time, not 256": (changed(time_embedding__mlp__0__weight=ones(10, 128)), {}),
    "no multiple of the width 24": (changed(blocks__0__mlp__0__weight=ones(30, 24)), {}),
    "lacks block 2 of 4": (changed(blocks__3__qw__weight=ones(24, 24)), {}),
    "'norm' is int, not a tensor": (changed(norm=3), {}),
    "is of type torch.int8": (changed(output_layer__linear__bias=ones(61, dtype=torch.int8)), {}),
    "holds values that are no numbers": (changed(output_layer__linear__bias=ones(61) / 0), {}),
    "holds both 'vocab_embed.weight' and 'module.vocab_embed.weight'": (changed(module__vocab_embed__weight=ones(61, 24)), {}),
    "has no rotary_emb.inv_freq to tell": (changed(rotary_emb__inv_freq=None), {}),
    "--heads=5 does not split width 24": (changed(rotary_emb__inv_freq=None), dict(heads=5)),
    "make no 4 heads of 8": (changed(), dict(heads=4)),
    "make no whole heads of 14": (changed(rotary_emb__inv_freq=ones(7)), {}),
    "is not of base 10000": (changed(rotary_emb__inv_freq=ones(4)), {}),
    "does not tell its source": (changed(), dict(source="")),
    "flow.source 'masks' is not one of": (changed(), dict(source="masks")),
    "neither as many nor one more": (changed(), dict(tokenizer=59)),
    "that is mask": (changed(), dict(tokenizer=60)),
    "holds several networks: give --dictionary, one of model, teacher_model": (
        lambda names: {"model": names, "teacher_model": names},
        {},
    ),
    "no network under 'student_model', but model": (lambda names: {"model": names, "x": {}}, dict(dictionary="student_model")),
    "'vocab_embed.weight' is nowhere; it has optimizer, step": (lambda names: {"step": 1, "optimizer": {}}, {}),
    "holds list, not a dictionary": (lambda names: [1], {}),
    "holds more than tensors, or is damaged (Unsupported global: GLOBAL tests.parity.test_fsdfm.Anything": (
        lambda names: {"model": names, "args": Anything()},
        {},
    ),
    "--length=0": (changed(), dict(length=0)),
    "flow.jump 'leap'": (changed(), dict(jump="leap")),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_cannot_be_imported_is_one_line(said, networks, tmp_path):
    """A missing, extra or misshapen tensor, or an unclear file, is refused in one line, and nothing is written."""
    change, options = REFUSED[said]
    options = {"source": "uniform"} | options
    if text_vocab := options.get("tokenizer"):
        published_models.write_tokenizer(tmp_path / "words.json", text_vocab)
        options["tokenizer"] = str(tmp_path / "words.json")
    refused(save(tmp_path, change(state(networks["teacher"]))), tmp_path, said, **options)


@pytest.mark.parametrize(
    "damage, said", [("cut", "cannot be read as a checkpoint"), ("text", "damaged"), ("gone", "no checkpoint")]
)
def test_a_damaged_file_is_one_line(damage, said, networks, tmp_path):
    """A truncated, foreign or missing file gives a one-line error."""
    file = save(tmp_path, state(networks["teacher"]))
    if damage == "cut":
        os.truncate(file, file.stat().st_size // 2)
    elif damage == "text":
        file.write_text("not a checkpoint")
    else:
        file.unlink()
    refused(file, tmp_path, said, source="uniform")


def refused(file, tmp_path, said, **options):
    with pytest.raises(ValueError) as caught:
        model_import.convert(file, tmp_path / "out", **options)
    assert said in str(caught.value) and "\n" not in str(caught.value), str(caught.value)
    assert not list(tmp_path.glob("*out*"))


def test_nothing_in_a_file_is_run(tmp_path):
    """A pickle that would call a function is refused, and the function is not called."""
    (tmp_path / "x.pth").write_bytes(pickle.dumps(Touch(str(tmp_path / "touched")), protocol=2))
    refused(tmp_path / "x.pth", tmp_path, "holds more than tensors")
    assert not (tmp_path / "touched").exists()


class Touch:
    """An object that creates a file when it is unpickled."""

    def __init__(self, file):
        self._file = file

    def __reduce__(self):
        return open, (self._file, "w")


def test_published_vocabularies_tell_their_source():
    """50,257 tokens mean the uniform source, one more the mask source; --source overrides that."""
    for vocab, source, wanted in [
        (50_257, "", "uniform"),
        (50_258, "", "mask"),
        (50_258, "uniform", "uniform"),
        (9, "mask", "mask"),
    ]:
        path = model_import.path_of(vocab, None, source, 1.0)
        assert (path.source, path.vocab) == (wanted, vocab)


def test_the_command(networks, words, tmp_path):
    """The import command prints the network and writes the four files; a mistake gives one line and exit code 2."""
    file = save(tmp_path, state(networks["teacher"]))
    call = lambda *options: subprocess.run(
        [sys.executable, "-m", "launch.import_fsdfm", f"--checkpoint={file}", f"--tokenizer={words}", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    done = call(f"--out={tmp_path / 'out'}", "--length=64")
    assert done.returncode == 0 and "2 blocks, width 24, 3 heads, 61 tokens, source uniform" in done.stdout, done.stderr
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"README.md", "config.json", "model.safetensors", "tokenizer.json"}
    told, card = model_directory.read_about(tmp_path / "out"), (tmp_path / "out/README.md").read_text()
    assert told.hash in card and f"--checkpoint={file}" in card and "apache" not in card
    assert told.length == 64 and told.origin["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    missing = call()
    assert missing.returncode == 2 and missing.stderr.count("\n") == 1 and "--out is missing" in missing.stderr
