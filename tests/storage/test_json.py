"""JSON holds no NaN and no infinity: the writer names the place, or writes null."""

import json

import numpy as np
import pytest

from tsdfm_jax.storage import atomic


@pytest.mark.parametrize(("value", "says"), [
    ({"a": 1.0, "rows": [{"ppl": 2.0}, {"ppl": float("inf")}]}, "rows[1].ppl is inf"),
    ({"mauve": np.float64("nan")}, "mauve is nan"),
    ([1, (2, float("-inf"))], "[1][1] is -inf"),
    (float("nan"), "the value is nan"),
])  # fmt: skip
def test_a_number_that_is_not_finite_is_named(value, says):
    """The line names the path of the first such number; `finite` writes null there and changes nothing else."""
    with pytest.raises(ValueError) as caught:
        atomic.json_text(value)
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert "null" in atomic.json_text(atomic.finite(value))


def test_other_values_are_those_of_json():
    """Finite values and options are those of json.dumps; other faults keep their own message."""
    value = {"b": [1, 2.5, None, True, "ü"], "a": {"c": (1, 2)}}
    assert atomic.json_text(value, indent=1, sort_keys=True) == json.dumps(value, indent=1, sort_keys=True)
    assert json.loads(atomic.json_text(atomic.finite(value))) == json.loads(json.dumps(value))
    loop = []
    loop.append(loop)
    with pytest.raises((ValueError, RecursionError)):
        atomic.json_text(loop)
    with pytest.raises(TypeError):
        atomic.json_text({"a": {1, 2}})


def test_a_sealed_file_refuses_nan(tmp_path):
    """A manifest with NaN is refused before anything is written."""
    with pytest.raises(ValueError, match="share is nan"):
        atomic.write_sealed(tmp_path / "manifest.json", {"share": float("nan")})
    assert not list(tmp_path.iterdir())
