"""NTM at the paper's scale: parameters, programs compiled ahead of time over meshes, and the benchmark's groups."""

import functools
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import ntm_imagenet256
from tests import ntm_tiny
from tsdfm_jax.config import settings
from tsdfm_jax.experiments.benchmark import ntm_parts
from tsdfm_jax.experiments.planning import aot_compile, chips, hlo, ntm_programs
from tsdfm_jax.models import patches, sizes, transformer
from tsdfm_jax.normalizing import drawing, networks, sampling, table, trained
from tsdfm_jax.runtime import mesh as meshes

ROOT = pathlib.Path(__file__).parents[2]
IMAGENET = (["16", "16", "32"], 1000)
HEAD = "| program, images | memory, GiB | TFLOP: model, program | sent, GB | seconds, at least | utilisation, at most |"
V5E = chips.CHIPS["v5e"]
MESHES = {"data": (8, 1, 1), "fsdp": (1, 8, 1), "mixed": (2, 2, 2)}
SMALL = {"model.width": 32, "model.heads": 4, "model.kv_heads": 4, "ntm.steps": (2, 3)}


def row(key, one):
    """The row of docs/ntm_scale.md for one entry of results/aot_ntm.json: one device, one run."""
    both = lambda values, shown: " to ".join(dict.fromkeys(shown(values[f"exchange_{end}"]) for end in ("hidden", "exposed")))
    sent = [f"{kind} {sums['sent'] / 1e9:.2f}" for kind, sums in sorted(one["collectives"].items())]
    form = key.split()[0].removeprefix("ntm_imagenet256").lstrip("_")
    cells = [
        ", ".join([*filter(None, [form]), key.split()[-1], f"{one['batch']:,}"]),
        f"{one['memory']['peak'] / 2**30:.2f} of {one['hbm']}",
    ]
    cells += [f"{one['flops']['model'] / 1e12:.1f}, {one['flops']['program'] / 1e12:.1f}", ", ".join(sent)]
    cells += [both(one["seconds_at_least"], lambda s: f"{s:.3f}"), both(one["utilisation_at_most"], lambda part: f"{part:.0%}")]
    return f"| {' | '.join(cells)} |"


def block():
    """The table of docs/ntm_scale.md: `python -c "from tests.experiments import test_ntm_scale; print(test_ntm_scale.block())"`."""
    entries = json.loads((ROOT / "results/aot_ntm.json").read_text())
    rows = [row(key, one) for key, one in entries.items() if "(" not in key]
    return "\n".join(["<!-- aot: begin -->", "", HEAD, "|---" * 6 + "|", *rows, "", "<!-- aot: end -->"])


def test_the_page_shows_what_was_compiled():
    """The table of docs/ntm_scale.md is the one made from results/aot_ntm.json."""
    assert block() in (ROOT / "docs/ntm_scale.md").read_text(), "put into it what block() gives"


def test_results_are_of_this_config():
    """results/aot_ntm.json has every program, fitting, with the FLOPs of today's config."""
    entries = json.loads((ROOT / "results/aot_ntm.json").read_text())
    assert {key.split()[-1] for key in entries} >= set(ntm_programs.PROGRAMS)
    for key, one in entries.items():
        if key.split()[-1] not in ntm_programs.PROGRAMS:  # of an earlier commit: it says so
            continue
        form = {"ntm_imagenet256": "", "ntm_imagenet256_narrow": "narrow"}[key.split()[0]]
        overrides = dict(part.removeprefix("--config.").split("=") for part in key.split() if part.startswith("--"))
        c = aot_compile.with_settings(ntm_imagenet256.get_config(form), {k: int(v) for k, v in overrides.items()})
        model = ntm_programs.flops(c, ntm_programs.data(c, 0, *IMAGENET), key.split()[-1])
        assert one["fits"] and one["loops_known"] and one["flops"]["model"] * one["devices"] == pytest.approx(model)
        # One image a device: attention to the cache is no matrix product for the compiler.
        assert 0.95 < one["flops"]["program"] / one["flops"]["model"] < 1.06


def config(**changes):
    return aot_compile.with_settings(ntm_tiny.get_config(), SMALL | {key.replace("__", "."): v for key, v in changes.items()})


@functools.cache
def lowered(name, mesh_name):
    """One program of the small config over one of MESHES, compiled."""
    data, fsdp, tensor = MESHES[mesh_name]
    c = config()
    mesh = meshes.make_mesh(meshes.MeshConfig(data=data, fsdp=fsdp, tensor=tensor), jax.devices())
    return ntm_programs.programs(c, ntm_programs.data(c, 0, *IMAGENET), mesh)[name]().compile()


@pytest.mark.parametrize("form", ["", "narrow"])
def test_parameters(form):
    """The networks have the numbers of parameters that the config's docstring states: about 1.4B in all."""
    c = ntm_imagenet256.get_config(form)
    shape = ntm_programs.data(c, 0, *IMAGENET)
    predictor, flow = networks.predictor(c, shape), networks.flow(c, shape)
    total = sizes.trajectory_model(predictor, flow, networks.flows(c, "ntm"))
    made = jax.eval_shape(lambda: networks.init(jax.random.key(0), c, shape, "ntm"))
    assert total == transformer.parameters(made) and 1.35e9 < total < 1.45e9
    stated = {"": [sizes.patches(one) for one in (predictor, flow, networks.flow_matching(c, shape))], "narrow": []}[form]
    assert all(f"{count:,}" in ntm_imagenet256.__doc__ for count in [total, *stated])


def test_the_schedule_is_the_paper_s():
    """Learning rates fall to 1e-6, betas and decay are the paper's, and the layers are 4, 4 and 24."""
    c = ntm_imagenet256.get_config()
    for section, peak in ((c.flow_matching, 1e-4), (c.ntm, 5e-5)):
        found = section.optimiser
        assert found.learning_rate == peak and found.learning_rate * found.final_fraction == pytest.approx(1e-6)
        assert (found.b1, found.b2, found.weight_decay, section.batch) == (0.9, 0.95, 1e-4, 1024)
    shape = ntm_programs.data(c, 0, *IMAGENET)
    layers = [networks.flow(c, shape).blocks] * networks.flows(c, "ntm") + [networks.predictor(c, shape).blocks]
    assert layers == [4, 4, 24] and shape.row == (256, 32)


@pytest.mark.parametrize("name", ntm_programs.PROGRAMS)
@pytest.mark.parametrize("loss", ["pair", "trajectory"])
def test_model_flops_are_the_programs(name, loss):
    """The matrix products of every program are within 3 % of the count by hand, loops included.

    The sampler's are more: its inverse computes the modulation of a block anew at every patch, which counts at this width.
    """
    changes = {"ntm__loss": loss, "ntm__steps": (3,), "model__width": 64, "sample__guidance": 0.5, "sample__steps": 3}
    c = config(**changes)
    data, mesh = ntm_programs.data(c, 0, *IMAGENET), aot_compile.mesh_of(c, jax.devices())
    found = chips.work(ntm_programs.programs(c, data, mesh, (name,))[name]().as_text("hlo"), V5E)
    share = found.flops / ntm_programs.flops(c, data, name)
    assert found.exact and (1.0 <= share < 1.1 if name == "sampler" else 0.97 < share < 1.03)


@pytest.mark.parametrize("mesh_name", ["data", "mixed"])
def test_an_update_over_meshes(mesh_name):
    """An update exchanges gradients and weights, and never rows of the batch: over `data` it sums gradients alone.

    Over all three axes XLA also moves parts of the last layers' small matrices, of width × d numbers at most.
    """
    found = hlo.collectives(lowered("ntm", mesh_name).as_text())
    kinds = {one.kind for one in found}
    sums, all_kinds = {"all-reduce"}, {"all-reduce", "all-gather", "reduce-scatter", "collective-permute"}
    assert kinds and kinds <= (sums if mesh_name == "data" else all_kinds)
    assert all(one.bytes <= 4 * 32 * 4 for one in found if one.kind == "collective-permute")
    rows, patches_ = config().ntm.batch, 16
    assert not [one for one in found if f"[{rows},{patches_}," in one.shape or f"[{2 * rows},{patches_}," in one.shape]


def test_weights_are_gathered_once_for_many_images():
    """No weight is exchanged within a loop of the sampler: the inverse would ask for all of them at every patch."""
    found = hlo.collectives(lowered("sampler", "fsdp").as_text())
    assert found and all(one.kind == "all-gather" and one.times == 1 for one in found), found


def test_weights_in_the_compute_type_keep_the_bits():
    """Images drawn with weights that are cast once are those drawn with float32 weights."""
    c = config(model__dtype="bfloat16", ntm__steps=(2,))
    mesh, shape = settings.mesh(c), ntm_programs.data(c, 0, *IMAGENET)
    weights = ntm_parts.weights(timed(c, mesh, shape), "ntm")
    rows = {"index": np.arange(8, dtype=np.int32), "y": np.arange(8, dtype=np.int32)}
    cast = patches.in_dtype("bfloat16", weights)
    changed = {a.dtype for a, b in zip(jax.tree.leaves(cast), jax.tree.leaves(weights)) if a.dtype != b.dtype}
    assert changed == {jnp.dtype("bfloat16")}
    request = table.request(c, "ntm", 2)
    drawn = drawing.program(c, shape, mesh, request, 0)(weights, rows)
    plain = jax.jit(lambda weights, rows: sampling.drawer(c, shape, request)(0, weights, rows["index"], rows["y"]).x_BHWC)
    np.testing.assert_allclose(drawn, plain(weights, rows), rtol=2e-2, atol=2e-2)


def timed(c, mesh, data):
    return ntm_parts.Shape(config=c, mesh=mesh, batch=8, data=data)


def test_remedies():
    """Remedies come cheapest first, only valid and new settings, all together last."""
    c = config(ntm__batch=32)
    key, fsdp, full = "ntm.optimiser.accumulate", {"mesh.data": 1, "mesh.fsdp": -1}, {"model.remat": "full"}
    ways = ntm_programs.remedies(c, "ntm", 8)
    assert ways == [{key: 2}, {key: 4}, full, fsdp, full | fsdp | {key: 4}]
    for way in ways:
        aot_compile.mesh_of(aot_compile.with_settings(c, way), jax.devices())
    assert ntm_programs.remedies(c, "sampler", 8) == [{"evaluate.batch": 8}, fsdp, fsdp | {"evaluate.batch": 8}]


def test_a_tpu_program():
    """The update compiled for a slice has the FLOPs counted by hand, and fits."""
    pytest.importorskip("libtpu")
    said, c = [], config(model__width=128)
    aot_compile.run(c, "v5e:2x2", ntm_programs.data(c, 0, *IMAGENET), ("ntm",), False, lambda *what: said.append(what))
    ((name, outcome, way),) = said
    assert (name, way, outcome.fits, outcome.record["devices"]) == ("ntm", {}, True, 4)
    assert outcome.record["flops"]["program"] == pytest.approx(outcome.record["flops"]["model"], rel=0.03)


@pytest.mark.parametrize(
    "command, arguments, said",
    [
        ("aot_compile", ["--program=teacher"], "--program=teacher is not one of flow_matching, ntm, sampler"),
        ("aot_compile", ["--image=16x16"], "--image=16x16 is no height, width and channels: write it as 16x16x32"),
        ("benchmark", ["--only=teacher"], "--only=teacher is not one of flow_matching, ntm, images"),
    ],
)
def test_errors_are_one_line(command, arguments, said):
    """Names of another method and sizes that are none give one line, and exit code 2."""
    started = [sys.executable, "-m", f"launch.{command}", "--config=configs/ntm_imagenet256.py", *arguments]
    done = subprocess.run(started, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and said in done.stderr, done.stderr


def test_the_data_that_a_config_does_not_say():
    """Packages' images have their own sizes, latents of an autoencoder its, and files those of the flags."""
    data = lambda **changes: ntm_programs.data(config(**changes), 0, *IMAGENET)
    assert data() == networks.Shape(image=(8, 8, 1), patch=2, classes=10)
    assert data(autoencoder__channels=3, images__patch=1).image == (4, 4, 3)
    assert data(images__files="x.npz", images__label="") == networks.Shape(image=(16, 16, 32), patch=2, classes=0)


def test_what_an_update_is_compared_with():
    """The benchmark's updates and images run, beside as many bare passes as the method has."""
    c, asked = config(), {"batch": 8, "length": 0, "dtype": "", "longest": 1.0}
    shape, told = ntm_parts.prepared(c, asked)
    assert (shape.batch_tokens, told["length"], told["numbers"]) == (8 * 16, 16, 4)
    anchor, predictor, flow, optimiser, step, identity = ntm_parts.GROUPS["ntm"](shape)
    assert step.bare == {predictor.name: 1, anchor.name: 1, flow.name: 2} and flow.name.endswith("16 rows")
    assert identity.bare == {predictor.name: 1, anchor.name: 1}
    assert step.flops == ntm_programs.flops(shape.config, shape.data, "ntm") > identity.flops
    state, figures = step.run()
    assert int(state.step) == 1 and np.isfinite(float(figures["loss"])) and optimiser.lower is not None
    images = {program.name: program for program in ntm_parts.GROUPS["images"](shape)}
    assert images["ntm, 3 steps"].bare == {"predictor forward": 3, "flow patch by patch": 2}
    assert images["ntm, 3 steps"].run().shape == (8, 8, 8, 1)


def test_the_template_of_an_identity_is_of_its_predictor_alone():
    """A model without a transporter is drawn with the same function."""
    c = config(ntm__steps=(2,))
    mesh, shape = settings.mesh(c), ntm_programs.data(c, 0, *IMAGENET)
    assert set(trained.template(c, shape, mesh, "ntm_identity")) == {"predictor"}
    weights = ntm_parts.weights(timed(c, mesh, shape), "ntm_identity")
    rows = {"index": np.arange(8, dtype=np.int32), "y": np.arange(8, dtype=np.int32)}
    drawn = drawing.program(c, shape, mesh, table.request(c, "ntm_identity", 2), 0)(weights, rows)
    assert drawn.shape == (8, 8, 8, 1) and np.isfinite(drawn).all()
