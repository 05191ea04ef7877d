import codecs
import functools
import gzip
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from conftest import idx_bytes, make_rows

import tfsoftmax
from tfsoftmax import sources

EMBEDDED = Path(tfsoftmax.__file__).parent / "datasets" / "fashion_mnist"


def test_fashion_mnist_is_the_official_one():
    source = sources.read("fashion_mnist")
    assert source.x_train.shape == (60000, 28, 28)
    assert source.x_test.shape == (10000, 28, 28)
    assert source.x_train.dtype == np.uint8
    assert np.bincount(source.y_train).tolist() == [6000] * 10
    assert np.bincount(source.y_test).tolist() == [1000] * 10
    assert source.classes[source.y_test[0]] == "Ankle boot"
    assert "MIT License" in (EMBEDDED / "LICENSE").read_text()


def test_changed_embedded_file_is_refused(tmp_path, monkeypatch):
    from tfsoftmax.sources import idx

    shutil.copytree(EMBEDDED, tmp_path / "datasets" / "fashion_mnist")
    path = tmp_path / "datasets" / "fashion_mnist" / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    monkeypatch.setattr(idx, "__file__", str(tmp_path / "sources" / "idx.py"))
    with pytest.raises(tfsoftmax.InputError, match=r"t10k-labels-idx1-ubyte.gz' has SHA-256 .* expected 67da17c7"):
        sources.read("fashion_mnist")


def test_idx_types_and_plain_files(tmp_path):
    from tfsoftmax.sources.idx import read_idx

    for code, dtype in [(0x08, ">u1"), (0x09, ">i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")]:
        array = np.arange(6).reshape(2, 3).astype(dtype)
        path = tmp_path / "file.idx"
        path.write_bytes(bytes([0, 0, code, 2, 0, 0, 0, 2, 0, 0, 0, 3]) + array.tobytes())
        read = read_idx(path)
        assert read.dtype.isnative
        np.testing.assert_array_equal(read, array)


packed = functools.partial(gzip.compress, mtime=0)  # the bytes name the tests, and each process must find the same


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (packed(idx_bytes(np.zeros(9)))[:-9], "not a whole gzip file"),
        (b"no gzip at all", "not a whole gzip file"),
        (packed(b"\1\2\3\4"), "starts with '01020304'"),
        (packed(b""), "starts with ''"),
        (packed(idx_bytes(np.zeros(9))[:-1]), "does not hold the 9 bytes of its shape .*: 8 and then its end"),
        (packed(idx_bytes(np.zeros(9)) + b"x"), "does not hold the 9 bytes of its shape"),
        (packed(b"\0\0\x08\1\xff\xff\xff\xff"), "says it holds 4,294,967,295 bytes .* more than its"),
        (packed(idx_bytes(np.zeros(9))), "230 inputs and 9 labels"),
        (packed(idx_bytes(np.full(230, 3))), r"label 3 in row 0 is outside \[0, 3\)"),
    ],
)
def test_bad_idx_files(idx_folder, content, text):
    (idx_folder / "train-labels-idx1-ubyte.gz").write_bytes(content)
    with pytest.raises(tfsoftmax.InputError, match=text):
        tfsoftmax.load(f"idx:{idx_folder}")


def test_missing_idx_file(idx_folder):
    (idx_folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(tfsoftmax.InputError, match="no file 't10k-labels-idx1-ubyte'"):
        tfsoftmax.load(f"idx:{idx_folder}")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"x_train": np.full((4, 2), np.nan)}, "row 0 has a NaN or infinite value; 4 such rows"),
        ({"x_train": np.array([[0, 1], [2, 3], [4, 1e300], [6, 7]])}, "row 2 has a NaN or infinite"),
        ({"x_train": np.zeros((0, 2)), "y_train": np.zeros(0, int)}, "train split of 'rows' is empty"),
        ({"x_test": np.zeros((0, 2)), "y_test": np.zeros(0, int)}, "test split of 'rows' is empty"),
        ({"x_train": np.zeros((4, 2), "U1")}, "inputs must be numbers, got <U1"),
        ({"x_train": np.zeros(4)}, "shape"),
        ({"x_train": np.zeros((4, 3))}, "must be alike"),
        ({"y_train": np.array([0, 1, -1, 0])}, "label -1 in row 2"),
        ({"y_train": np.array([0.0, 1, 0.5, 0])}, "labels must be whole numbers, got 0.5 in row 2"),
        ({"y_train": np.array([0.0, np.nan, 1, 0])}, "1 labels are missing, the first in row 1: leave these rows out"),
        ({"y_train": np.ones((4, 2))}, r"labels of shape \(4, 2\) must be one-hot rows, .*; row 0 is array"),
        ({"y_train": np.eye(3)[[0, 1, 1, 2]]}, r"label 2 in row 3 is outside \[0, 2\)"),
        ({"y_train": np.array(["a", "b", "c", "a"])}, "label 'c' in row 2 is none of the 2 classes"),
        ({"y_train": ["a", None, "b", "a"]}, "1 labels are missing, the first in row 1"),
        (
            {"y_train": np.array(["a", 1, "b", "a"], object)},
            r"labels must be of one type, all text or all numbers, got 1 \(int\) and 'a' \(str",
        ),
        ({"y_train": np.array([1j, 0, 0, 0])}, "labels must be text, true or false, or whole numbers, got complex128"),
        ({"y_train": np.array(["2020"] * 4, "M8[D]")}, "labels must be text, .* got datetime64"),
        ({"y_train": np.ma.masked_equal([0, 1, 1, 0], 1)}, r"y_train has 2 masked values: fill them"),
        ({"x_train": np.ma.masked_equal(np.eye(4, 2), 1)}, r"x_train has 2 masked values: fill them"),
        ({"x_train": np.array([[1, None]] * 4)}, "4 values are missing, the first in row 0"),
        ({"x_train": np.array([[1, "one"]] * 4, object)}, "inputs must be numbers: could not convert string"),
        ({"x_train": scipy.sparse.eye(4, 2)}, r"x_train is a sparse matrix of shape \(4, 2\): pass x_train.toarray"),
        ({"x_train": [[1.0, 2.0], [3.0]]}, "x_train is not an array, all rows of one shape"),
        ({"classes": 2}, "classes must be the names of the classes in the order of their labels, got 2"),
        ({"classes": ["a", "a"]}, "the classes 0 and 1 are both called 'a'"),
        ({"classes": ["a\n", "b\n"]}, r"class name 0 is 'a\\n', expected one line of text"),
        ({"classes": ["a", "b\u2028c"]}, "class name 1 is .* expected one line of text"),
        ({"classes": ["a", "\ud800"]}, "a class name must be text without lone surrogates, got '.ud800'"),
        ({"classes": ["a", ""]}, "class name 1 is '', expected one line of text"),
        ({"y_train": np.zeros((4, 1, 1))}, "labels must have shape"),
        ({"classes": ["one"]}, "at least 2 classes"),
    ],
)
def test_source_refuses(change, text):
    good = {
        "x_train": np.zeros((4, 2)),
        "y_train": np.array([0, 1, 1, 0]),
        "x_test": np.ones((1, 2)),
        "y_test": np.ones(1, int),
    }
    with pytest.raises(tfsoftmax.InputError, match=text):
        tfsoftmax.Source("rows", **{**good, "classes": "ab", **change})


@pytest.mark.parametrize("name", ["fasion_mnist", "mnist", ""])
def test_unknown_name(name):
    with pytest.raises(tfsoftmax.InputError, match="unknown data set"):
        tfsoftmax.load(name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("idx", "the data set 'idx' needs an argument: write idx:FOLDER"),
        ("tfds:", "the data set 'tfds:' needs an argument: write tfds:NAME"),
        ("fashion_mnist:x", "the data set 'fashion_mnist:x' takes no argument: write fashion_mnist"),
    ],
)
def test_a_name_without_its_argument(name, text):
    with pytest.raises(tfsoftmax.InputError, match=text):
        tfsoftmax.load(name)


def test_the_documentation_has_every_source():
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    missing = [kind.usage for kind in sources.SOURCES.values() if f"`{kind.usage}`" not in text]
    assert missing == []


def test_unknown_name_has_the_nearest():
    with pytest.raises(tfsoftmax.InputError, match="nearest: fashion_mnist"):
        tfsoftmax.load("fasion_mnist")
    with pytest.raises(tfsoftmax.InputError, match=r"unknown TFDS data set 'fashion_mnits'; nearest: fashion_mnist"):
        tfsoftmax.load("tfds:fashion_mnits")


@pytest.mark.slow
def test_tfds_reads_the_official_fashion_mnist(monkeypatch):
    import tensorflow_datasets as tfds
    from tensorflow_datasets.image_classification import mnist

    monkeypatch.setattr(mnist, "_TRAIN_EXAMPLES", 3_000)  # of the official files; all take half a minute
    monkeypatch.setattr(mnist, "_TEST_EXAMPLES", 500)
    config = tfds.download.DownloadConfig(manual_dir=str(EMBEDDED))
    tfds.builder("fashion_mnist").download_and_prepare(download_config=config)
    read, embedded = sources.read("tfds:fashion_mnist"), sources.read("fashion_mnist")
    assert read.classes == embedded.classes
    assert read.x_test.shape == (500, 28, 28)

    def rows(x, y):  # TFDS shuffles: compare as sets of rows
        return sorted(
            np.concatenate([x.reshape(len(x), -1), y[:, None].astype(np.uint8)], axis=1).view("V785").ravel().tolist()
        )

    assert rows(read.x_test, read.y_test) == rows(embedded.x_test[:500], embedded.y_test[:500])
    assert rows(read.x_train, read.y_train) == rows(embedded.x_train[:3_000], embedded.y_train[:3_000])


def test_labels_as_columns_and_floats():
    x, y = np.zeros((4, 2)), np.array([0, 1, 1, 0])
    for labels in (y[:, None], y.astype(float), y[:, None].astype(np.float32), y.astype(np.uint64), y.tolist()):
        source = tfsoftmax.Source("rows", x, labels, x, y, "ab")
        assert source.y_train.dtype == np.int32
        np.testing.assert_array_equal(source.y_train, y)


def test_what_is_no_name():
    with pytest.raises(tfsoftmax.InputError, match=r"unknown data set 'my/rows'; known are fashion_mnist, .*"):
        tfsoftmax.load(Path("my/rows"))
    with pytest.raises(tfsoftmax.InputError, match="a data set is a name, a path or a data frame, got 5"):
        tfsoftmax.load(5)
    with pytest.raises(tfsoftmax.InputError, match=r"source must be a tfsoftmax.Source, .* got 'fashion_mnist'"):
        tfsoftmax.Data("fashion_mnist")


def test_repr_says_what_it_holds(source):
    assert repr(source) == "Source('tiny': 230 training and 50 test rows, uint8 (6, 5), 3 classes)"
    assert repr(tfsoftmax.Data(source, val=30, batch_size=8)) == (
        "Data('tiny': 200 training, 30 validation and 50 test rows, uint8 (6, 5), 3 classes; "
        "batch_size=8, val=30, seed=0, preprocess='unit', refit=False)"
    )
    assert "230 training, no validation" in repr(tfsoftmax.Data(source, val=0))


NAMES = "round\nsquare\nflat\n"


@pytest.mark.parametrize(
    "content",
    [
        NAMES.encode(),
        NAMES.strip().encode(),
        NAMES.replace("\n", "\r\n").encode("utf-8-sig"),
        NAMES.encode("utf-16"),
        codecs.BOM_UTF16_BE + NAMES.encode("utf-16-be"),
        b"round \n\tsquare\nflat\n\n\n",
    ],
)
def test_labels_as_editors_write_them(idx_folder, content):
    (idx_folder / "labels.txt").write_bytes(content)
    assert tfsoftmax.load(f"idx:{idx_folder}").classes == ("round", "square", "flat")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("café\nb\nc".encode("latin-1"), r"labels.txt' is not text in UTF-8: byte 0xe9 at 3; save it as UTF-8"),
        (NAMES.encode("utf-16")[:-1], r"labels.txt' is not text in UTF-8"),
        (b"round\n\nflat\n", r"labels.txt': line 2 is empty; it needs one class name a line"),
        (b"", r"labels.txt': line 1 is empty"),
        ("ro\u2028und\nsquare\nflat".encode(), "class name 0 is .* expected one line of text"),
        (b"round\nsquare\n", r"label 2 in row \d+ is outside \[0, 2\)"),
        (b"round\nsquare\nround\n", "the classes 0 and 2 are both called 'round'"),
    ],
)
def test_labels_that_are_refused(idx_folder, content, text):
    (idx_folder / "labels.txt").write_bytes(content)
    with pytest.raises(tfsoftmax.InputError, match=text):
        tfsoftmax.load(f"idx:{idx_folder}")


def pictures_of(name, shape, sizes):
    """Register a TFDS set of pictures of these sizes, all of one grey."""
    import tensorflow_datasets as tfds

    def info(self):
        features = tfds.features.FeaturesDict(
            {"image": tfds.features.Image(shape=shape), "label": tfds.features.ClassLabel(names=["a", "b"])}
        )
        return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=("image", "label"))

    def splits(self, manager):
        rows = [(i, {"image": np.full(sizes[i % len(sizes)], 7, np.uint8), "label": i % 2}) for i in range(6)]
        return {"train": iter(rows), "test": iter(rows)}

    members = {"VERSION": tfds.core.Version("1.0.0"), "_info": info, "_split_generators": splits}
    members |= {"_generate_examples": lambda self: iter(()), "__module__": __name__}
    return type(name, (tfds.core.GeneratorBasedBuilder,), members)


def test_tfds_pictures_have_one_size(tmp_path, monkeypatch, capfd):
    made = [
        pictures_of("AlikePictures", (None, None, 3), [(4, 5, 3)]),
        pictures_of("OtherPictures", (None, None, 3), [(4, 5, 3), (6, 2, 3)]),
        pictures_of("GreyPictures", (4, 5, 1), [(4, 5, 1)]),
    ]
    assert made
    alike = sources.read("tfds:alike_pictures")
    assert alike.x_train.shape == (6, 4, 5, 3)
    assert (alike.x_train == 7).all()
    assert sources.read("tfds:grey_pictures").x_test.shape == (6, 4, 5)
    for name, text in {
        "other_pictures": r"have 2 sizes, such as \(4, 5, 3\) and \(6, 2, 3\)",
        "grey_pictures:9.9.9": "cannot open TFDS data set 'grey_pictures:9.9.9': .* only: 1.0.0",
        "grey_pictures/large": "'grey_pictures/large': BuilderConfig large not found",
        "grey pictures": "cannot open TFDS data set 'grey pictures': Parsing builder name",
    }.items():
        with pytest.raises(tfsoftmax.InputError, match=text) as error:
            sources.read(f"tfds:{name}")
        assert "\n" not in str(error.value)
    assert capfd.readouterr().out == "", "results belong there"


def test_tfds_without_a_network(tmp_path, monkeypatch, capfd, caplog):
    import tensorflow_datasets as tfds

    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    begin = time.monotonic()
    with pytest.raises(tfsoftmax.InputError, match=r"no connection to storage.googleapis.com; without a network"):
        sources.read("tfds:mnist")
    assert time.monotonic() - begin < 60, "ten retries take 204 s"
    assert not [record for record in caplog.records if "urllib3" in record.name]
    assert capfd.readouterr().out == ""


def test_made_rows_are_seeded():
    np.testing.assert_array_equal(make_rows(9, 5)[0], make_rows(9, 5)[0])
