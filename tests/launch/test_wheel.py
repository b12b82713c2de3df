"""The wheel: what `pip install` of it leaves works in an empty folder, far from the clone."""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import venv

import pytest

from launch import tsdfm

ROOT = pathlib.Path(__file__).parents[2]
ALONE = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "XLA_FLAGS")}  # the clone not in sight
SOURCES = ("tsdfm_jax", "launch", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel in a fresh environment, which finds the packages that it needs in this one: (its bin directory, an empty folder)."""
    where = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:  # a copy, since a build writes beside its sources
        source = ROOT / name
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(source, where / "src" / name, ignore=ignored) if source.is_dir() else shutil.copy(
            source, where / "src" / name
        )
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", where, where / "src"]
    subprocess.run(build, check=True, cwd=where, env=ALONE, timeout=120)
    venv.create(where / "env", with_pip=False)
    python = where / "env/bin/python"
    [wheel] = where.glob("*.whl")
    subprocess.run([*pip, "--python", python, "install", "--no-deps", wheel], check=True, cwd=where, env=ALONE, timeout=120)
    [packages] = (where / "env/lib").glob("python*/site-packages")
    (packages / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")  # a path file in there is not read again
    shutil.rmtree(where / "src")
    (where / "empty").mkdir()
    return where / "env/bin", where / "empty"


def run(installed, *command, code=0):
    """stdout and stderr of a command of the environment, in the empty folder."""
    bin_, empty = installed
    done = subprocess.run([bin_ / command[0], *command[1:]], cwd=empty, env=ALONE, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_it_is_the_installed_one(installed):
    """Package, commands and configs lie in the environment, and so do the page's parts and the launch scripts."""
    code = "import tsdfm_jax, launch, configs; print(*(m.__file__ for m in (tsdfm_jax, launch, configs)))"
    files = [pathlib.Path(name) for name in run(installed, "python", "-c", code).split()]
    assert len(files) == 3 and all(installed[0].parent in file.parents for file in files), files
    assert (files[0].parent / "report/viewer.js").is_file() and (files[1].parent / "tpu_pod.sh").is_file()


def test_it_claims_no_commit_of_the_repository_around_it(installed):
    """An environment in somebody's repository: a report of the installed package names no commit."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", installed[0].parents[1]]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message=of somebody"], check=True)
    assert run(installed, "python", "-c", "from tsdfm_jax.runtime import environment; print(environment.commit())") == "None\n"


def test_tsdfm_lists_and_runs_every_command(installed):
    """Each is listed with what it does, and has its own --help; another name is one line."""
    listing = run(installed, "tsdfm").splitlines()
    told = dict(line.split(maxsplit=1) for line in listing[2:])
    assert list(told) == list(tsdfm.COMMANDS) and all(told.values())
    for name in tsdfm.COMMANDS:
        assert f"tsdfm {name}:" in run(installed, "tsdfm", name, "--help", code=1), name  # absl's code of a help page
    refused = run(installed, "tsdfm", "smaple", code=2)
    assert len(refused.splitlines()) == 1 and "'smaple' is not one of run, status, sample" in refused


def test_the_readme_s_command_finds_its_config(installed):
    """configs/ came along: a stage runs with --config=configs/quickstart.py, its record names the config as it was typed."""
    small = ["--config.data.limit_bytes=300000", "--config.tokenizer.vocab_size=400", "--stage=tokenizer,data"]
    run(installed, "python", "-m", "tsdfm_jax.main", "--config=configs/quickstart.py", *small)
    made = installed[1] / "runs/quickstart"
    assert (made / "tokenizer/tokenizer.model").is_file() and (made / "data/done.json").is_file()
    assert "--config=configs/quickstart.py" in (made / "command.txt").read_text()
    again = run(installed, "tsdfm", "run", "--config", "configs/quickstart.py", "--stage=nope", code=1)
    assert "--stage=nope is not one of" in again and len(again.splitlines()) == 1


def test_the_commands_of_launch_are_there(installed):
    """`python -m launch.compare` is, and a config of the package is found by the others too."""
    assert "--csv: " in run(installed, "python", "-m", "launch.compare", "--help", code=1)
    table = run(installed, "python", "-m", "launch.budget", "--config=configs/quickstart.py", "--slice=v5e-16")
    assert "FLOP estimate" in table and "teacher" in table
    assert "no config file 'configs/none.py'" in run(installed, "tsdfm", "run", "--config=configs/none.py", code=2)


def test_a_file_of_one_s_own_comes_first(installed):
    """A config in the current folder is taken before one of that name which came with the package."""
    own = installed[1] / "configs/quickstart.py"
    own.parent.mkdir()
    own.write_text("def get_config():\n    raise ValueError('a file of my own')\n")
    try:
        assert "a file of my own" in run(installed, "tsdfm", "run", "--config=configs/quickstart.py", code=2)
    finally:
        shutil.rmtree(own.parent)
