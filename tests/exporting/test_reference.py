import io
import zipfile

import numpy as np
import pytest

import tfsoftmax
from tfsoftmax.exporting.reference import Reference


@pytest.fixture(scope="module")
def kept(finished):
    with np.load(finished[1].folder / "reference.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def test_layout(finished, kept):
    run, _ = finished
    count = len(kept["raw"])
    assert {name: (array.dtype, array.shape) for name, array in kept.items()} == {
        "raw": (np.uint8, (count, 6, 5)),
        "y": (np.int64, (count,)),
        "logits": (np.float32, (count, 3)),
        "kernel": (np.float32, (30, 3)),
        "bias": (np.float32, (3,)),
    }
    x = (kept["raw"].reshape(count, -1) / 255.0).astype(np.float32)
    np.testing.assert_allclose(kept["logits"], x @ kept["kernel"] + kept["bias"], atol=1e-5)
    np.testing.assert_array_equal(kept["kernel"], run.model.get_weights()[0])


def test_data_rows_first_then_hard_ones(finished, source, kept):
    hard = kept["y"] == -1
    assert hard.sum() == 64
    assert not hard[:-64].any()
    assert not kept["raw"][-64].any()
    assert (kept["raw"][-63] == 255).all()
    assert np.count_nonzero(kept["raw"][-62]) == 1
    assert kept["y"][:6].tolist() == [0, 1, 2, 0, 1, 2], "one of each class in turn"
    known = {(x.tobytes(), int(y)) for x, y in zip(source.x_train, source.y_train, strict=True)}
    assert all((x.tobytes(), y) in known for x, y in zip(kept["raw"][:-64], kept["y"][:-64].tolist(), strict=True))


def test_the_same_arrays_give_the_same_bytes(finished, tmp_path):
    folder = finished[1].folder
    Reference.read(folder).write(tmp_path)
    assert (tmp_path / "reference.npz").read_bytes() == (folder / "reference.npz").read_bytes()


def test_no_pickles(finished, tmp_path):
    member = io.BytesIO()
    np.lib.format.write_array(member, np.array([{}], object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "reference.npz", "w") as archive:
        for name in ("raw", "y", "logits", "kernel", "bias"):
            archive.writestr(f"{name}.npy", member.getvalue())
    with pytest.raises(tfsoftmax.InputError, match="cannot read the reference rows"):
        Reference.read(tmp_path)


@pytest.mark.parametrize("labels", [[0], [0, 3], [0, -1], [0.0, 1.0], [[0], [1]]])
def test_labels_that_do_not_fit(finished, tmp_path, labels):
    run, _ = finished
    with pytest.raises(tfsoftmax.InputError, match="labels must be 2 whole numbers from 0 to 2"):
        tfsoftmax.export(run.model, run.spec, tmp_path, rows=np.zeros((2, 6, 5), np.uint8), labels=np.array(labels))
