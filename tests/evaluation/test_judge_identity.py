"""A judge is known by all that its numbers depend on, and its scores stay while that holds."""

import json

import pytest

from tests import published_models
from tests.tiny import changed as config
from tsdfm_jax import main
from tsdfm_jax.evaluation import pretrained


def write(directory, seed=0, bos=7):
    """A tiny GPT-2."""
    published_models.write(directory, published_models.GPT2 | {"bos_token_id": bos}, published_models.gpt2(seed))
    return directory


def table(workdir):
    """{judge: {set of texts: perplexity}}."""
    found = {}
    for row in json.loads((workdir / "evaluate/rows.json").read_text()):
        found.setdefault(row["judge"].split("/")[-1], {})[row["model"], row["steps"], row["temperature"]] = row["ppl_token"]
    return found


def test_what_a_judge_s_identity_covers(tmp_path):
    """Weights, first token, and any value of its config; not its directory."""
    same, copy = pretrained.load(str(write(tmp_path / "a"))), pretrained.load(str(write(tmp_path / "b")))
    assert same.identity == copy.identity and same.hash == copy.hash
    other_bos, other = pretrained.load(str(write(tmp_path / "c", bos=9))), pretrained.load(str(write(tmp_path / "d", seed=1)))
    assert other_bos.hash == same.hash and len({same.identity, other_bos.identity, other.identity}) == 3


def test_judges_of_the_same_weights_and_a_judge_whose_weights_are_replaced(copy, tmp_path):
    """Another first token gives another number; new weights in a directory score anew, without a word, and that judge alone."""
    one, two = write(tmp_path / "one"), write(tmp_path / "two", bos=9)
    c = config(**{"evaluate.pretrained": f"{one},{two}"})
    main.run(c, copy, ["evaluate"])
    before = table(copy)
    assert before["one"] != before["two"] and before["one"].keys() == before["two"].keys() == before["judge_0"].keys()
    texts = {file: file.stat().st_mtime_ns for file in copy.glob("samples/*_0.jsonl")}
    write(one, seed=1)
    main.run(c, copy, ["evaluate"])
    after = table(copy)
    assert all(after["one"][name] != value for name, value in before["one"].items())
    assert {name: after[name] for name in after if name != "one"} == {name: before[name] for name in before if name != "one"}
    assert texts == {file: file.stat().st_mtime_ns for file in texts}
    (one / "config.json").write_text("{}")
    with pytest.raises(ValueError):
        main.run(c, copy, ["evaluate"])
    assert table(copy) == after
