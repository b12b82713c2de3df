"""What a user gives: every mistake is one line that names it, and a refused command leaves nothing; `~` and odd names work."""

import os
import pathlib
import shutil
import subprocess
import sys

import jax
import pytest
from absl import flags
from absl.testing import flagsaver

from tests import tiny
from tsdfm_jax import main
from tsdfm_jax.config import command_line, inputs, validation
from tsdfm_jax.data import corpus, hub, prompts, tokenizer
from tsdfm_jax.evaluation import pretrained, text_sets
from tsdfm_jax.exchange import model_directory
from tsdfm_jax.runtime import mesh as meshes
from tsdfm_jax.storage import places

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home directory."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def refused(call, *said):
    """The one line with which a call is refused; it has all of `said`."""
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        call()
    line = str(error.value)
    assert len(line.splitlines()) == 1 and all(word in line for word in said), line
    return line


def run_refused(workdir, said, stages=("tokenizer",), **changes):
    """main refuses the tiny config with these changes in one line; a directory that was not there is not there."""
    there = workdir.exists()
    refused(lambda: main.run(tiny.changed(**changes), workdir, stages), *said)
    assert workdir.exists() == there


def parsed(capsys, *arguments):
    """(exit code, stderr) of main's flags and its check of the config file, without running anything."""
    flags.FLAGS.unparse_flags()
    sys.modules.pop("config_config", None)  # the last config file, which the next one would be read into
    argv = sys.argv
    try:
        with flagsaver.flagsaver():
            main.parse(["main", *arguments])
            command_line.config_file(["main"], "configs/quickstart.py")
            code = None
    except SystemExit as error:
        code = error.code
    except ValueError as error:
        code = main.fail(error)
    finally:
        sys.argv = argv
    return code, capsys.readouterr().err


CONFIGS = {
    "def get_config(:": "config.py, line 1: invalid syntax",
    "raise RuntimeError('boom')": "config.py, line 1: RuntimeError: boom",
    "import no_such_module": "config.py, line 1: ModuleNotFoundError: No module named 'no_such_module'",
    "def get_config():\n    return 1 / 0": "config.py, line 2: ZeroDivisionError: division by zero",
    "x = 1": "has no get_config()",
    "def get_config():\n    return None": "config.py: get_config() returns NoneType, not a ConfigDict",
    "def get_config():\n    return {'seed': 1}": "config.py: get_config() returns dict, not a ConfigDict",
}


@pytest.mark.parametrize("text", CONFIGS)
def test_a_config_file_that_is_none(tmp_path, capsys, text):
    """A config file that does not parse, raises, or returns something else is one line with file, line and reason."""
    (tmp_path / "config.py").write_text(text + "\n")
    code, said = parsed(capsys, f"--config={tmp_path / 'config.py'}")
    assert code == 2 and CONFIGS[text] in said and len(said.splitlines()) == 1, said


def test_a_config_file_at_home(home, capsys):
    """`--config=~/config.py` is found."""
    shutil.copy(ROOT / "tests/tiny.py", home / "config.py")
    assert parsed(capsys, "--config=~/config.py") == (None, "")


def test_a_config_of_another_project(tmp_path):
    """A config that lacks keys, has others, or has a value of another kind is refused with the key."""
    c = tiny.get_config()
    with c.unlocked():
        del c.evaluate
    refused(lambda: validation.validate(c), "the config has no evaluate.", "configs/base.py")
    c = tiny.get_config()
    with c.unlocked():
        c.teacher.bacth = 3
    refused(lambda: validation.validate(c), "teacher.bacth is no key of configs/base.py: is it teacher.batch?")
    for key, value, kind in (
        ("temperature", "1", "a number"),
        ("samples", "8", "a whole number"),
        ("top_p", True, "a number"),
        ("frontier", 3, "text, in quotes"),
        ("seeds", 3, "a tuple"),
    ):
        c = tiny.get_config()
        with c.unlocked():
            del c.evaluate[key]
            c.evaluate[key] = value
        refused(lambda c=c: validation.validate(c), f"evaluate.{key} {value!r} must be {kind}")
    c = tiny.get_config()
    with c.unlocked():
        c.evaluate.temperature = None
    refused(lambda: validation.validate(c), "evaluate.temperature has no value")


@pytest.mark.parametrize("flag, said", [
    ("--config.evaluate.temperature='1'", "evaluate.temperature"),
    ("--config.evaluate.temperature=None", "evaluate.temperature"),
    ("--config.evaluate.samples=1.5", "evaluate.samples"),
])  # fmt: skip
def test_an_override_of_another_kind(capsys, flag, said):
    """An override that is no value of its key is one line with the key."""
    code, told = parsed(capsys, "--config=tests/tiny.py", flag)
    assert code == 2 and said in told and len(told.splitlines()) == 1, told


def test_stages_with_an_empty_name(tmp_path):
    """A comma too many in --stage is named as such."""
    for stages in (["tokenizer", ""], [""]):
        run_refused(tmp_path / "run", (f"--stage={','.join(stages)} has an empty name",), stages)


def test_a_work_directory_that_cannot_be(tmp_path):
    """A work directory that is a file, or lies below one or below a link to nothing, is refused before anything else."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    run_refused(tmp_path / "file", ("--workdir=", "is a file, not a directory"))
    run_refused(tmp_path / "file/below/it", ("--workdir=", f"{tmp_path / 'file'} is a file"))
    run_refused(tmp_path / "link/run", ("--workdir=", f"link to {tmp_path / 'nowhere'}, which is not there"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write and read everything")
def test_what_may_not_be_written_or_read(tmp_path):
    """A directory without the right to write, and a file without the right to read, are one line."""
    (tmp_path / "closed").mkdir(mode=0o500)
    run_refused(tmp_path / "closed/run", ("--workdir=", "may not be written"))
    (tmp_path / "text.txt").write_text("x")
    (tmp_path / "text.txt").chmod(0)
    refused(lambda: corpus.check(corpus.CorpusConfig(files=str(tmp_path / "text.txt"))), "may not be read")


def test_what_the_system_refuses_later_is_one_line(tmp_path, capsys):
    """An error of the system about a file, wherever it is raised, is one line with the file."""

    def closed():
        raise PermissionError(13, "Permission denied", "some/file")

    assert main.attempt(closed, tmp_path) == 1
    assert "some/file: Permission denied: " in capsys.readouterr().err


@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_a_platform_that_is_not_here(tmp_path, platform):
    """JAX_PLATFORMS of another machine, or of none, is one line with its value and a remedy; nothing is written."""
    command = [sys.executable, "-m", "tsdfm_jax.main", "--config=tests/tiny.py", f"--workdir={tmp_path / 'run'}"]
    env = {**os.environ, "JAX_PLATFORMS": platform}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    lines = [line for line in done.stderr.splitlines() if line.startswith("tsdfm_jax: ")]
    assert done.returncode == 1 and "Traceback" not in done.stderr and done.stderr.splitlines()[-1] == lines[-1], done.stderr
    assert f"JAX_PLATFORMS={platform} gives no device" in lines[-1] and "JAX_PLATFORMS=cpu" in lines[-1]
    assert not (tmp_path / "run").exists()


def test_an_error_of_jax_without_a_platform_stays(monkeypatch):
    """Where the user asks for no platform, JAX's own error is not hidden."""

    def fails():
        raise RuntimeError("no backend")

    monkeypatch.setattr(jax, "devices", fails)
    monkeypatch.setattr(meshes.jax, "config", type("Config", (), {"jax_platforms": None}))
    with pytest.raises(RuntimeError, match="no backend"):
        meshes.all_devices()


INPUTS = {
    "missing": {"data.files": "{}/no.txt", "tokenizer.path": "{}/no.model", "sample.prompts": "{}/no.txt", "evaluate.text": "{}/no.jsonl"},
    "directory": {"data.files": "{}/d.txt", "tokenizer.path": "{}/d.model", "sample.prompts": "{}/d.txt", "evaluate.text": "{}/d.txt"},
    "link": {"data.files": "{}/l*.txt", "tokenizer.path": "{}/l.model", "sample.prompts": "{}/l.txt", "evaluate.text": "{}/l.txt"},
}  # fmt: skip
INPUTS["missing"]["evaluate.pretrained"] = "{}/no"


@pytest.mark.parametrize("kind, key", [(kind, key) for kind, keys in INPUTS.items() for key in keys])
def test_inputs_that_cannot_be_read(tmp_path, kind, key):
    """A corpus, tokenizer, prompts or texts that are missing, a directory or a link to nothing are refused before anything is written."""
    for name in ("d.txt", "d.model"):
        (tmp_path / name).mkdir()
    for name in ("l.txt", "l.model"):
        (tmp_path / name).symlink_to(tmp_path / "nowhere")
    value = INPUTS[kind][key].format(tmp_path)
    said = {"missing": value, "directory": "is a directory", "link": "which is not there"}[kind]
    said = "no folder of .txt files" if (kind, key) == ("directory", "evaluate.text") else said
    run_refused(tmp_path / "run", (said,), (), **{key: value})


def test_finished_stages_need_no_inputs(finished):
    """A run whose tokenizer and data are finished goes on without its corpus."""
    inputs.check(tiny.changed(**{"data.files": "gone.txt"}), finished, ["tokenizer", "data", "teacher"])


def test_a_refused_first_command_leaves_nothing(tmp_path):
    """A stage whose inputs are not made yet leaves no work directory; one that has something is not touched."""
    run_refused(tmp_path / "run", ("data is unfinished",), ["teacher"])
    (tmp_path / "run").mkdir()
    (tmp_path / "run/mine.txt").write_text("x")
    run_refused(tmp_path / "run", ("data is unfinished",), ["teacher"])
    assert (tmp_path / "run/mine.txt").read_text() == "x" and not (tmp_path / "run/tensorboard").exists()


def test_paths_at_home(home):
    """`~` is the home directory wherever a path is given."""
    for name in ("text.txt", "prompts.txt"):
        (home / name).write_text("The people of the United States\n")
    assert places.expanded("~/x") == home / "x" and places.expanded("a/~") == pathlib.Path("a/~")
    (document,) = corpus.documents(corpus.CorpusConfig(files="~/te*.txt"))
    assert document.startswith("The people") and corpus.size(corpus.CorpusConfig(files="~/text.txt")) == len(document)
    tokenizer.train(iter([document * 20]), home / "tok", 290, 10_000, 0)
    tok = tokenizer.from_file("~/tok/tokenizer.model")
    assert prompts.from_file("~/prompts.txt", prompts.Ask(), tok, 64)
    (home / "model").mkdir()
    refused(lambda: model_directory.read_about("~/model"), str(home / "model"))
    refused(lambda: model_directory.check_free("~/text.txt", False), "is there already")
    inputs.check_text("~/text.txt")
    assert text_sets.sha256("~/text.txt") == text_sets.sha256(str(home / "text.txt"))
    (home / "judge, first").mkdir()
    assert pretrained.find("~/judge, first") == home / "judge, first" and hub.on_disk(str(home / "judge, first"), ["*"])


def test_the_work_directory_at_home(home):
    """A work directory below `~` is made there."""
    main.run(tiny.get_config(), pathlib.Path("~/run"), ["tokenizer"])
    assert (home / "run/tokenizer/done.json").exists() and not pathlib.Path("~").exists()


def named(tmp_path, *names):
    for name in names:
        (tmp_path / name).write_text(name)


def texts(files):
    return list(corpus.documents(corpus.CorpusConfig(files=files)))


def test_names_with_commas_and_brackets(tmp_path, monkeypatch):
    """A file that exists is taken by its name, with commas, brackets and asterisks; an escaped comma is a comma."""
    monkeypatch.chdir(tmp_path)
    named(tmp_path, "a,b.txt", "a", "b.txt", "c[1].txt", "c1.txt", "d*.txt", "dd.txt", "e, f.txt")
    assert texts("a,b.txt") == texts("a\\,b.txt") == ["a,b.txt"]
    assert texts("c[1].txt") == ["c[1].txt"] and texts("d*.txt") == ["d*.txt"] and texts("c[0-9].txt") == ["c1.txt"]
    assert texts("b.txt,a,b.txt, c1.txt ,e, f.txt") == ["a,b.txt", "b.txt", "c1.txt", "e, f.txt"]
    assert texts("a\\,*.txt") == ["a,b.txt"] and texts("?1.txt, b.txt") == ["b.txt", "c1.txt"]
    assert places.split(f"{places.escaped('c[1].txt')},{places.escaped('x,y')}") == ["c[[]1].txt", "x,y"]
    assert places.split(" , ,") == []


def test_a_file_counts_once(tmp_path, monkeypatch):
    """A file that is named twice, relative, absolute or by a link, is read once, and the corpus is the same."""
    monkeypatch.chdir(tmp_path)
    named(tmp_path, "0.txt", "1.txt")
    (tmp_path / "l.txt").symlink_to("0.txt")
    once = corpus.CorpusConfig(files="0.txt,1.txt")
    for files in ("0.txt,./0.txt,1.txt", "0.txt,l.txt,1.txt", "*.txt", "1.txt,0.txt,0.txt"):
        assert texts(files) == ["0.txt", "1.txt"]
        assert corpus.fingerprint(corpus.CorpusConfig(files=files)) == corpus.fingerprint(once)
    assert sorted(texts(f"1.txt,0.txt,{tmp_path / '0.txt'}")) == ["0.txt", "1.txt"]
