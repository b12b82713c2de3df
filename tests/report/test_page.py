"""The page: a section for all present data, no external resource, no text as markup, the same bytes twice."""

import copy
import json
import pathlib
import re

import pytest

from tests import showing
from tests.report.reading import HOSTILE, Read
from tsdfm_jax.report import cells, page

EVERY = ["table", "perplexity", "training", "compass", "energies", "viewer", "students", "making"]


def written(folder, report, traces):
    page.write(folder / "index.html", report, traces)
    return (folder / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return written(tmp_path_factory.mktemp("page"), showing.report(), showing.traces())


def test_every_part_is_there(whole):
    """A complete report gives every section, the verdict, a line per model and steps, and a figure per judge and curve."""
    found = Read(whole)
    assert list(found.sections) == EVERY
    assert "×0.78" in whole and "2 seeds" in whole
    assert len(re.findall("<tr>", whole.split('id="table"')[1].split("</table>")[0])) == 1 + 3 + 3 + 4 + 4
    assert found.tags.count("figure") == 2 + 2 + 3 + 3 + 2 + 1
    assert len(found.ids) == len(set(found.ids))
    assert (
        "shaped student at 8 steps 402.2 (380.0 to 431.9), blind student at 8 steps does not reach it"
        in found.sections["perplexity"]
    )


def test_nothing_comes_from_elsewhere(whole):
    """No link leaves the page, its policy forbids fetches, and no figure has its own colours, fonts or styles."""
    found = Read(whole)
    assert found.links == []
    assert "default-src 'none'" in whole and "http" not in re.sub(r"http-equiv|http://www.w3.org/2000/svg", "", whole)
    drawings = re.findall("<svg.*?</svg>", whole, re.S)
    assert not any(re.search("#[0-9a-f]{6}|font-family|<style|<metadata", drawing) for drawing in drawings)
    assert any("var(--shaped)" in drawing for drawing in drawings)


def test_the_table_is_of_one_temperature():
    """A table line is the mean over seeds at the config's temperature, without the rows of a frontier."""
    report = showing.report(seeds=(0, 1, 2))
    found = next(c for c in cells.gather(report) if (c.model, c.steps) == ("student_shaped", 8))
    own = [
        r["ppl_token"]
        for r in report["rows"]
        if (r["model"], r["steps"], r["judge"], r["temperature"]) == ("student_shaped", 8, "judge_1", 1.0)
    ]
    assert found.seeds == 3 and found.ppl["judge_1"].value == pytest.approx(sum(own) / 3)
    assert (found.ppl["judge_1"].low, found.ppl["judge_1"].high) == (min(own), max(own))


def test_hostile_text_is_inert(tmp_path, whole, undrawn):
    """Text that looks like markup stays text, in verdict, names, config and tokens."""
    report, traces = showing.report(), showing.traces()
    report["verdict"] = report["command"] = report["config"]["data"]["files"] = HOSTILE
    report["environment"]["device"] = HOSTILE
    report["compass"]["kind"] = report["compass"]["steered"][0]["selection"] = HOSTILE
    for row in report["rows"]:
        row["model"] = f"text:{HOSTILE}" if row["model"] == "text:a peer" else row["model"]
        row["judge_hash"] = HOSTILE
    traces["vocabulary"]["0"] = HOSTILE
    text = written(tmp_path, report, traces)
    found, plain = Read(text), Read(whole)
    assert found.links == found.handlers == [] and sorted(set(found.tags)) == sorted(set(plain.tags))
    assert found.tags.count("script") == plain.tags.count("script")
    assert not re.search("[<>&]", re.search(r'id="traces">(.*?)</script>', text, re.S)[1])
    assert json.loads(found.data)["vocabulary"]["0"] == HOSTILE
    assert HOSTILE in found.sections["making"] and HOSTILE in found.sections["table"]


@pytest.mark.parametrize(
    "leave_out, gone",
    [
        (("rows", "frontiers", "matched"), {"table", "perplexity"}),
        (("bounds", "stages"), {"training"}),
        (("compass",), {"compass"}),
        (("shaping",), {"energies"}),
        (("traces",), {"viewer", "students"}),
        (("config", "commit", "command", "environment", "stages", "rows", "bounds"), {"making", "table", "perplexity", "training"}),
    ],
)
def test_a_part_without_data_is_left_out(tmp_path, undrawn, leave_out, gone):
    """Missing data removes its sections only."""
    report = {key: value for key, value in showing.report().items() if key not in leave_out}
    found = Read(written(tmp_path, report, None if "traces" in leave_out else showing.traces(length=4, midpoints=2, candidates=2)))
    assert set(found.sections) == set(EVERY) - gone


def test_what_earlier_reports_lack_is_no_error(tmp_path):
    """A report of schema 1 gives a page; K = 1 gives a page without energies."""
    kept = json.loads((pathlib.Path(__file__).parents[2] / "results/quickstart.json").read_text())
    later = (
        "distinct_1",
        "distinct_3",
        "repetition_4",
        "mauve",
        "mauve_spread",
        "frechet",
        "features",
        "bits_per_byte",
        "symbols",
        "cut",
    )
    later += ("judge_hash", "judge_tokenizer", "judge_bos", "judge_bos_policy", "judge_context")
    rows = [{name: value for name, value in row.items() if name not in later} for row in kept["rows"][:9]]
    first = {name: kept[name] for name in ("commit", "config", "environment", "stages", "compass")} | {"schema": 1, "rows": rows}
    assert list(Read(written(tmp_path, first, None)).sections) == [
        "table",
        "perplexity",
        "training",
        "compass",
        "making",
    ]
    traces = showing.traces(candidates=1)
    for m in (m for t in traces["trajectories"] for m in t["midpoints"]):
        m.update(energy=None, token_energy=None, shaped=False)
    report = {"schema": 2, "compass": {"kind": "nce", "steered": []}, "shaping": None, "frontiers": [], "matched": [], "bounds": {}}
    found = Read(written(tmp_path, report, traces))
    assert list(found.sections) == ["viewer", "students"]
    assert json.loads(found.data)["trajectories"][0]["midpoints"][0]["energy"] is None


def test_differences_give_the_states_back(whole):
    """The page's differences rebuild the traces' states, and each energy belongs to its token."""
    traces, packed = showing.traces(), json.loads(Read(whole).data)
    for t, p in zip(traces["trajectories"], packed["trajectories"], strict=True):
        state = list(p["start"])
        for m, q in zip(t["midpoints"], p["midpoints"], strict=True):
            for k, c in enumerate(q["candidates"]):
                assert [new if (new := dict(zip(c["at"], c["to"])).get(i)) is not None else s for i, s in enumerate(state)] == m[
                    "candidates"
                ][k]
                assert c["energy"] == [m["token_energy"][k][i] for i in c["at"]]
            assert all(state[i] != s for i, s in zip(q["state"]["at"], q["state"]["to"]))
            for i, token in zip(q["state"]["at"], q["state"]["to"]):
                state[i] = token
            assert state == m["state"]
    assert packed["students"][0]["steps"][-1]["time"] == 1.0


def test_a_state_mixed_from_candidates_has_their_energies(tmp_path):
    """A state mixed from several candidates shows, for each token, the energy of a candidate with that token."""
    traces = showing.traces(length=8, midpoints=1, candidates=2)
    m = traces["trajectories"][0]["midpoints"][0]
    start = traces["trajectories"][0]["start"]
    m.update(kept=0, candidates=[[1] * 8, [2] * 8], state=[1] * 4 + [2] * 4, token_energy=[[0.25] * 8, [0.75] * 8])
    traces["trajectories"][0]["start"] = [9] * len(start)
    told = json.loads(Read(written(tmp_path, {"schema": 2}, traces)).data)["trajectories"][0]["midpoints"][0]["state"]
    assert told["energy"] == [0.25] * 4 + [0.75] * 4


def test_the_same_bytes_twice(tmp_path, whole):
    """Report and traces alone determine the page's bytes; they are not changed, and no partial file stays."""
    report, traces = showing.report(), showing.traces()
    before = copy.deepcopy((report["rows"], traces))
    assert written(tmp_path, report, traces) == whole
    assert before == (report["rows"], traces)
    assert [f.name for f in tmp_path.iterdir()] == ["index.html"]


def test_what_cannot_be_shown_is_one_line(tmp_path):
    """Another schema or a state of the wrong length is refused in one line before anything is written."""
    traces = showing.traces(length=8, midpoints=2, candidates=2)
    traces["trajectories"][0]["midpoints"][1]["state"].pop()
    for report, found, said in (({"schema": 3}, None, "schema 3"), ({"schema": 2}, traces, "7 tokens")):
        with pytest.raises(ValueError) as caught:
            page.write(tmp_path / "index.html", report, found)
        assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def without_figures(value):
    """The report with null for every metric that may be missing."""
    missing = ("ppl_token", "ppl_low", "ppl_high", "low", "high", "entropy_nats", "mauve", "mauve_spread", "frechet", "lexical")
    if isinstance(value, dict):
        return {key: None if key in missing else without_figures(part) for key, part in value.items()}
    return [without_figures(part) for part in value] if isinstance(value, list) else value


@pytest.mark.parametrize("model", [None, "student_shaped"])
def test_missing_figures_are_dashes(tmp_path, model):
    """Perplexities, entropies and distances that are null, of one model or of all, leave dashes and no other trace."""
    report = showing.report()
    for name in ("rows", "matched", "frontiers"):
        report[name] = [without_figures(row) if model in (None, row["model"]) else row for row in report[name]]
    report["compass"] = without_figures(report["compass"])
    found = Read(written(tmp_path, report, None))
    shown = [found.sections.get(name, "") for name in ("table", "perplexity", "compass")]
    assert "–" in shown[0] and "–" in shown[2] and bool(shown[1]) == (model is not None)
    assert not re.search(r"\b(nan|None|inf)\b", "".join(shown))


def test_what_the_tokenizer_loses(tmp_path):
    """The page says how much of the corpus survives the tokenizer, and why not all; a report without these figures says nothing."""
    report = showing.report()
    assert "gives back" not in written(tmp_path, report, None)
    lossless = {"bytes": 12345, "lost_bytes": 0, "tokens": 4000, "unknown_tokens": 0, "cause": None}
    report["stages"]["tokenizer"] = {"seconds": 1.0, "text": lossless}
    assert "gives back all of 12,345 bytes of the corpus; 0 of its tokens" in written(tmp_path, report, None)
    lossy = {"lost_bytes": 1234, "unknown_tokens": 40, "cause": "its normaliser <NFKC>"}
    report["stages"]["tokenizer"]["text"] = lossless | lossy
    found = Read(written(tmp_path, report, None)).sections["making"]
    assert "gives back 90.00% of 12,345 bytes of the corpus; lost to its normaliser <NFKC>; 0.01 of its tokens" in found
