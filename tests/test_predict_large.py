"""Predicting from file to file: rows are read, answered and written some at a time, with the bytes of all at once."""

import numpy as np
import pytest
from conftest import make_rows

from tfsoftmax import inputs


@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_parts_write_what_the_whole_writes(finished, tmp_path, tfsoftmax_cli, monkeypatch, ending):
    export, rows = finished[1].folder.parent, make_rows(50, 7)[0]
    np.save(tmp_path / "x.npy", rows)
    np.save(tmp_path / "one.npy", rows[0])
    files, found = [tmp_path / "x.npy", tmp_path / "one.npy"], []
    for part in (2**22, 7 * 30):
        monkeypatch.setattr("tfsoftmax.inputs.PART", part)
        monkeypatch.setattr("tfsoftmax.stored.PART", part)
        monkeypatch.setattr("tfsoftmax.outputs._ROWS", 2**14 if part == 2**22 else 9)
        to = tmp_path / f"{part}.{ending}"
        status, out, error = tfsoftmax_cli("predict", export, *files, "--to", to, "--invert")
        assert (status, out, error) == (0, f"51 rows: {to}\n", "")
        found.append(to)
    if ending == "parquet":
        import pyarrow.parquet

        assert pyarrow.parquet.read_table(found[0]).equals(pyarrow.parquet.read_table(found[1]))
        assert pyarrow.parquet.read_metadata(found[1]).num_row_groups == 6
    else:
        assert found[0].read_bytes() == found[1].read_bytes()


def test_a_file_that_goes_while_it_is_read(finished, tmp_path, monkeypatch, tfsoftmax_cli):
    np.save(tmp_path / "x.npy", make_rows(50, 7)[0])
    parts = inputs.parts

    def first_then_gone(*args, **kwargs):
        found = iter(parts(*args, **kwargs))
        yield next(found)
        (tmp_path / "x.npy").unlink()
        yield from found

    for name in ("inputs", "stored"):
        monkeypatch.setattr(f"tfsoftmax.{name}.PART", 7 * 30)
    monkeypatch.setattr(inputs, "parts", first_then_gone)
    status, _, error = tfsoftmax_cli("predict", finished[1].folder, tmp_path / "x.npy", "--to", tmp_path / "p.csv")
    assert status == 2
    assert error.startswith(f"error: cannot read '{tmp_path}/x.npy': No such file")
    assert list(tmp_path.iterdir()) == []
