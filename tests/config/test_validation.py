"""Settings that mean nothing, or the same as others, are refused in one line that names the key."""

import numpy as np
import pytest

from tests.tiny import changed
from tsdfm_jax.config import settings, tsdfm_validation, validation
from tsdfm_jax.data import prompts
from tsdfm_jax.flow import sampler


@pytest.mark.parametrize("changes, said", [
    ({"shaping.tau": 1.5}, "shaping.tau 1.5"),
    ({"shaping.tau": 1.0}, "shaping.tau 1.0"),
    ({"shaping.tau": -0.5}, "shaping.tau -0.5"),
    ({"data.text_loss": 1.5}, "data.text_loss 1.5"),
    ({"trajectories.seed": 134217728}, "trajectories.seed 134217728"),
    ({"trajectories.seed": 21474}, "trajectories.seed 21474"),
    ({"sample.temperature": 1e-45}, "sample.temperature 1e-45"),
    ({"sample.temperature": float("nan")}, "sample.temperature nan"),
    ({"sample.temperature": 0.0}, "temperature 0.0"),
    ({"evaluate.temperature": -1.0}, "temperature -1.0"),
    ({"evaluate.top_p": 1e-45}, "evaluate.top_p 1e-45"),
    ({"evaluate.top_p": 1.5}, "top_p 1.5"),
    ({"evaluate.student_steps": ()}, "evaluate.student_steps ()"),
    ({"evaluate.frontier_temperatures": ()}, "evaluate.frontier_temperatures ()"),
    ({"evaluate.frontier_temperatures": (1.0,)}, "evaluate.frontier_temperatures (1.0,)"),
    ({"evaluate.frontier_temperatures": (0.5, 0.50000001)}, "0.5 and 0.50000001"),
    ({"evaluate.frontier_temperatures": (1.0000001,)}, "1.0 and 1.0000001"),
    ({"evaluate.seeds": ()}, "evaluate.seeds ()"),
    ({"judges.widths": (), "judges.blocks": (), "judges.heads": ()}, "judges.widths ()"),
    ({"models": ()}, "models ()"),
])  # fmt: skip
def test_what_means_nothing_is_refused(changes, said):
    """The line names the key and its value, before anything is computed."""
    with pytest.raises(ValueError) as caught:
        validation.validate(changed(**changes))
    assert said in str(caught.value) and "\n" not in str(caught.value), str(caught.value)


@pytest.mark.parametrize("changes", [
    {"shaping.tau": 0.99},
    {"trajectories.seed": 21473, "seed": 2**31 - 1},
    {"evaluate.teacher_steps": ()},
    {"evaluate.student_steps": (), "report.traces": 0, "evaluate.frontier": ""},
    {"evaluate.student_steps": (), "models": ("teacher",), "sample.model": "teacher", "evaluate.frontier": ""},
    {"evaluate.frontier_temperatures": (), "evaluate.frontier": ""},
    {"evaluate.seeds": (0, 0), "evaluate.frontier_temperatures": (0.5, 0.5)},
    {"data.text_loss": 1.0},
])  # fmt: skip
def test_what_means_something_is_kept(changes):
    """Lists that no stage needs may be empty, equal entries are one, and the last value of a range is allowed."""
    validation.validate(changed(**changes))


def test_no_two_seeds_are_one():
    """The seeds of all allowed trajectories.seed and rounds are different 32-bit words, also with the largest seed."""
    most = tsdfm_validation.MAXIMUM["trajectories.seed"]
    seeds = {settings.student_seed(changed(**{"trajectories.seed": n, "seed": 2**31 - 1})) for n in (0, 1, most - 1, most)}
    words = {(seed + extra) % 2**32 for seed in seeds for extra in (0, 999, 2000, 2999)}
    assert len(words) == 16 and max(seeds) + 3000 < 2**32


@pytest.mark.parametrize("name", ["temperature", "top_p"])
@pytest.mark.parametrize("value", [1e-45, 0, -1.0, float("nan"), float("inf"), 1e31, "1", None, True, [1.0], np.ones(2)])
def test_a_temperature_is_a_number_that_float32_holds(name, value):
    """From Python too, a temperature or top_p that is no number in its range is one line."""
    with pytest.raises(ValueError) as caught:
        sampler.SamplerConfig(**{name: value})
    assert str(caught.value).startswith(f"{name} {value!r} must be a number above 0, from 1e-30 to") and "\n" not in str(
        caught.value
    )


def test_numbers_of_numpy_are_numbers():
    """An integer and NumPy's floats are temperatures."""
    for value in (1, np.float32(1.0), np.float64(1.0)):
        assert sampler.SamplerConfig(temperature=value, top_p=value).temperature == 1


def test_an_infill_that_is_given_is_not_empty():
    """An empty infill that was given is refused; a text is not."""
    with pytest.raises(ValueError, match="infill '' is empty"):
        prompts.check_infill("")
    prompts.check_infill("The ____")
