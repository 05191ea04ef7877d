"""Folders of class folders of pictures: what becomes of each mode and size, and what is refused."""

import io
import json

import numpy as np
import pytest
from PIL import Image

import tfsoftmax
from tfsoftmax import pictures, sources
from tfsoftmax.errors import InputError

RNG = np.random.default_rng(0)


def grey(value=None, size=(6, 5)):
    """A picture of ``size`` (width, height), of one grey or noise."""
    shape = size[::-1]
    return Image.fromarray(
        RNG.integers(0, 256, shape).astype(np.uint8) if value is None else np.full(shape, value, "u1")
    )


def write(folder, names, image=None, **options):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (grey() if image is None else image).save(path, **options)
    return folder


@pytest.fixture
def folder(tmp_path):
    """Six pictures of each of the classes 2 and 10."""
    return write(tmp_path / "set", [f"{label}/{i}.png" for label in (2, 10) for i in range(6)])


def test_grey_pictures(folder):
    (folder / "10" / "notes.txt").write_text("no picture")
    (folder / "2" / ".hidden").write_text("")
    made = sources.read(folder)
    assert (made.name, made.classes, made.x_train.shape, made.x_test) == ("set", ("2", "10"), (12, 5, 6), None)
    assert made.y_train.tolist() == [1] * 6 + [0] * 6, "folders in the order of their names, classes as numbers"
    np.testing.assert_array_equal(made.x_train[9], np.asarray(Image.open(folder / "2" / "3.png")))


def test_splits_inside(tmp_path):
    for split, count in {"train": 4, "val": 2, "test": 3}.items():
        write(tmp_path, [f"{split}/{label}/{i}.bmp" for label in "ab" for i in range(count)])
    data = tfsoftmax.load(f"pictures:{tmp_path}", batch_size=4)
    assert [len(split.rows) for split in (data.train, data.val, data.test)] == [8, 4, 6]
    first = np.asarray(Image.open(tmp_path / "val" / "a" / "0.bmp"))
    np.testing.assert_array_equal(data.val.rows.x[0], first)
    write(tmp_path, ["other/a/1.png"])
    with pytest.raises(InputError, match="has the folder 'other' beside 'train': class folders belong inside it"):
        sources.read(tmp_path)


def test_what_becomes_of_each_mode(folder):
    """Colour makes all RGB; 16 bits, palettes, CMYK, transparency and EXIF turns are converted."""
    sixteen = Image.fromarray(np.full((5, 6), 256 * 100, np.uint16))
    palette = Image.new("RGB", (6, 5), (10, 20, 30)).quantize(4)
    cmyk = Image.new("CMYK", (6, 5), (255, 0, 0, 0))
    clear = Image.new("RGBA", (6, 5), (9, 9, 9, 0))
    turned = Image.fromarray(np.arange(30, dtype=np.uint8).reshape(6, 5))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    for name, image in {"16.png": sixteen, "p.png": palette, "c.tif": cmyk, "rgba.png": clear}.items():
        write(folder / "2", [name], image)
    write(folder / "2", ["turned.png"], turned, exif=exif)
    made = sources.read(folder)
    assert made.x_train.shape == (17, 5, 6, 3)
    names = sorted(path.name for path in (folder / "2").iterdir())
    found = {name: made.x_train[6 + i] for i, name in enumerate(names)}
    assert (found["16.png"] == 100).all()  # 25,600 of 65,535 is 99.6 of 255
    assert (found["p.png"] == [10, 20, 30]).all()
    assert (found["c.tif"] == [0, 255, 255]).all()
    assert (found["rgba.png"] == 255).all()
    np.testing.assert_array_equal(found["turned.png"][..., 0], np.rot90(np.arange(30).reshape(6, 5), -1))


def test_sizes_that_differ(folder):
    write(folder / "2", ["large.jpg"], grey(size=(12, 10)))
    with pytest.raises(InputError, match=r"large\.jpg' is 12x10 and .*0\.png' is 6x5: .*--resize WIDTHxHEIGHT"):
        sources.read(folder)
    made = sources.read(folder, resize="4x3")
    assert made.x_train.shape == (13, 3, 4)
    # the same as predict --fit makes of the file
    spec = tfsoftmax.ModelSpec("s", (3, 4), "uint8", ("a", "b"), "unit", 0.0, 1 / 255)
    for i, name in ((6, "0.png"), (12, "large.jpg")):
        again = pictures.picture(io.BytesIO((folder / "2" / name).read_bytes()), spec, True, name)
        np.testing.assert_array_equal(made.x_train[i], again)
    for wrong in ("32", "0x4", "4x", "4 x 3", "999999x1"):
        with pytest.raises(InputError, match="resize must be WIDTHxHEIGHT in pixels, such as 32x32, got"):
            sources.read(folder, resize=wrong)


def test_hostile_folders(folder, tmp_path, monkeypatch):
    def refused(text, **options):
        with pytest.raises(InputError, match=text) as caught:
            sources.read(f"pictures:{folder}", **options)
        assert "\n" not in str(caught.value)

    broken = folder / "2" / "broken.jpg"
    content = io.BytesIO()
    grey(size=(60, 50)).save(content, "JPEG")
    broken.write_bytes(content.getvalue()[:-300])
    refused(r"broken\.jpg' is not a picture that can be opened: image file is truncated")
    broken.write_bytes(b"\xff\xd8\xff and no more")
    refused(r"broken\.jpg' is not a picture that can be opened")
    broken.unlink()
    broken.symlink_to(broken)
    refused(r"cannot read '.*broken\.jpg': Too many levels of symbolic links")
    broken.unlink()
    frames = [grey(), grey()]
    frames[0].save(folder / "2" / "frames.gif", save_all=True, append_images=frames[1:])
    refused(r"frames\.gif' holds several pictures")
    (folder / "2" / "frames.gif").unlink()
    (folder / "empty").mkdir()
    refused(r"the class folder '.*empty' has no picture: none ends in \.png, ")
    (folder / "empty").rmdir()
    (folder / "10" / "loop").symlink_to(folder)
    refused("the class folder '.*10' has the folder 'loop' in it")
    (folder / "10" / "loop").unlink()
    monkeypatch.setattr("tfsoftmax.sources.pictures.memory_available", lambda: 100)
    refused(r"12 pictures of 6x5 take 0\.0 GiB, and 0\.0 GiB of memory are free; --resize makes them smaller")
    monkeypatch.undo()

    def changing(path):  # someone writes the file while it is read
        content = read_bytes(path)
        with open(path, "ab") as file:
            file.write(b"more")
        return content

    read_bytes = type(folder).read_bytes
    monkeypatch.setattr(type(folder), "read_bytes", changing)
    refused(r"0\.png' changed while it was read; read it again once it is written")
    monkeypatch.undo()
    for path in (folder / "10").iterdir():
        path.unlink()
    (folder / "10").rmdir()
    refused("data set 'set' needs at least 2 classes, got 1: all labels are '2'")
    with pytest.raises(InputError, match="there is no folder 'nothing'; pictures:FOLDER needs one"):
        sources.read("pictures:nothing")
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match=r"'.*bare' has no folder: it needs one of pictures per class"):
        sources.read(f"pictures:{tmp_path / 'bare'}")


def test_the_whole_way(folder, tmp_path, tfsoftmax_cli, caplog):
    """A folder of pictures of two sizes, to an answer."""
    write(folder, [f"2/bright{i}.png" for i in range(12)], grey(250, (9, 9)))
    write(folder, [f"10/dark{i}.png" for i in range(12)], grey(5, (12, 8)))
    run = tmp_path / "run"
    options = ["--data", folder, "--resize", "4x4", "--epochs", 20, "--out", run]
    status, _, err = tfsoftmax_cli("train", *options)
    assert status == 0, err
    assert "'set' has no test split: 7 of its 36 rows are drawn for one" in caplog.text
    assert json.loads((run / "config.json").read_text())["resize"] == "4x4"
    assert tfsoftmax_cli("evaluate", run, "--json")[0] == 0
    assert tfsoftmax_cli("export", run, "--to", tmp_path / "export")[0] == 0
    status, out, _ = tfsoftmax_cli("predict", tmp_path / "export", folder / "2" / "bright0.png", "--json")
    assert status == 0
    assert json.loads(out)["predictions"][0]["label"] == "2"


@pytest.mark.parametrize(("resize", "size"), [(None, (6, 5)), ("4x4", (9, 9))])
def test_answers_convert_as_training_did(folder, resize, size):
    """The colour mode always, the size if training resized; other sizes are refused."""
    spec = tfsoftmax.load(f"pictures:{folder}", resize=resize, batch_size=4).spec
    clear = Image.fromarray(RNG.integers(0, 256, (size[1], size[0], 4)).astype(np.uint8), "RGBA")
    write(folder, ["2/clear.png"], clear)
    in_colour = sources.read(folder, **({"resize": resize} if resize else {})).x_train[6]
    content = io.BytesIO((folder / "2" / "clear.png").read_bytes())
    got = pictures.picture(content, spec, False, "it")
    white = Image.alpha_composite(Image.new("RGBA", size, "white"), clear)
    assert in_colour.shape == (*spec.shape, 3)
    if resize is None:
        np.testing.assert_array_equal(got, np.asarray(white.convert("L")))
        with pytest.raises(InputError, match="it is L 3x3, the model takes L 6x5; --fit converts and crops it"):
            pictures.picture(encoded(grey(size=(3, 3))), spec, False, "it")
    else:
        np.testing.assert_array_equal(got, np.asarray(white.convert("L").resize((4, 4), Image.Resampling.LANCZOS)))
    assert tfsoftmax.ModelSpec.from_dict(json.loads(spec.to_json()), "the spec") == spec


def encoded(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    file.seek(0)
    return file
