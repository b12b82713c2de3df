"""The page of images: a section for all present data, no external resource, no text as markup, the same bytes twice."""

import base64
import copy
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from tests import showing_images
from tests.report.reading import HOSTILE, Read
from tsdfm_jax.report import image_cells, image_page

EVERY = ["grids", "table", "steps", "likelihood", "viewer", "training", "making"]


def written(folder, report, pictures):
    image_page.write(folder / "index.html", report, pictures)
    return (folder / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return written(tmp_path_factory.mktemp("page"), showing_images.report(), showing_images.pictures())


def rows_of(text, section):
    """The cells of a section's first table, row by row, as text."""
    table = text.split(f'<section id="{section}"')[1].split("</table>")[0]
    clean = lambda cell: re.sub("<[^>]*>", "", cell)
    return [[clean(c) for c in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in re.findall("<tr>(.*?)</tr>", table, re.S)]


def test_every_part_is_there(whole):
    """A complete report gives every section, the verdict, and a line for each model, steps, guidance and ending."""
    found = Read(whole)
    assert list(found.sections) == EVERY
    assert "<b>×0.88</b>" in whole and "Based on 2 seeds: 1,000 images" in whole and "real images is 1.64" in whole
    table = rows_of(whole, "table")
    assert table[0] == ["images", "steps", "guidance", "ending", "accuracy, %", "Fréchet", "ms an image"]
    assert table[1] == ["real images", "–", "–", "–", "98.3", "1.640 ± 0.120", "–"]
    assert len(table) == 1 + 1 + 8 + 12 + 4 + 8
    assert found.tags.count("figure") == 4 + 1 + 2 + 4
    assert len(found.ids) == len(set(found.ids))


def test_a_line_is_the_mean_over_seeds(whole):
    """Means and standard deviations over seeds, in the column's unit; lines are ordered by model, steps, guidance, ending."""
    report = showing_images.report()
    own = [r for r in report["rows"] if (r["model"], r["guidance"], r["ending"]) == ("ntm", 0.5, "score")]
    line = next(r for r in rows_of(whole, "table") if r[:4] == ["NTM", "4", "0.5", "score"])
    for at, name, factor, decimals in ((4, "accuracy", 100, 1), (5, "frechet", 1, 3)):
        values = [factor * r[name] for r in own]
        assert len(values) == 2
        assert line[at] == f"{np.mean(values):.{decimals}f} ± {np.std(values, ddof=1):.{decimals}f}"
    assert line[6] == "2.70"
    order = [(c.model, c.steps, c.guidance, c.ending) for c in image_cells.gather(report)]
    assert order[0][0] == "real"
    assert [o[:3] for o in order[1:9]] == [("flow_matching", steps, w) for steps in (2, 4, 8, 50) for w in (0.0, 0.5)]
    assert [o[3] for o in order[-8:-4]] == ["noisy", "noise_free", "score", "learned"]


def test_likelihoods_say_what_they_are(whole):
    """Exact bits and bounds stand beside the parameters, with what the transporter is worth and what the figures are of."""
    table = rows_of(whole, "likelihood")
    assert table[0][3:] == ["trajectory, bits a number (exact)", "image, bits a dimension (bound)"]
    assert table[1:] == [["NTM, no transporter", "4", "0.21M", "1.516", "≤ −0.794"], ["NTM", "4", "0.35M", "1.479", "≤ −0.831"]]
    told = Read(whole).sections["likelihood"]
    assert "At T = 4 a trajectory costs 0.037 bits a number less with the transporter than without it, with 0.14M more" in told
    assert "256 held-out images, trajectories from t = 0.02 to 1" in told and "Exact: the density of a trajectory" in told


def test_a_worse_transporter_is_said_so(tmp_path, undrawn):
    """The sentence follows the sign."""
    report = showing_images.report()
    report["likelihoods"][1]["trajectory_bits"] = 1.6
    assert "costs 0.084 bits a number more with the transporter" in written(tmp_path, report, None)


def test_nothing_comes_from_elsewhere(whole):
    """Pictures are data URIs, the policy forbids fetches, and no figure has its own colours, fonts or styles."""
    found = Read(whole)
    assert found.links and all(link.startswith("data:image/png;base64,") for link in found.links)
    assert "default-src 'none'" in whole and "img-src data:" in whole
    assert "http" not in re.sub(r"http-equiv|http://www.w3.org/2000/svg", "", whole)
    drawings = re.findall("<svg.*?</svg>", whole, re.S)
    assert not any(re.search("#[0-9a-f]{6}|font-family|<style|<metadata", drawing) for drawing in drawings)
    assert any("var(--shaped)" in drawing for drawing in drawings)


def decoded(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def test_grids_show_their_images(whole):
    """Each cell of the grid has the images of its class and column, in order."""
    pictures, links = showing_images.pictures(), iter(Read(whole).links)
    for y in range(10):
        for grid in pictures["grids"]:
            seen, images = decoded(next(links)), grid["images_NHWC"][grid["labels_N"] == y]
            assert seen.shape == (8, 5 * 9 - 1, 2)
            for i, image in enumerate(images):
                np.testing.assert_array_equal(seen[:, 9 * i : 9 * i + 8, 0], image[..., 0])
    assert [row[0] for row in rows_of(whole, "grids")] == ["class", *showing_images.data()["class_names"]]


def test_traces_run_from_noise_to_data(whole):
    """The viewer's data are the levels in reverse, x and u as pictures, with the class's name."""
    told = json.loads(Read(whole).data)["trajectories"]
    for seen, t in zip(told, showing_images.pictures()["traces"], strict=True):
        assert seen["t"] == t["t_T"][::-1] and seen["x_shape"] == [8, 8]
        for name in ("x", "u"):
            for uri, image in zip(seen[name], t[f"{name}_THWC"][::-1], strict=True):
                np.testing.assert_array_equal(decoded(uri), image[..., 0])
    assert [seen["name"] for seen in told] == ["1, three", "2, eight", "3, zero"]


def test_hostile_text_is_inert(tmp_path, whole, undrawn):
    """Text that looks like markup stays text: class names, titles, verdict, config, statements, models."""
    report, pictures = showing_images.report(), showing_images.pictures()
    report["verdict"] = report["command"] = report["config"]["images"]["files"] = report["data"]["files"] = HOSTILE
    report["data"]["class_names"] = [HOSTILE] * 10
    report["data"]["counts"] = {HOSTILE: 3}
    report["exact"] = {HOSTILE: HOSTILE}
    report["stages"][HOSTILE] = {"seconds": 1.0}
    report["rows"].append(showing_images.row("ntm", 4, 0, 0.0, HOSTILE) | {"model": HOSTILE})
    report["likelihoods"].append(showing_images.likelihood("ntm", 4, 1.0) | {"model": HOSTILE})
    for grid in pictures["grids"]:
        grid["title"] = grid["model"] = HOSTILE
    text = written(tmp_path, report, pictures)
    found, plain = Read(text), Read(whole)
    assert all(link.startswith("data:") for link in found.links) and found.handlers == []
    assert set(found.tags) <= set(plain.tags) and found.tags.count("script") == plain.tags.count("script")
    assert not re.search("[<>&]", re.search(r'id="traces">(.*?)</script>', text, re.S)[1])
    assert json.loads(found.data)["trajectories"][0]["label"] == HOSTILE
    assert all(HOSTILE in found.sections[name] for name in ("grids", "table", "making"))
    assert HOSTILE.lower() in found.sections["likelihood"].lower()


@pytest.mark.parametrize(
    "leave_out, gone",
    [
        (("rows", "real"), {"table", "steps"}),
        (("likelihoods",), {"likelihood"}),
        (("stages",), {"training"}),
        (("grids",), {"grids"}),
        (("traces",), {"viewer"}),
        (("config", "commit", "command", "environment", "stages", "data"), {"making", "training"}),
    ],
)
def test_a_part_without_data_is_left_out(tmp_path, undrawn, leave_out, gone):
    """Missing data removes its sections only; so does a part that is null."""
    for fill in ("missing", "null"):
        report, pictures = showing_images.report(), showing_images.pictures(per_class=1, traces=1)
        for part in (report, pictures):
            for key in set(leave_out) & set(part):
                part[key] = None
                if fill == "missing":
                    del part[key]
        assert set(Read(written(tmp_path, report, pictures)).sections) == set(EVERY) - gone


def test_nothing_but_the_schema(tmp_path):
    """A report with no data and no pictures is a page without sections."""
    assert Read(written(tmp_path, {"schema": "ntm-1"}, None)).sections == {}


def test_without_classes(tmp_path):
    """Without classes there is no accuracy, no class column and no name; without choices no columns for them."""
    report, pictures = showing_images.report(seeds=(0,)), showing_images.pictures(per_class=1)
    for row in report["rows"]:
        row["accuracy"] = None
    report["real"]["accuracy"] = None
    report["data"] |= {"classes": 0, "class_names": []}
    report["rows"] = [r for r in report["rows"] if r["guidance"] in (None, 0.0) and r["ending"] in (None, "noisy")]
    for grid in pictures["grids"]:
        grid["labels_N"] = None
    for t in pictures["traces"]:
        t["label"] = None
    text = written(tmp_path, report, pictures)
    assert rows_of(text, "table")[0] == ["images", "steps", "Fréchet", "ms an image"]
    assert rows_of(text, "grids")[0][0] == "real images" and len(rows_of(text, "grids")) == 2
    assert (
        json.loads(Read(text).data)["trajectories"][0] | {"name": "1", "label": None}
        == json.loads(Read(text).data)["trajectories"][0]
    )
    assert "Accuracy" not in text and "One seed." in text and "classes" not in Read(text).sections["making"]
    assert decoded(Read(text).links[0]).shape == (2 * 9 - 1, 5 * 9 - 1, 2)


def test_missing_figures_are_dashes(tmp_path):
    """Figures that are null or not finite leave dashes and no other trace."""
    report = showing_images.report()
    for row in report["rows"]:
        row |= dict.fromkeys(("frechet", "seconds_per_image"), float("nan")) if row["model"] == "ntm" else {}
    report["likelihoods"][0]["bound_bits"] = report["likelihoods"][1]["by_step"] = report["likelihoods"][1]["parameters"] = None
    text = written(tmp_path, report, None)
    line = next(r for r in rows_of(text, "table") if r[0] == "NTM")
    assert line[5:] == ["–", "–"] and rows_of(text, "likelihood")[1][4] == "–" and rows_of(text, "likelihood")[2][2] == "–"
    assert not re.search(r"\b(nan|None|inf)\b", "".join(Read(text).sections.values()))


def test_one_image_of_many_channels_and_sizes(tmp_path):
    """Large images are shown smaller, and latents channel by channel."""
    large = {"title": "large", "images_NHWC": np.zeros((3, 256, 256, 3), np.uint8), "labels_N": None}
    latents = np.zeros((2, 4, 4, 8), np.uint8)
    trace = {"label": None, "t_T": [0.1, 1.0], "x_THWC": latents, "u_THWC": latents}
    text = written(tmp_path, {"schema": "ntm-1"}, {"grids": [large], "traces": [trace]})
    assert int(re.search(r'<img class="pixels"[^>]* width="(\d+)"', text)[1]) == pytest.approx(3 * 72, abs=2)
    assert json.loads(Read(text).data)["trajectories"][0]["x_shape"] == [12, 12]


def test_the_same_bytes_twice(tmp_path, whole):
    """Report and pictures alone determine the page's bytes; they are not changed, and no partial file stays."""
    report, pictures = showing_images.report(), showing_images.pictures()
    before = copy.deepcopy(report)
    assert written(tmp_path, report, pictures) == whole
    assert before == report
    assert [f.name for f in tmp_path.iterdir()] == ["index.html"]


def test_what_cannot_be_shown_is_one_line(tmp_path):
    """Another schema, labels that do not fit and levels in the wrong order are refused before anything is written."""
    few, late, backwards, floats = (showing_images.pictures(per_class=1) for _ in range(4))
    few["grids"][1]["labels_N"] = np.arange(3)
    late["traces"][0]["t_T"] = [0.5, 1.0]
    backwards["traces"][0]["t_T"] = backwards["traces"][0]["t_T"][::-1]
    floats["traces"][0]["u_THWC"] = floats["traces"][0]["u_THWC"] / 255
    cases = [({"schema": 2}, None, "schema 2"), (None, few, "10 images and 3 labels"), (None, late, "2 levels")]
    cases += [(None, backwards, "from data"), (None, floats, "uint8")]
    for report, pictures, said in cases:
        with pytest.raises(ValueError) as caught:
            image_page.write(tmp_path / "index.html", report or {"schema": "ntm-1"}, pictures)
        assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
