"""NumPy's files: pairs, folders and archives; types that are converted; what is refused before memory is taken."""

import io
import zipfile

import ml_dtypes
import numpy as np
import pytest

import tfsoftmax
from tfsoftmax import sources
from tfsoftmax.errors import InputError

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
Y = np.array(["no", "yes"])[(X[:, 0] > 0).astype(int)]


def npy(array, **options):
    content = io.BytesIO()
    np.save(content, array, **options)
    return content.getvalue()


def test_every_way_in_gives_the_same_rows(tmp_path):
    np.save(tmp_path / "in.npy", X)
    np.save(tmp_path / "out.npy", Y)
    (tmp_path / "out.txt").write_text("\n".join(Y))
    np.savez_compressed(tmp_path / "both.npz", x=X, y=Y, other=np.array([None]))
    np.savez(tmp_path / "alone.npz", x=np.asfortranarray(X))
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder" / "x.npy", X)
    np.save(tmp_path / "folder" / "y.npy", Y)
    names = [f"npy:{tmp_path}/in.npy,{tmp_path}/out.npy", f"npy:{tmp_path}/in.npy,{tmp_path}/out.txt"]
    names += [f"npz:{tmp_path}/both.npz", tmp_path / "both.npz", f"npz:{tmp_path}/alone.npz,{tmp_path}/out.txt"]
    names += [f"npy:{tmp_path}/folder", tmp_path / "folder"]
    want = tfsoftmax.Source("want", X, Y)
    assert want.classes == ("no", "yes")
    for name in names:
        assert sources.read(name).fingerprint == want.fingerprint, name


def test_splits(tmp_path):
    np.savez(
        tmp_path / "s.npz", x_train=X[:20], y_train=Y[:20], x_val=X[20:30], y_val=Y[20:30], x_test=X[30:], y_test=Y[30:]
    )
    data = tfsoftmax.load(tmp_path / "s.npz")
    assert [len(split.rows) for split in (data.train, data.val, data.test)] == [20, 10, 10]
    np.testing.assert_array_equal(data.val.rows.x, X[20:30])
    assert data.spec.preprocess == "standardize"


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f8", "int64", "int8", "uint16", "bool", ml_dtypes.bfloat16])
def test_types_are_converted_and_said(tmp_path, caplog, dtype):
    x = (X * 3).astype(dtype)
    (tmp_path / "x.npy").write_bytes(npy(x))
    (tmp_path / "y.npy").write_bytes(npy(Y))
    made = sources.read(tmp_path)
    np.testing.assert_array_equal(made.x_train, x.astype(np.float32))
    assert f"x is {x.dtype} and is taken as float32" in caplog.text
    # the same in memory, in silence
    assert tfsoftmax.Source("memory", x, Y).fingerprint == made.fingerprint
    assert len(caplog.records) == 1


def test_pictures_stay_bytes(tmp_path, caplog):
    np.savez(tmp_path / "p.npz", x=np.arange(60, dtype=np.uint8).reshape(5, 3, 4), y=[3, 1, 3, 1, 7])
    data = tfsoftmax.load(tmp_path / "p.npz", test=1)
    assert (data.spec.dtype, data.spec.preprocess, data.classes) == ("uint8", "unit", ("1", "3", "7"))
    assert "classes with a single training row: 1 ('7')" in caplog.text


def member(name, content):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return packed.getvalue()


HEADER = npy(np.zeros(0, np.float32)).replace(b"(0,)", b"(9999999999999,)")
HOSTILE = {
    "pickle": (
        member("x.npy", npy(np.array([{}]), allow_pickle=True)),
        "'x' of '.*' holds Python objects .a pickle., which",
    ),
    "header": (member("x.npy", HEADER), r"'x' of '.*' says it holds 39,999,999,999,996 bytes .* and has"),
    "no npy": (member("x.npy", b"text"), "'x' of '.*' is not an NPY file"),
    "no zip": (b"text", "is not a whole NPZ file: 'File is not a zip file'"),
    "damaged": (member("x.npy", npy(X)).replace(b"NUMPY", b"NUMPX")[:-60], "is not a whole NPZ file"),
    "other names": (member("a.npy", npy(X)), "has no 'x'; it has none of x, y, x_train"),
    "no labels": (member("x.npy", npy(X)), "has no 'y'; it has x"),
    "text": (member("x.npy", npy(Y)), "has no 'y'; it has x"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives(tmp_path, case):
    content, text = HOSTILE[case]
    (tmp_path / "h.npz").write_bytes(content)
    with pytest.raises(InputError, match=text) as caught:
        sources.read(tmp_path / "h.npz")
    assert "\n" not in str(caught.value)


def test_an_archive_that_memory_does_not_hold(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros((1000, 10_000), np.uint8), y=np.arange(1000))
    assert (tmp_path / "bomb.npz").stat().st_size < 50_000
    monkeypatch.setattr("tfsoftmax.sources.npy.memory_available", lambda: 2**20)
    with pytest.raises(InputError, match=r"bomb\.npz' unpacks to 0\.0 GiB, and 0\.0 GiB of memory are free"):
        sources.read(tmp_path / "bomb.npz")


def test_hostile_files(tmp_path):
    (tmp_path / "x.npy").write_bytes(npy(X)[:-3])
    (tmp_path / "y.npy").write_bytes(npy(Y))
    with pytest.raises(InputError, match=r"x\.npy' says it holds 480 bytes \(shape \(40, 3\), float32\) and has 477"):
        sources.read(tmp_path)
    (tmp_path / "x.npy").write_bytes(npy(np.array([None]), allow_pickle=True))
    with pytest.raises(InputError, match=r"x\.npy' holds Python objects"):
        sources.read(tmp_path)
    (tmp_path / "x.npy").write_bytes(npy(X[:39]))
    with pytest.raises(InputError, match="has 39 inputs and 40 labels; the counts must be equal"):
        sources.read(tmp_path)
    with pytest.raises(InputError, match=r"npy: takes X\.npy,Y\.npy or a folder with x\.npy and y\.npy, got 'x\.npy'"):
        sources.read("npy:x.npy")
    with pytest.raises(InputError, match=r"cannot read 'x\.npy': No such file or directory"):
        sources.read("npy:x.npy,y.npy")
