"""Expansion of a sweep: algebra of its parts, names, commands, refusals, and shared stages."""

import itertools
import pathlib
import shlex

import pytest
from absl import flags
from hypothesis import given, settings as trials, strategies as st
from ml_collections import config_flags

from configs import quickstart
from tests import tiny
from tsdfm_jax.experiments.sweep import hyper, plan as sweep_plan, runs as sweep_runs
from tsdfm_jax.flow import shaping
from tsdfm_jax.workspace import tsdfm_artefacts

SHIPPED = "configs/sweeps/shaping.py"
PARTS = st.lists(st.lists(st.integers(), min_size=1, max_size=3), min_size=1, max_size=3)


def parts_of(values):
    return [hyper.sweep(f"k{i}", v) for i, v in enumerate(values)]


@given(PARTS)
def test_a_product_is_every_combination_once(values):
    """A product has every combination once; it is associative, and the empty product is neutral."""
    parts = parts_of(values)
    whole = hyper.product(parts)
    assert [tuple(entry.values()) for entry in whole] == [tuple(v) for v in itertools.product(*values)] and all(
        list(entry) == [f"k{i}" for i in range(len(values))] for entry in whole
    )
    assert hyper.product([parts[0]]) == parts[0] and hyper.product([]) == [{}]
    assert hyper.product([hyper.product(parts[:1]), hyper.product(parts[1:])]) == whole


@given(PARTS, PARTS)
def test_a_chain_distributes_over_a_product(left, right):
    """(a + b) × c = a × c + b × c; a chain is a concatenation, and an empty one is neutral."""
    a, b = (hyper.product(parts_of(v)) for v in (left, right))
    c = hyper.sweep("c", [1, 2])
    assert hyper.product([hyper.chainit([a, b]), c]) == hyper.chainit([hyper.product([a, c]), hyper.product([b, c])])
    assert hyper.chainit([a, [], b]) == a + b


@given(st.lists(st.tuples(st.integers(), st.integers()), max_size=4))
def test_a_zip_pairs(pairs):
    """Entry i of a zip has value i of each part."""
    a, b = hyper.sweep("a", [x for x, _ in pairs]), hyper.sweep("b", [y for _, y in pairs])
    assert hyper.zipit([a, b]) == [{"a": x, "b": y} for x, y in pairs] and hyper.zipit([a]) == a


@pytest.mark.parametrize("make, said", [
    (lambda: hyper.zipit([hyper.sweep("a", [1, 2]), hyper.sweep("b", [1])]), "zipit of 2 and 1 entries (a; b)"),
    (lambda: hyper.product([hyper.sweep("a", [1]), hyper.sweep("a", [2])]), "sets a twice in one run (1, 2)"),
    (lambda: hyper.zipit([hyper.sweep("a", [1]), hyper.sweep("a", [2])]), "sets a twice"),
    (lambda: hyper.sweep("a", "token"), "must be a list, such as ['token']"),
    (lambda: hyper.sweep("a", 3), "must be a list, such as [3]"),
])  # fmt: skip
def test_pieces_that_do_not_fit(make, said):
    """Unequal zips, a key set twice and values that are no list each give a one-line error."""
    with pytest.raises(ValueError) as caught:
        make()
    assert said in str(caught.value) and "\n" not in str(caught.value)


def expand(entries, given=None, config=None, root=pathlib.Path("runs/s")):
    return sweep_runs.expand("c.py", config or tiny.get_config(), given or {}, entries, root)


@pytest.mark.parametrize("entries, said", [
    ([{"shaping.tua": 0.5}], "no such key: did you mean shaping.tau?"),
    ([{"shaping": 1}], "no such key"),
    ([{"shaping.tau": "high"}], "shaping.tau='high', which must be a number, such as 0.0"),
    ([{"shaping.candidates": 2.0}], "shaping.candidates=2.0, which must be a whole number"),
    ([{"shaping.candidates": True}], "must be a whole number"),
    ([{"compass.from_teacher": 1}], "must be true or false"),
    ([{"judges.widths": 8}], "must be a tuple"),
    ([{"shaping.policy": "tokens"}], "run 'policy=tokens' of the sweep: shaping.policy 'tokens' is not one of"),
    ([{"mesh.data": -2}], "mesh.data"),
    ([{"shaping.tau": 0.5}, {"shaping.tau": 0.5}], "'tau=0.5' and 'tau=0.5' of the sweep have the same config"),
    ([{"shaping.candidates": 3}, {}], "'candidates=3' and 'base' of the sweep have the same config"),
    ([], "must return a list of dicts"),
    ("shaping.tau", "must return a list of dicts"),
    ([{"seed": 1}], "--config.seed=5 is swept by c.py"),
])  # fmt: skip
def test_a_sweep_that_cannot_work(entries, said):
    """Unknown keys, wrong types, invalid or equal runs and keys also on the command line each give a one-line error."""
    with pytest.raises(ValueError) as caught:
        expand(entries, given={"seed": 5})
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_the_parent_leaves_the_mesh_to_the_runs():
    """A mesh that does not fit this machine is no error here: the run's own devices decide."""
    assert expand([{"mesh.fsdp": 1024}])[0].config.mesh.fsdp == 1024


KEYS = {
    "sample.prompt": st.text(max_size=60),
    "data.files": st.text(st.characters(categories=["L", "P", "N", "Zs"]), max_size=200),
    "seed": st.integers(0, 2**31 - 1),
    "shaping.temperature": st.floats(1e-6, 1e6),
    "compass.from_teacher": st.booleans(),
    "evaluate.student_steps": st.lists(st.integers(1, 64), min_size=1, max_size=3).map(tuple),
}


@given(st.lists(st.fixed_dictionaries({}, optional=KEYS), min_size=2, max_size=4, unique_by=repr))
@trials(deadline=None, max_examples=60)
def test_names_are_unique_and_fit_for_files(entries):
    """Different overrides have different names; a name is one valid part of a path on any file system."""
    short = sweep_runs.short_names(KEYS)
    names = [sweep_runs.name_of(entry, short) for entry in entries]
    assert len(set(names)) == len(names)
    for name in names:
        assert len(name.encode()) <= 120 and name != sweep_runs.COMMON and name[0].isalpha()
        assert not set(name) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,=_+-")


@pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections' own
@given(st.fixed_dictionaries({}, optional=KEYS))
@trials(deadline=None, max_examples=60)
def test_main_reads_back_what_the_sweep_meant(overrides):
    """The flags of a run, parsed as main does, give the config that the sweep checked."""
    config = tiny.get_config()
    config.update_from_flattened_dict(overrides)
    argv = ["main", *sweep_runs.arguments("tests/tiny.py", "runs/x", overrides)]
    values = flags.FlagValues()
    parsed = config_flags.DEFINE_config_file("config", None, "", flag_values=values, sys_argv=argv)
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    values(argv)
    assert parsed.value.to_json() == config.to_json()


@pytest.mark.parametrize("one, other", [("a b", "a-b"), ("a/b", "a b"), ("x" * 300 + "a", "x" * 300 + "b"), ("ä", "ö")])
def test_names_that_would_be_alike(one, other):
    """Names differ even where a value was changed or cut to fit."""
    a, b = (sweep_runs.name_of({"data.files": value}, {"data.files": "files"}) for value in (one, other))
    assert a != b and max(len(a), len(b)) <= 120


def test_short_names_tell_keys_apart():
    """A short name is the last part of a key, or more of it where that is ambiguous."""
    keys = ("shaping.tau", "teacher.optimiser.steps", "student.optimiser.steps", "seed", "sample.seed")
    assert list(sweep_runs.short_names(keys).values()) == [
        "tau", "teacher.optimiser.steps", "student.optimiser.steps", "seed", "sample.seed",
    ]  # fmt: skip


def test_the_shipped_sweep(capsys):
    """The shipped sweep has 18 runs with every policy, shares tokenizer, data, judges and teacher, and prints main's commands."""
    shipped = sweep_plan.Sweep(SHIPPED, quickstart.get_config(), {}, pathlib.Path("runs/sweep"))
    assert shipped.shared == ["tokenizer", "data", "judges", "teacher"] and len(shipped.runs) == 18
    assert {run.config.shaping.policy for run in shipped.runs} == set(shaping.POLICIES)
    shipped.print_commands("")
    common, first, *rest = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    main = ["python", "-m", "tsdfm_jax.main", f"--config={SHIPPED}"]
    assert common == [*main, "--workdir=runs/sweep/common", "--stage=tokenizer,data,judges,teacher"]
    name = "candidates=2,tau=0.0,policy=sequence"
    swept = ["--config.shaping.candidates=2", "--config.shaping.tau=0.0", "--config.shaping.policy=sequence"]
    assert first == [*main, f"--workdir=runs/sweep/{name}", *swept] and len(rest) == 17


@pytest.mark.parametrize("entries, last", [
    (hyper.sweep("shaping.candidates", [2, 4]), "teacher"),
    (hyper.sweep("judges.batch", [16, 32]), "data"),
    (hyper.sweep("flow.source", ["mask", "uniform"]), "judges"),
    (hyper.sweep("student.batch", [16, 32]), "trajectories"),
    (hyper.sweep("rounds", [1, 2]), "compass"),
    (hyper.sweep("evaluate.samples", [8, 16]), "student"),
    (hyper.sweep("sample.steps", [1, 2]), "evaluate"),
    (hyper.sweep("seed", [0, 1]), None),
    (hyper.sweep("mesh.fsdp", [1, 2]), None),
    (hyper.sweep("save_every", [1, 2]), None),
    (hyper.sweep("shaping.candidates", [2]), None),
    ([{"shaping.candidates": 2}, {"student.batch": 32}], "teacher"),
    (hyper.product([hyper.sweep("teacher.batch", [32]), hyper.sweep("student.batch", [16, 32])]), "trajectories"),
])  # fmt: skip
def test_what_is_shared(entries, last):
    """All stages before the first that an override changes are shared; a key that no stage names changes all."""
    stages = [stage for stage in tsdfm_artefacts.KEYS if stage != "autoregressive"]  # none of these runs has it
    shared = sweep_runs.shared_stages([run.config for run in expand(entries)])
    assert shared == (stages[: stages.index(last) + 1] if last else [])
