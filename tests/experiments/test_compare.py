"""Comparison of made-up reports: refusals in one line, and the tables."""

import csv
import json
import pathlib
import re
import subprocess
import sys

import pytest

from tsdfm_jax.experiments.compare import command as compare, reports

ROOT = pathlib.Path(__file__).parents[2]


def row(model, steps, ppl, seed=0, judge=0, **more):
    """A row of the report, as `evaluate` writes it."""
    return {
        "model": model, "source": "uniform", "steps": steps, "seed": seed, "temperature": 1.0, "top_p": 1.0, "jump": "bridge",
        "dtype": "float32", "samples": 48, "length": 64, "tokens_per_second": 100.0 if steps else None,
        "entropy_nats": 3.5 + seed / 4, "entropy_bits": 5.0, "distinct_1": 0.5, "distinct_2": 0.75, "distinct_3": 0.9,
        "repetition_4": 0.125, "lexical": 0.8, "mauve": 0.5 + judge / 4, "mauve_spread": 0.03, "frechet": 1.5,
        "judge": f"judge_{judge}", "judge_parameters": (judge + 1) * 100_000, "judge_hash": f"hash{judge}", "judge_tokenizer": "tok",
        "judge_bos": 1, "judge_context": 64, "ppl_token": ppl + judge, "ppl_sample": ppl + 1, "bits_per_byte": 2.0, **more,
    }  # fmt: skip


def at_match(ppl, **more):
    """A row at matched entropy, as the stage `report` writes it."""
    told = {"judge": "judge_0", "entropy_nats": 3.4, "entropy_of": "data", "model": "student_shaped", "steps": 8}
    return told | {"ppl_token": ppl, "low": ppl and ppl - 5, "high": ppl and ppl + 5} | more


def report(student=200.0, seeds=(0,), **more):
    """A complete report: two judges; real text, a student at 8 steps, and a point of its frontier."""
    sets = (("data", 0, 100.0), ("student_shaped", 8, student))
    rows = [row(*what, seed, judge) for what in sets for seed in seeds for judge in (0, 1)]
    rows.append(row("student_shaped", 8, 5.0, temperature=0.5))
    return {
        "schema": 2, "commit": "c0ffee", "config": {"evaluate": {"temperature": 1.0}}, "environment": {}, "compass": {}, "verdict": "",
        "stages": {"data": {"splits": {"heldout": {"bytes": 900, "documents": 3}}}}, "bounds": {"teacher": 2.4, "student_shaped": 2.5},
        "tokenizer": "content", "formulas": {"ppl_token": "exp(mean)", "ppl_sample": "mean(exp)"}, "frontiers": [],
        "matched": [at_match(student - 40)], "rows": rows, **more,
    }  # fmt: skip


def leave(tmp_path, **named):
    """Write the reports as the stage does; return the runs' directories."""
    for name, body in named.items():
        (tmp_path / name / "report").mkdir(parents=True)
        (tmp_path / name / "report/report.json").write_text(body if isinstance(body, str) else json.dumps(body))
    return [str(tmp_path / name) for name in named]


def changed(body, **values):
    """The report with these values in all rows."""
    return body | {"rows": [one | values for one in body["rows"]]}


def compared(tmp_path, allow=(), **named):
    runs = reports.read_all(leave(tmp_path, **named))
    return runs, reports.check(runs, allow)


BASE = report()
DIFFERING = {
    "length": (changed(BASE, length=128), "length of data (64 in a, 128 in b)", "data.length"),
    "judges": (BASE | {"rows": BASE["rows"][::2]}, "judges (judge_0, judge_1 in a, judge_0 in b)", "same ones"),
    "judge_hash": (
        BASE | {"rows": [r | {"judge_hash": "x" + r["judge_hash"]} for r in BASE["rows"]]},
        "judge_hash of judge_0 (hash0 in a, xhash0 in b)",
        "--config.evaluate.text=",
    ),
    "judge_parameters": (changed(BASE, judge_parameters=7), "judge_parameters of judge_0 (100000 in a, 7 in b)", "same ones"),
    "judge_tokenizer": (changed(BASE, judge_tokenizer="gpt2"), "judge_tokenizer of judge_0 (tok in a, gpt2 in b)", "same ones"),
    "judge_bos": (changed(BASE, judge_bos=None), "judge_bos of judge_0 (1 in a, None in b)", "same ones"),
    "judge_context": (changed(BASE, judge_context=1024), "judge_context of judge_0 (64 in a, 1024 in b)", "same ones"),
    "formulas": (
        BASE | {"formulas": BASE["formulas"] | {"ppl_sample": "median"}},
        "formulas of ppl_sample (mean(exp) in a, median in b)",
        "same code",
    ),
    "samples": (changed(BASE, samples=96), "samples of data (48 in a, 96 in b)", "evaluate.samples"),
    "temperature": (
        BASE | {"config": {"evaluate": {"temperature": 0.5}}, "rows": [row("data", 0, 1.0, 0, j, temperature=0.5) for j in (0, 1)]},
        "temperature (1.0 in a, 0.5 in b)",
        "evaluate.temperature",
    ),
    "top_p": (changed(BASE, top_p=0.9), "top_p of data (1.0 in a, 0.9 in b)", "evaluate.top_p"),
    "tokenizer": (BASE | {"tokenizer": "other"}, "tokenizer (content in a, other in b)", "tokenizer.path"),
    "corpus": (
        BASE | {"stages": {"data": {"splits": {"heldout": {"bytes": 901, "documents": 3}}}}},
        "corpus (900 held-out bytes of 3 documents in a, 901 held-out bytes of 3 documents in b)",
        "same data",
    ),
}  # fmt: skip


@pytest.mark.parametrize("field", reports.REMEDIES)
def test_what_differs_is_refused(tmp_path, field):
    """A differing field is refused in one line with both values and a remedy; --allow compares and reports the difference."""
    other, said, remedy = DIFFERING[field]
    with pytest.raises(ValueError) as refused:
        compared(tmp_path / "refused", a=BASE, b=other)
    line = str(refused.value)
    assert said in line and remedy in line and f"--allow={field} compares" in line and "\n" not in line
    runs, allowed = compared(tmp_path / "allowed", (field,), a=BASE, b=other)
    assert len(allowed) == 1 and allowed[0].startswith(said)
    assert len({line["run"] for line in reports.table(runs)}) == 2


def test_several_differences(tmp_path):
    """The first difference is given with its values, the others by name; all must be allowed, and every run is checked."""
    other = changed(DIFFERING["judge_hash"][0], samples=96)
    with pytest.raises(ValueError, match="judge_hash of judge_0 .*, and so do samples: .*--allow=judge_hash,samples compares"):
        compared(tmp_path / "none", a=BASE, b=other)
    with pytest.raises(ValueError, match="samples of data .* in c.*--allow=judge_hash,samples compares"):
        compared(tmp_path / "one", ("judge_hash",), a=BASE, b=BASE, c=other)
    _, allowed = compared(tmp_path / "both", ("samples", "judge_hash"), a=BASE, b=BASE, c=other)
    assert [line.split(" of ")[0] for line in allowed] == ["judge_hash", "samples"] and allowed[0].endswith("and 1 more")
    with pytest.raises(ValueError, match="--allow=judgehash: no such field, did you mean judge_hash"):
        compared(tmp_path / "typo", ("judgehash",), a=BASE, b=BASE)


def test_rows_that_one_run_has_alone(tmp_path):
    """A row of one run only may have another number of samples; runs without a common row must agree in all rows."""
    peer = [row("peer", 0, 300.0, judge=judge, samples=7, temperature=None) for judge in (0, 1)]
    runs, allowed = compared(tmp_path / "more", a=BASE, b=BASE | {"rows": BASE["rows"] + peer})
    lines = {(line["run"], line["model"]): line for line in reports.table(runs)}
    assert not allowed and ("a", "peer") not in lines and lines["b", "peer"]["ppl_token_judge_1_ratio"] is None
    assert lines["b", "peer"]["ppl_token_judge_1"] == 301
    with pytest.raises(ValueError, match=r"samples of all rows \(48 in a, 7 in b\)"):
        compared(tmp_path / "apart", a=BASE, b=BASE | {"rows": peer})


DAMAGED = [
    ('{"schema": 2, "rows"', "is not JSON"),
    ("[1, 2]", "has no schema and rows"),
    ('{"stage": "teacher"}', "has no schema and rows"),
    (BASE | {"schema": 1}, "has schema 1, not 2: delete the run's evaluate/"),
    (BASE | {"schema": 3}, "has schema 3, not 2"),
    ({key: value for key, value in BASE.items() if key != "tokenizer"}, "has no tokenizer"),
    (BASE | {"config": {}}, "has no evaluate.temperature"),
    (BASE | {"rows": [{k: v for k, v in BASE["rows"][0].items() if k != "judge_hash"}]}, "number 0 of its rows has no judge_hash"),
    (BASE | {"rows": BASE["rows"][:2] * 2}, "number 2 of its rows (judge_0, data, 0, 0, 1.0) stands twice"),
    (BASE | {"rows": BASE["rows"][-1:]}, "no row at its evaluate.temperature 1.0"),
    (BASE | {"matched": [{"judge": "judge_0"}]}, "number 0 of its matched has no entropy_nats"),
]


@pytest.mark.parametrize("body, said", DAMAGED, ids=[said for _, said in DAMAGED])
def test_what_is_no_report_is_refused(tmp_path, body, said):
    """A damaged file, another kind of file and another schema each give one line that names the file."""
    with pytest.raises(ValueError) as refused:
        reports.read_all(leave(tmp_path, a=BASE, b=body))
    assert said in str(refused.value) and "b/report/report.json" in str(refused.value) and "\n" not in str(refused.value)


def test_arguments(tmp_path):
    """A run is a file or a directory; runs of the same name get their paths; a single run or the same twice is refused."""
    a, b = leave(tmp_path, **{"a": BASE, "deep/a": BASE})
    (tmp_path / "kept.json").write_text(json.dumps(BASE))
    names = lambda *files: [run.name for run in reports.read_all(files)]
    assert names(a, str(tmp_path / "kept.json")) == ["a", "kept"] == names(f"{a}/report", str(tmp_path / "kept.json"))
    assert names(a, b) == [f"{a}/report/report.json", f"{b}/report/report.json"]
    for files, said in (
        ((a,), "give two"),
        ((a, a), "given twice"),
        ((a, str(tmp_path / "c")), "no report"),
        ((a, str(tmp_path)), "stage `report`"),
    ):
        with pytest.raises(ValueError, match=said):
            names(*files)


def test_the_table(tmp_path):
    """The table has means and sample deviations over seeds, ratios to the first run's row, at the report's temperature only."""
    runs, _ = compared(tmp_path, a=report(200.0, seeds=(0, 2)), b=report(150.0), c=BASE | {"rows": BASE["rows"][:2]})
    lines = reports.table(runs)
    assert [(line["model"], line["run"], line["seeds"]) for line in lines] == [
        ("data", "a", 2), ("data", "b", 1), ("data", "c", 1), ("student_shaped", "a", 2), ("student_shaped", "b", 1)
    ]  # fmt: skip
    _, _, _, first, second = lines
    assert (first["entropy_nats"], first["entropy_nats_std"]) == pytest.approx((3.75, 0.5 / 2**0.5))
    assert (first["ppl_token_judge_1"], first["ppl_token_judge_1_std"], first["ppl_token_judge_1_ratio"]) == (201, 0, None)
    assert second["ppl_token_judge_1_ratio"] == pytest.approx(151 / 201) and second["ppl_token_judge_1_std"] is None
    assert second["ppl_sample_judge_0"] == 151 and (second["mauve_judge_0"], second["mauve_judge_1"]) == (0.5, 0.75)
    assert second["heldout_bits_per_byte"] == 2.5 and lines[0]["heldout_bits_per_byte"] is None


def test_deviation_over_seeds(tmp_path):
    """The deviation is the sample standard deviation; missing values give none."""
    rows = [row("data", 0, ppl, seed, mauve=None) for seed, ppl in enumerate((1.0, 2.0, 6.0))]
    line = reports.table(compared(tmp_path, a=BASE | {"rows": rows}, b=BASE | {"rows": rows})[0])[1]
    assert (line["ppl_token_judge_0"], line["ppl_token_judge_0_std"]) == pytest.approx((3, 7**0.5))
    assert line["mauve_judge_0"] is line["mauve_judge_0_std"] is None and line["ppl_token_judge_0_ratio"] == 1


def test_matched_entropy(tmp_path):
    """Runs are grouped by row; there is a ratio where both runs reach the same entropy."""
    other = [
        at_match(80.0),
        at_match(70.0, entropy_of="student_blind"),
        at_match(60.0, steps=16),
        at_match(None, steps=4),
    ]
    first = [
        at_match(160.0),
        at_match(140.0, entropy_of="student_blind", entropy_nats=3.5),
        at_match(9.0, steps=4, low=1.0, high=12.0),
    ]
    runs, _ = compared(tmp_path, a=BASE | {"matched": first}, b=BASE | {"matched": other})
    told = [(line["run"], line["entropy_of"], line["steps"], line["ratio"]) for line in reports.matched(runs)]
    assert told == [
        ("a", "data", 8, None), ("b", "data", 8, 0.5), ("a", "student_blind", 8, None), ("b", "student_blind", 8, None),
        ("a", "data", 4, None), ("b", "data", 4, None), ("b", "data", 16, None),
    ]  # fmt: skip
    assert compare.matched_table(runs, reports.matched(runs)).row_count == 7


def command(*arguments):
    """Run the command; return (exit code, stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, "-m", "launch.compare", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


def test_the_command(tmp_path):
    """A refusal is one line and exit code 2; allowed differences stand above the table, which CSV and JSON contain too."""
    other = changed(report(150.0), samples=96)
    a, b = leave(tmp_path, a=report(200.0, seeds=(0, 2)), b=other)
    code, out, err = command(a, b, f"--csv={tmp_path}/t.csv")
    assert (code, out) == (2, "") and err.count("\n") == 1 and err.startswith("compare: not comparable: samples of data (48 in a")
    assert not (tmp_path / "t.csv").exists()
    code, out, err = command(a, b, f"--csv={tmp_path}/t.csv", f"--json={tmp_path}/t.json", "--allow=samples")
    assert (code, err) == (0, "") and out.startswith(
        "Compared although different: samples of data (48 in a, 96 in b) and 1 more.\n"
    )
    assert "48 or 96 texts of 64 tokens" in out and "\x1b" not in out
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert cells[2] == ["a", "student_shaped", "8", "2", "3.75 ± 0.354", "0.75 ± 0", "0.125 ± 0", "0.8 ± 0", "100 ± 0", "2.5",
                        "0.75 ± 0", "1.5 ± 0", "200 ± 0", "201 ± 0"]  # fmt: skip
    assert cells[3][-2:] == ["150 ×0.75", "151 ×0.75"] and cells[0][9] == "-"
    assert cells[5] == ["b", "student_shaped", "8", "judge_0", "data", "3.400", "110 ×0.69", "105 to 115"]
    body = json.loads((tmp_path / "t.json").read_text())
    with open(tmp_path / "t.csv") as file:
        table = list(csv.DictReader(file))
    assert [list(line) for line in table] == [list(line) for line in body["rows"]] and len(table) == 4
    assert float(table[3]["ppl_token_judge_0_ratio"]) == 0.75 == body["rows"][3]["ppl_token_judge_0_ratio"]
    assert table[3]["ppl_token_judge_0_std"] == "" and body["differing"] == ["samples of data (48 in a, 96 in b) and 1 more"]
    assert [one["commit"] for one in body["reports"]] == ["c0ffee"] * 2 and body["matched"][1]["ratio"] == 110 / 160


@pytest.mark.parametrize(
    "flag, said",
    [("--alow=samples", "alow"), ("--csv=nowhere/t.csv", "no directory nowhere"), ("runs/none", "no report runs/none")],
)
def test_wrong_flags(tmp_path, flag, said):
    """An unknown flag, an unwritable file and a missing run each give one line and exit code 2."""
    code, out, err = command(*leave(tmp_path, a=BASE, b=BASE), flag)
    assert (code, out) == (2, "") and err.startswith("compare: ") and said in err and err.count("\n") == 1


def test_missing_figures_are_dashes(tmp_path, capsys):
    """Null figures, and the NaN and Infinity that older versions wrote, are dashes in the tables and null in the JSON."""
    lost = report(matched=[at_match(None, entropy_nats=None)])
    lost = changed(lost, ppl_token=None, lexical=None, mauve=float("nan"), frechet=float("inf"))
    runs = reports.read_all(leave(tmp_path, a=BASE, b=lost))
    rows, matched = reports.table(runs), reports.matched(runs)
    assert all(row["ppl_token_judge_0"] is None and row["frechet_judge_0"] is None for row in rows if row["run"] == "b")
    compare.show(runs, rows, matched, [])
    said = capsys.readouterr().out
    assert " - " in said and not re.search(r"\b(nan|None|inf)\b", said)
