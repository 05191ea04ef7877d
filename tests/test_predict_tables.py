"""Predictions for the rows of tables: columns by name from any file, written as any file."""

import csv
import io
import json
import pickle
import subprocess
import sys

import made
import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

import tfsoftmax
from tfsoftmax.errors import InputError
from tfsoftmax.spec import Column, ModelSpec

COLUMNS = (
    Column("age", "number", "float32", offset=40, scale=0.1, fill=41.0, gaps=True),
    Column("job", "category", "string", values=("1", "cook"), gaps=True),
    Column("shop", "category", "int64", values=("3", "200")),
    Column("new", "number", "bool", offset=0.5, scale=2, fill=0.25),
)
SPEC = ModelSpec("t", (4,), "float32", ("a", "=b", "c"), "standardize", 0, 1, COLUMNS, "impute")
FRAME = pd.DataFrame(
    {
        "id": ["r1", "r2", "=r3"],
        "new": [True, False, True],
        "shop": pd.array([200, None, 7], dtype="Int64"),
        "job": ["1", None, "pilot"],
        "age": [31.5, None, 50],
    }
)
RAW = np.array([[31.5, 0, 1, 1], [np.nan, np.nan, np.nan, 0], [50, -1, -1, 1]], np.float32)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predicted") / "people"
    tfsoftmax.export(made.model_of(SPEC), SPEC, folder)
    return folder


@pytest.fixture(scope="module")
def expected(exported):
    return tfsoftmax.Predictor(exported).answer(RAW)


def written(folder, name):
    path = folder / name
    if name.endswith("parquet"):
        FRAME.to_parquet(path)
    elif name.endswith("jsonl"):
        path.write_text(FRAME.to_json(orient="records", lines=True))
    else:
        FRAME.to_csv(path, index=False, sep="\t" if name.endswith("tsv") else ",")
    return path


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.parquet", "rows.jsonl"])
def test_files(exported, expected, tfsoftmax_cli, tmp_path, caplog, name):
    path = written(tmp_path, name)
    status, out, err = tfsoftmax_cli("predict", exported, path, "--json", "--id", "id")
    assert status == 0
    rows = json.loads(out)["predictions"]
    assert [row["input"] for row in rows] == ["r1", "r2", "=r3"]
    assert [row["label"] for row in rows] == expected["label"].tolist()
    got = [{entry["label"]: entry["probability"] for entry in row["top"]} for row in rows]
    wanted = [dict(zip(SPEC.classes, row, strict=True)) for row in expected["probabilities"].tolist()]
    assert got == [pytest.approx(row, abs=1e-6) for row in wanted]
    assert "values that training did not see, in 'job' (1 of 3), 'shop' (1 of 3)" in caplog.text
    status, out, err = tfsoftmax_cli("predict", exported, path, "--unseen", "refuse")
    assert (status, out, err.count("error: ")) == (2, "", 1)


def test_ways_out(exported, expected, tfsoftmax_cli, tmp_path, caplog):
    path = written(tmp_path, "rows.csv")
    status, out, err = tfsoftmax_cli("predict", exported, path, "--to", tmp_path / "out.parquet", "--id", "id")
    assert (status, out) == (0, f"3 rows: {tmp_path / 'out.parquet'}\n")
    found = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert found["input"] == ["r1", "r2", "=r3"]
    assert found["probability"] == pytest.approx(expected["probabilities"].max(axis=1).tolist(), abs=1e-6)
    assert "rows.csv': not used: 'id'" not in caplog.text
    assert tfsoftmax_cli("predict", exported, path)[0] == 0
    assert "rows.csv': not used: 'id'" in caplog.text
    plain = tfsoftmax_cli("predict", exported, path, "--csv", "--id", "id")[1]
    escaped = tfsoftmax_cli("predict", exported, path, "--csv", "--id", "id", "--escape")[1]
    assert [row[0] for row in csv.reader(io.StringIO(plain))] == ["input", "r1", "r2", "=r3"]
    assert [row[0] for row in csv.reader(io.StringIO(escaped))] == ["input", "r1", "r2", "'=r3"]
    assert escaped == plain.replace(",=b", ",'=b").replace("=r3", "'=r3")
    for arguments, text in {
        ("--to", tmp_path / "out.xlsx"): "must end in one of .csv, .json, .parquet",
        ("--to", tmp_path / "none" / "out.csv"): "No such file or directory",
        ("--id", "name"): "has no column 'name'; it has 'id, new, shop, job, age'",
        ("--csv", "--json"): "exclude each other",
    }.items():
        status, out, err = tfsoftmax_cli("predict", exported, path, *arguments)
        assert (status, out) == (2, "")
        assert text in err


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("age,job,shop\n1,1,3\n", "has no column 'new'; it has 'age, job, shop'"),
        ("age,job,shop,new\nold,1,3,true\n", "invalid value 'old'"),
        ("age,job,shop,new\n1,1,3,perhaps\n", "column 'new' must hold numbers, got 'perhaps' in row 0"),
        ("age,job,shop,new\n1,1,3.5,true\n", "invalid value '3.5'"),
    ],
)
def test_files_that_do_not_fit(exported, tfsoftmax_cli, tmp_path, content, text):
    (tmp_path / "rows.csv").write_text(content)
    status, out, err = tfsoftmax_cli("predict", exported, tmp_path / "rows.csv")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert text in err
    status, _, err = tfsoftmax_cli("predict", exported, tmp_path / "rows.png")
    assert (status, "does not end in one of .csv, .tsv" in err) == (2, True)


def test_rows_in_python(exported, expected):
    predictor = pickle.loads(pickle.dumps(tfsoftmax.Predictor(exported)))
    records = FRAME.drop(columns="id").astype(object).where(FRAME.drop(columns="id").notna(), None)
    rows = records.to_dict("records")
    for given in (FRAME.drop(columns="id"), rows, {name: list(records[name]) for name in records}, RAW):
        np.testing.assert_array_equal(predictor(given)["logits"], expected["logits"])
    with pytest.raises(InputError, match=r"the input\[0\] has no 'job'"):
        predictor([{"age": 1, "shop": 3, "new": True}])
    with pytest.raises(InputError, match="a data frame is one of pandas, Polars or Arrow"):
        predictor("rows.csv")


def test_notes_reach_the_screen(exported, tmp_path):
    path = written(tmp_path, "rows.csv")
    command = [sys.executable, "-m", "tfsoftmax", "predict", exported, path]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 3
    notes = done.stderr.splitlines()
    assert notes[0] == f"'{path}': not used: 'id'"
    assert notes[1].endswith("'job' (1 of 3), 'shop' (1 of 3); they speak for no class")
    assert len(notes) == 2
