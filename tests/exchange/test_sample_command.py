"""`python -m launch.sample`: texts on stdout, one line for what cannot be written."""

import pathlib
import subprocess
import sys

import pytest

from tsdfm_jax import load

ROOT = pathlib.Path(__file__).parents[2]
MODEL = "--model=results/sotu/student"


def sample(*flags):
    """(exit code, stdout, stderr) of the command."""
    command = [sys.executable, "-m", "launch.sample", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


def test_its_texts_are_those_of_load():
    """Every flag arrives: prompt, suffix, steps, number, temperature, length and seed give the texts of Model.sample."""
    flags = [
        "--prompt=The Senate",
        "--suffix= of peace.",
        "--steps=2",
        "--number=2",
        "--temperature=0.8",
        "--length=30",
        "--seed=3",
    ]
    code, out, err = sample(MODEL, *flags)
    how = dict(suffix=" of peace.", steps=2, number=2, temperature=0.8, length=30, seed=3)
    assert code == 0, err
    assert out == "\n\n".join(map(str, load(ROOT / "results/sotu/student").sample("The Senate", **how))) + "\n"


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "--model is missing: python -m launch.sample --model=runs/quickstart"),
        (["--model=nowhere"], "nowhere"),
        ([MODEL, "--network=teacher"], "holds student_shaped"),
        ([MODEL, "--steps=0"], "steps"),
        ([MODEL, "The Senate"], "'The Senate' is not a flag"),
        ([MODEL, "--infill=The ____", "--prompt=The"], "infill"),
        ([MODEL, "--infill="], "infill '' is empty"),
        ([MODEL, "--temperature=1e-45"], "temperature 1e-45"),
    ],
)
def test_what_cannot_be_written_is_one_line(flags, message):
    """Bad input costs one line on stderr and exit code 2; nothing goes to stdout."""
    code, out, err = sample(*flags)
    assert code == 2 and out == "" and len(err.splitlines()) == 1 and message in err, err
