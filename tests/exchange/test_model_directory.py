"""Exported models: they load back to the bit, other runs use them, and errors are one line."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors

from tests import tiny
from tsdfm_jax import load, main
from tsdfm_jax.distillation import student_training
from tsdfm_jax.exchange import external, model_directory, model_export
from tsdfm_jax.runtime import checkpoint, mesh as meshes
from tsdfm_jax.stages import student
from tsdfm_jax.workspace import plan, trained

ROOT = pathlib.Path(__file__).parents[2]
FILES = {"README.md", "config.json", "model.safetensors", "tokenizer.model"}


def one_device():
    return meshes.make_mesh(meshes.MeshConfig(), jax.devices()[:1])


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    """{model: directory} of the tiny run's exported teacher and shaped student."""
    root = tmp_path_factory.mktemp("exported")
    for model in ("teacher", "student_shaped"):
        model_export.export(finished, root / model, model=model)
    return {path.name: path for path in root.iterdir()}


def stored_hash(directory):
    return json.loads((directory / "model/meta.json").read_text())["hash"]


def test_what_is_exported_comes_back_to_the_bit(finished, exported):
    """An exported model has the run's hash, weights and texts; it also loads onto a mesh."""
    assert {path.name for path in exported["student_shaped"].iterdir()} == FILES
    whole = meshes.make_mesh(meshes.MeshConfig(data=2, fsdp=2, tensor=2))
    own, back, spread = load(finished), load(exported["student_shaped"]), load(exported["student_shaped"], "student", whole)
    assert own.hash == back.hash == spread.hash == stored_hash(finished / "student/shaped/round_0")
    assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), own.params, back.params))
    assert any(not leaf.is_fully_replicated for leaf in jax.tree.leaves(spread.params))
    ask = dict(prompt="The Senate", steps=2, number=2, seed=5)  # a size that the run has already compiled
    assert [s.tokens for s in own.sample(**ask)] == [s.tokens for s in back.sample(**ask)]
    assert (own.length, own.network, own.tokenizer.content_hash) == (back.length, back.network, back.tokenizer.content_hash)
    told = model_directory.read_about(exported["student_shaped"])
    assert (told.kind, told.name, told.jump, told.path.source) == ("student", "student_shaped", "bridge", "uniform")


def test_the_card_says_what_the_files_say(finished, exported):
    """The card shows report.json's numbers, with rows only of the model, its teacher and real text."""
    report = json.loads((finished / "report/report.json").read_text())
    card = (exported["student_shaped"] / "README.md").read_text()
    assert card.startswith('---\nlicense: "apache-2.0"\n') and model_directory.read_about(exported["student_shaped"]).hash in card
    kept = [row for row in report["rows"] if row["temperature"] == 1.0]
    for row in kept:
        if row["model"] in ("data", "teacher", "student_shaped"):
            line = next(x for x in card.splitlines() if x.startswith(f"| {NAMES[row['model']]} | {row['steps'] or '–'} |"))
            assert f" {row['entropy_nats']:.2f} |" in line and f" {row['ppl_token']:,.0f} |" in line
    assert "blind student |" not in card and "unigram" not in card
    tokens = 16 * 16 * 16  # updates, windows, tokens
    assert f"{report['bounds']['student_shaped']:.3f} bits" in card and f"trained on {tokens:,} tokens" in card
    assert report["verdict"] in card and "seed: 0" in card and report["commit"] in card
    teacher = (exported["teacher"] / "README.md").read_text()
    assert "shaped student" not in teacher.split("The run's own")[0] and "its teacher" not in teacher


NAMES = {"data": "real held-out text", "teacher": "teacher", "student_shaped": "shaped student"}


@pytest.mark.parametrize("report", ["gone", "older", "of other weights"])
def test_without_its_report_the_card_has_no_figures(report, copy, tmp_path):
    """Without a report.json of these weights the card says so; the command is the run's."""
    file = copy / "report/report.json"
    body = json.loads(file.read_text())
    if report == "gone":
        file.unlink()
    elif report == "older":
        file.write_text(json.dumps(body | {"schema": 1}))
    else:
        body["stages"]["teacher"]["hash"] = "0" * 64
        file.write_text(json.dumps(body))
    (copy / "command.txt").write_text("python -m tsdfm_jax.main --config=tests/tiny.py\n")
    model_export.export(copy, tmp_path / "out", model="teacher")
    card = (tmp_path / "out/README.md").read_text()
    assert "No figures are given" in card and "ppl" not in card and "`python -m tsdfm_jax.main --config=tests/tiny.py`" in card
    assert "commit: not recorded" in card


def test_bfloat16_halves_the_file(finished, exported, tmp_path):
    """A bfloat16 export stores the rounded weights, with the hash of those in float32, and the card says so."""
    told = model_export.export(finished, tmp_path / "half", dtype="bfloat16")
    sizes = [(directory / "model.safetensors").stat().st_size for directory in (exported["student_shaped"], tmp_path / "half")]
    assert 0.45 < sizes[1] / sizes[0] < 0.6
    own, back = load(exported["student_shaped"], mesh=one_device()), load(tmp_path / "half", mesh=one_device())
    rounded = jax.tree.map(lambda x: np.asarray(x).astype(jax.numpy.bfloat16).astype(np.float32), own.params)
    assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), rounded, back.params))
    assert back.hash == told.hash == checkpoint.tree_hash(rounded) != own.hash
    assert "rounded to bfloat16" in (tmp_path / "half/README.md").read_text()


def files(directory):
    return {path.relative_to(directory): path.read_bytes() for path in sorted(directory.glob("**/*.array_record"))}


def test_a_run_takes_its_teacher_and_what_its_students_start_from(finished, exported, tmp_path):
    """With the tiny run's teacher at teacher.path the trajectories are the same; a student starts from student.path."""
    for name in ("tokenizer", "data", "judges", "compass"):
        shutil.copytree(finished / name, tmp_path / "run" / name)
    paths = {"teacher.path": str(exported["teacher"]), "student.path": str(exported["student_shaped"])}
    c = tiny.changed(**paths)
    main.run(c, tmp_path / "run", ["teacher", "compass", "trajectories"], remake=True)
    student.train(c, tmp_path / "run", "shaped", 0)
    assert files(tmp_path / "run/trajectories") == files(finished / "trajectories") and files(finished / "trajectories")
    new, old = (
        {name: json.loads((run / name / "done.json").read_text())["figures"] for name in ("teacher", SHAPED)}
        for run in (tmp_path / "run", finished)
    )
    teacher, start = (model_directory.read_about(exported[name]).hash for name in ("teacher", "student_shaped"))
    assert new["teacher"]["hash"] == new["teacher"]["taken"]["hash"] == old["teacher"]["hash"] == teacher
    assert new["teacher"]["heldout_bits_per_byte"] == pytest.approx(old["teacher"]["heldout_bits_per_byte"], rel=1e-6)
    # The same records in the same order, but other initial weights.
    assert new[SHAPED]["started_from"]["hash"] == start and new[SHAPED]["curve"][0][1] != old[SHAPED]["curve"][0][1]
    model_export.export(tmp_path / "run", tmp_path / "again", model="teacher")
    assert (
        model_directory.read_about(tmp_path / "again").hash == teacher
        and "It was taken from" in (tmp_path / "again/README.md").read_text()
    )


SHAPED = "student/shaped/round_0"


def test_a_student_starts_as_the_weights_that_it_is_given(exported):
    """A student starts with all given weights, the step-size embedding included."""
    c, mesh = tiny.get_config(), one_device()
    teacher, born = load(exported["teacher"], mesh=mesh), load(exported["student_shaped"], mesh=mesh)
    network = trained.network(c, 384, mesh, step_conditioned=False)
    state = student_training.learner(c, 384, mesh, dataclasses.replace(network, params=teacher.params), born.params).create()
    assert checkpoint.tree_hash(state.params) == born.hash


MISFITS = {
    "model.blocks": (3, "has blocks 2, but model.blocks is 3: set --config.model.blocks=2"),
    "model.width": (64, "has width 32"),
    "model.heads": (4, "has heads 2"),
    "model.cond_width": (8, "has cond_width 16"),
    "model.mlp_ratio": (2, "has mlp_ratio 4"),
    "flow.source": ("mask", "has source uniform, but flow.source is mask"),
    "flow.exponent": (2.0, "has exponent 1.0"),
    "data.length": (24, "was trained on 16 tokens, but data.length is 24"),
}


@pytest.mark.parametrize("key", MISFITS)
def test_a_teacher_that_does_not_fit_the_config_is_refused(key, exported, tmp_path):
    """A teacher that does not fit the config is refused early, in one line with key and values; a shorter length fits."""
    value, said = MISFITS[key]
    with pytest.raises(ValueError) as caught:
        main.run(tiny.changed(**{key: value, "teacher.path": str(exported["teacher"])}), tmp_path / "run")
    assert said in str(caught.value) and "teacher.path" in str(caught.value) and "\n" not in str(caught.value)
    c = tiny.changed(**{"data.length": 8, "teacher.path": str(exported["teacher"])})
    external.check(c, plan.make(c, tmp_path / "run", change=False).states.values())


def test_a_given_teacher_may_be_gone_once_it_was_taken(finished, exported, tmp_path):
    """A finished stage goes on without the model that it took; before that, its absence is one line."""
    for name in ("tokenizer", "data"):
        shutil.copytree(finished / name, tmp_path / "run" / name)
    c = tiny.changed(**{"teacher.path": str(tmp_path / "given")})
    with pytest.raises(ValueError, match="no directory '.*given'"):
        main.run(c, tmp_path / "run", ["teacher"])
    shutil.copytree(exported["teacher"], tmp_path / "given")
    main.run(c, tmp_path / "run", ["teacher"])
    shutil.rmtree(tmp_path / "given")
    main.run(c, tmp_path / "run", ["teacher"])
    shutil.copytree(exported["student_shaped"], tmp_path / "given")
    with pytest.raises(ValueError, match="teacher was made with teacher.path=.*--remake"):
        main.run(c, tmp_path / "run", ["teacher"])


def test_a_teacher_of_another_tokenizer_or_kind_is_refused(exported, finished, tmp_path):
    """A teacher with another vocabulary size or tokenizer hash is refused, and so is a student."""
    tok = load(finished, mesh=one_device()).tokenizer
    c = tiny.changed(**{"teacher.path": str(tmp_path / "other")})
    for change, said in [
        (lambda body: body.update(tokenizer="f" * 64), "was trained with tokenizer ffffffffffff"),
        (
            lambda body: (body["flow"].update(symbols=383), body["network"].update(vocab=383)),
            "has 383 tokens, but the run's tokenizer 384",
        ),
    ]:
        shutil.copytree(exported["teacher"], tmp_path / "other", dirs_exist_ok=True)
        edit(tmp_path / "other", change)
        with pytest.raises(ValueError, match=said):
            external.read(c, "teacher", tok, one_device())
    with pytest.raises(ValueError, match="holds a student: give the directory of a teacher"):
        external.read_about(tiny.changed(**{"teacher.path": str(exported["student_shaped"])}), "teacher")


def edit(directory, change):
    """Apply `change` to the object in config.json."""
    body = json.loads((directory / "config.json").read_text())
    change(body)
    (directory / "config.json").write_text(json.dumps(body))


def config(change):
    return lambda directory: edit(directory, change)


def weights(change):
    """A step that applies `change` to the stored arrays."""

    def step(directory):
        names = safetensors.load_file(directory / "model.safetensors")
        change(names)
        safetensors.save_file(names, directory / "model.safetensors")

    return step


def cut(name, size):
    return lambda directory: os.truncate(directory / name, (directory / name).stat().st_size + size)


def gone(name):
    return lambda directory: (directory / name).unlink()


BIAS = "output_layer/linear/bias"
ACCIDENTS = {
    "no config": (gone("config.json"), "config.json is missing"),
    "half a config": (cut("config.json", -20), "cannot be read as JSON"),
    "another's config": (config(lambda body: body.pop("format")), "is not of a model"),
    "a later version": (config(lambda body: body.update(version=2)), "version 2, and this code reads 1: update tsdfm_jax"),
    "another kind": (config(lambda body: body.update(kind="judge")), "kind 'judge' is not one of teacher, student"),
    "no length": (config(lambda body: body.pop("length")), "length None"),
    "a width of nothing": (config(lambda body: body["network"].update(width=0)), "width 0"),
    "a later field": (config(lambda body: body["network"].update(experts=2)), "network has 'experts'"),
    "heads that do not divide": (config(lambda body: body["network"].update(heads=3)), "does not split into 3 heads"),
    "no flow": (config(lambda body: body.pop("flow")), "flow None"),
    "another source": (config(lambda body: body["flow"].update(source="masks")), "'masks' is not one of uniform, mask"),
    "a mask too many": (config(lambda body: body["flow"].update(source="mask")), "vocab 384 is not the 385"),
    "another jump": (config(lambda body: body["flow"].update(jump="leap")), "'leap'"),
    "no weights": (gone("model.safetensors"), "model.safetensors is missing"),
    "truncated weights": (cut("model.safetensors", -10), "truncated"),
    "a name is missing": (weights(lambda names: names.pop(BIAS)), f"lacks '{BIAS}' (1 of"),
    "a name is extra": (weights(lambda names: names.update(x=np.ones(3))), "holds 'x', which a student"),
    "a shape is wrong": (weights(lambda names: names.update({BIAS: np.ones(3, np.float32)})), f"'{BIAS}' has shape (3,)"),
    "a value is wrong": (weights(lambda names: names[BIAS].__iadd__(1e-3)), "has content hash"),
    "no tokenizer": (gone("tokenizer.model"), "lacks its tokenizer"),
    "another tokenizer": (config(lambda body: body.update(tokenizer="0" * 64)), "but config.json says 000000000000"),
}


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_accidents_are_one_line(accident, exported, tmp_path):
    """Anything missing, damaged or unknown is named, with its file, in one line."""
    shutil.copytree(exported["student_shaped"], tmp_path / "model")
    step, said = ACCIDENTS[accident]
    step(tmp_path / "model")
    with pytest.raises(ValueError) as caught:
        load(tmp_path / "model", mesh=one_device())
    assert said in str(caught.value) and str(tmp_path) in str(caught.value) and "\n" not in str(caught.value), str(caught.value)


def test_a_model_that_it_is_not_is_refused(exported):
    """A directory is refused under the name of another model."""
    for model in ("teacher", "student_blind"):
        with pytest.raises(ValueError, match=f"holds student_shaped, not '{model}'"):
            load(exported["student_shaped"], model)


def test_a_directory_is_written_whole_or_not_at_all(finished, exported, tmp_path, monkeypatch):
    """Existing files stay unless they are a model and --force is given, and also if the disk fills up on the way."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is there already, and no model"):
        model_export.export(finished, tmp_path / "other", force=True)
    shutil.copytree(exported["teacher"], tmp_path / "out")
    with pytest.raises(ValueError, match="holds a model already: .* --force"):
        model_export.export(finished, tmp_path / "out")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(safetensors, "save_file", full)
        for out in ("out", "new"):
            with pytest.raises(OSError, match="no room to write model"):
                model_export.export(finished, tmp_path / out, force=True)
    assert {path.name for path in tmp_path.iterdir()} == {"other", "out"}
    assert model_directory.read_about(tmp_path / "out").name == "teacher"
    model_export.export(finished, tmp_path / "out", force=True)
    assert model_directory.read_about(tmp_path / "out").name == "student_shaped" and len(list(tmp_path.iterdir())) == 2


def test_the_command(finished, tmp_path):
    """The export command writes the four files and prints the hash; a mistake gives one line and exit code 2."""
    call = lambda *options: subprocess.run(
        [sys.executable, "-m", "launch.export", f"--workdir={finished}", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    done = call("--model=teacher", f"--out={tmp_path / 'out'}", "--dtype=bfloat16")
    assert done.returncode == 0 and model_directory.read_about(tmp_path / "out").hash in done.stdout and not done.stderr, (
        done.stderr
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    missing = call()
    assert missing.returncode == 2 and missing.stderr.count("\n") == 1 and "--out is missing" in missing.stderr


def test_what_cannot_be_exported_is_one_line(finished, tmp_path):
    """A bad work directory, model or dtype gives a one-line error."""
    for directory, options, said in [
        (tmp_path, {}, "is no work directory"),
        (finished, {"model": "autoregressive"}, "--model 'autoregressive' is not one of"),
        (finished, {"dtype": "float16"}, "--dtype 'float16' is not one of"),
    ]:
        with pytest.raises(ValueError) as caught:
            model_export.export(directory, tmp_path / "out", **options)
        assert said in str(caught.value) and "\n" not in str(caught.value)
