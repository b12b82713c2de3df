"""Evaluation of texts: table, frontiers, external text, ELBO, and the trajectories that the page shows."""

import json

import jax
import numpy as np
import pytest

from tests.tiny import changed as config
from tsdfm_jax import main
from tsdfm_jax.config import settings
from tsdfm_jax.data import records, windows
from tsdfm_jax.evaluation import elbo, judging, summary, text_sets
from tsdfm_jax.flow import shaping
from tsdfm_jax.models import causal, transformer
from tsdfm_jax.runtime import mesh as meshes
from tsdfm_jax.workspace import jobs, trained


def report_of(where):
    return json.loads((where / "report/report.json").read_text())


def rows_of(where, model):
    return [row for row in json.loads((where / "evaluate/rows.json").read_text()) if row["model"] == model]


def test_a_frontier_is_its_texts(finished):
    """A frontier's points are the table rows of their temperatures; entropy rises with it; matched rows share one entropy."""
    report = report_of(finished)
    assert {(f["model"], f["steps"], f["judge"]) for f in report["frontiers"]} == {
        (model, 2, f"judge_{j}") for model in ("teacher", "student_shaped") for j in (0, 1)
    }
    for found in report["frontiers"]:
        assert [point["temperature"] for point in found["points"]] == [0.5, 1.0, 2.0]
        entropies = [point["entropy_nats"] for point in found["points"]]
        assert entropies[0] < entropies[1] < entropies[2]
        for point in found["points"]:
            (row,) = [r for r in report["rows"] if (r["model"], r["steps"], r["judge"], r["temperature"]) == (found["model"], 2, found["judge"], point["temperature"])]  # fmt: skip
            assert point["ppl_token"] == pytest.approx(row["ppl_token"]) and point["entropy_nats"] == row["entropy_nats"]
            assert point["ppl_low"] <= point["ppl_token"] <= point["ppl_high"]
    matched = [row for row in report["matched"] if row["judge"] == "judge_0"]
    assert [(row["model"], row["steps"]) for row in matched] == [("teacher", 4), ("teacher", 2), ("student_shaped", 2)]
    assert len({row["entropy_nats"] for row in matched}) == 1
    lowest, _, highest = next(f["points"] for f in report["frontiers"] if (f["model"], f["judge"]) == ("teacher", "judge_0"))
    assert matched[1]["ppl_token"] is None or lowest["ppl_token"] < matched[1]["ppl_token"] < highest["ppl_token"]


def test_more_sets_only_add(copy):
    """More steps and external text keep existing samples; the same command does nothing; changed text is evaluated again."""
    before = {file: file.stat().st_mtime_ns for file in copy.glob("samples/*")}
    mine = copy.parent / "mine.jsonl"
    mine.write_text("".join(json.dumps({"text": f"We the people of the United States, number {i}."}) + "\n" for i in range(5)))
    more = config(**{"evaluate.text": str(mine), "evaluate.student_steps": (1, 2, 4)})
    main.run(more, copy, ["evaluate"])
    rows = rows_of(copy, "text:mine")
    assert len(rows) == 2 and rows[0]["samples"] == 5 and rows[0]["cut"] == 5 and rows[0]["length"] == 16
    assert {row["steps"] for row in rows_of(copy, "student_blind")} == {1, 2, 4}
    assert before.items() <= {file: file.stat().st_mtime_ns for file in copy.glob("samples/*")}.items()
    stamp = (copy / "evaluate/done.json").stat().st_mtime_ns
    main.run(more, copy, ["evaluate"])
    assert (copy / "evaluate/done.json").stat().st_mtime_ns == stamp
    mine.write_text(json.dumps({"text": "Fellow citizens of the Senate and of the House."}) + "\n")
    main.run(more, copy, ["evaluate", "report"])
    assert rows_of(copy, "text:mine")[0]["samples"] == 1
    assert "text:mine" in {row["model"] for row in report_of(copy)["rows"]}


def test_own_samples_as_text_of_others(copy):
    """The same texts given as external text get the same perplexity, up to the effect of retokenising."""
    mine = copy.parent / "theirs"
    mine.mkdir()
    for i, line in enumerate((copy / "samples/data_0.jsonl").read_text().splitlines()):
        (mine / f"{i}.txt").write_text(json.loads(line)["text"])
    main.run(config(**{"evaluate.text": str(mine)}), copy, ["evaluate"])
    for ours, theirs in zip(rows_of(copy, "data"), rows_of(copy, "text:theirs"), strict=True):
        assert theirs["samples"] == ours["samples"] and theirs["judge_hash"] == ours["judge_hash"]
        assert theirs["ppl_token"] == pytest.approx(ours["ppl_token"], rel=0.25)


def test_texts_of_one_letter(copy):
    """Texts of one token have null for the n-grams that none of them has, and the report is made all the same."""
    mine = copy.parent / "mine.jsonl"
    mine.write_text('{"text": "a"}\n{"text": "b"}\n')
    main.run(config(**{"evaluate.text": str(mine)}), copy, ["evaluate", "report"])
    for row in rows_of(copy, "text:mine"):
        assert row["samples"] == 2 and row["distinct_1"] is not None and row["distinct_2"] is None and row["ppl_token"] > 1


@pytest.mark.parametrize("changes, said", [
    ({"evaluate.text": "nowhere.jsonl"}, "nowhere.jsonl"),
    ({"evaluate.text": "a/theirs.jsonl, b/theirs.jsonl"}, "both be called theirs"),
    ({"evaluate.pretrained": "./nowhere"}, "nowhere"),
    ({"evaluate.frontier": "teacher"}, "teacher:8"),
    ({"evaluate.frontier": "techer:8"}, "techer"),
    ({"evaluate.frontier_temperatures": (0.0,)}, "frontier_temperatures"),
    ({"evaluate.samples": 10**6, "evaluate.batch": 8}, "evaluate.samples"),
])  # fmt: skip
def test_what_is_refused(copy, changes, said):
    """A bad evaluation setting is refused in one line that names it, and existing rows stay."""
    before = (copy / "evaluate/rows.json").read_text()
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        main.run(config(**changes), copy, ["evaluate"])
    assert "\n" not in str(caught.value) and said in str(caught.value)
    assert (copy / "evaluate/rows.json").read_text() == before


def test_bounds(finished):
    """The reported ELBOs are recomputed in bits per byte; a student initialised from its teacher has its teacher's."""
    found = report_of(finished)["bounds"]
    assert found.keys() == {"teacher", "student_shaped", "student_blind"} and all(0 < bits < 100 for bits in found.values())
    c, mesh = config(), settings.mesh(config())
    tok, data = trained.tokenizer(c, finished), jobs.require(c, finished, "data")
    teacher, path = trained.teacher(c, finished, mesh), trained.flow_path(c, finished)
    cfg = settings.network(c, path.vocab, step_conditioned=True)
    newborn = meshes.unbox(transformer.overlay(transformer.init(jax.random.key(0), cfg, c.data.length), teacher.params))
    held_NL, factor = windows.heldout(data, c.teacher.heldout), elbo.bits_per_byte(data)
    for told, params in ((teacher, teacher.params), (trained.network(c, tok.vocab_size, mesh, step_conditioned=True), newborn)):
        measure = elbo.heldout(elbo.finest(told.apply), path, mesh, held_NL, c.teacher.batch)
        assert factor * measure(params) == pytest.approx(found["teacher"], rel=1e-4)
    measured = elbo.heldout(elbo.finest(told.apply), path, mesh, held_NL, c.teacher.batch)
    own = trained.student(c, finished, mesh, "blind").params
    assert factor * measured(own) == pytest.approx(found["student_blind"], rel=1e-4)


def test_the_traces_are_the_records(finished):
    """A shown trajectory equals its record; a shown student's last state equals the sampled text."""
    shown, c = json.loads((finished / "report/traces.json").read_text()), config()
    store = records.open_store(finished / "trajectories/round_0/shaped/whole")
    assert len(shown["trajectories"]) == 2 and len(shown["students"]) == 4
    for number, one in enumerate(shown["trajectories"]):
        row = store[number]
        np.testing.assert_array_equal([one["start"]] + [m["state"] for m in one["midpoints"]], row["states"])
        for i, midpoint in enumerate(one["midpoints"]):
            assert midpoint["kept"] == row["index"][i] and midpoint["candidates"][midpoint["kept"]] == midpoint["state"]
            np.testing.assert_allclose(midpoint["energy"], row["energy"][i], rtol=1e-3)
            np.testing.assert_allclose(np.mean(midpoint["token_energy"], axis=1), row["energy"][i], rtol=2e-3)
            least = min(midpoint["energy"])
            assert midpoint["energy"][midpoint["kept"]] <= least + 1e-3 * abs(least) + shaping.TIE
    tok = trained.tokenizer(c, finished)
    for one in shown["students"]:
        file = finished / f"samples/{one['model']}_{len(one['states']) - 1}_0.jsonl"
        assert json.loads(file.read_text().splitlines()[one["index"]])["tokens"] == one["states"][-1]
        assert all(shown["vocabulary"][str(x)] == tok.pieces([x])[0] for x in one["states"][-1])
    for point in report_of(finished)["shaping"]["midpoints"]:
        assert point["lowest"] <= point["kept"] <= point["mean"] <= point["highest"] and 0 <= point["first_kept"] <= 1


class Letters:
    """A tokenizer of another kind: one token per character."""

    content_hash, vocab_size, eos_id = "letters", 128, 0

    def encode_batch(self, texts):
        return [np.array([ord(c) % 128 for c in text], np.int32) for text in texts]


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)])
def test_text_in_another_judges_tokens(shape):
    """A judge scores text in its own tokens, in windows of its context, as its plain forward pass does, in any batch."""
    cfg = causal.CausalConfig(vocab=128, length=24, blocks=1, width=16, heads=2)
    mesh = meshes.make_mesh(meshes.MeshConfig(**dict(zip(("data", "fsdp", "tensor"), shape))))
    params = meshes.unbox(causal.init(jax.random.key(0), cfg))
    params = jax.tree.map(lambda a: a + 0.3 * jax.random.normal(jax.random.key(a.size), a.shape), params)
    judge = judging.Judge(name="x", cfg=cfg, params=params, tokenizer=Letters(), bos=7, bos_policy="", context=24)
    text = ["a", "", "the people", "of the united states, in order to form a more perfect union" * 2]
    texts = judging.Texts(rows=[np.arange(3)] * 4, text=text, tokenizer="ours")
    rows = judging.rows_for(judge, texts)
    nll_N, tokens_N = judging.nll(judge, rows, 8, mesh)
    assert tokens_N.tolist() == [1, 1, 10, 118]
    for row, total in zip(rows, nll_N):
        parts = [row[i : i + 24] for i in range(0, len(row), 24)]
        expected = sum(float(causal.token_nll(cfg, params, part[None], 7).sum()) for part in parts)
        assert total == pytest.approx(expected, rel=1e-5)
    h_ND = judging.features(judge, rows, 8, mesh)
    np.testing.assert_allclose(h_ND[2], causal.hidden(cfg, params, rows[2][None])[0].mean(axis=0), rtol=1e-4, atol=1e-5)


def test_names_of_sets():
    """Every text set has a unique name; the name has the temperature except in the table's sets."""
    sets = text_sets.wanted(config())
    names = [one.name(config()) for one in sets]
    assert len(set(names)) == len(names) and "teacher_2_0" in names and "teacher_2_0_t0.5" in names


def test_the_answer():
    """The verdict says whether a model is below another under all judges, and at the teacher's entropy if reached."""
    row = lambda model, steps, ppl: [
        {"model": model, "steps": steps, "judge": f"j{j}", "judge_hash": "", "judge_parameters": j, "ppl_token": ppl * (j + 1)}
        for j in (0, 1)
    ]
    rows = row("student_shaped", 8, 50.0) + row("student_blind", 8, 100.0) + row("teacher", 8, 90.0) + row("teacher", 1024, 40.0)
    assert summary.verdict(rows) == (
        "The shaped student at 8 steps is below the blind student under all judges (×0.50, ×0.50) "
        "and NOT below the teacher at 1024 steps under all judges (×1.25, ×1.25)."
    )
    about = {"entropy_of": "teacher, 1024 steps"}
    matched = [about | one for one in rows if one["steps"] == 1024] + [about | one for one in rows[:4]]
    assert summary.verdict(rows, matched).endswith(
        " At that teacher's entropy it is NOT below it (×1.25, ×1.25); the blind student there: ×2.50, ×2.50."
    )
    unreached = [one | {"ppl_token": None} if one["model"] == "student_shaped" else one for one in matched]
    assert summary.verdict(rows, unreached) == summary.verdict(rows)
    assert summary.verdict(rows[2:]) == (
        "The blind student at 8 steps is NOT below the teacher at 1024 steps under all judges (×2.50, ×2.50)."
    )
    autoregressive = row("autoregressive", 64, 25.0)
    assert summary.verdict(rows + autoregressive).endswith("the autoregressive model under all judges (×2.00, ×2.00).")
    assert summary.verdict(autoregressive + row("data", 0, 20.0)) == (
        "The autoregressive model is at ×1.25, ×1.25 of real held-out text's perplexity."
    )
    assert "nothing to compare" in summary.verdict(autoregressive) and "nothing to compare" in summary.verdict(row("data", 0, 2.0))
    assert "nothing to compare" in summary.verdict(rows, steps=4)
