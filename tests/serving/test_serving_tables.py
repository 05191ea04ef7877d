"""A model of a table behind each protocol: the same answers as the graph's own, by name, in any order."""

import json

import made
import numpy as np
import pytest
import serve
import tritonclient.http

import tfsoftmax
from tfsoftmax.predict import Predictor
from tfsoftmax.spec import Column, ModelSpec

COLUMNS = (
    Column("age", "number", "float32", offset=40, scale=0.1, fill=41.0, gaps=True),
    Column("job <b>", "category", "string", values=("clerk", "cook", "größe"), gaps=True),
    Column("shop", "category", "int64", values=("3", "200")),
    Column("new", "number", "bool", offset=0.5, scale=2, fill=0.25),
)
SPEC = ModelSpec("t", (4,), "float32", ("a", "b,", 'c"<i>'), "standardize", 0, 1, COLUMNS, "impute")
ROWS = [
    {"age": 39.1, "job <b>": "cook", "shop": 3, "new": True},
    {"age": None, "job <b>": "größe", "shop": 200, "new": False},
    {"age": 50, "job <b>": None, "shop": 77, "new": None},
    {"age": 44.25, "job <b>": "pilot", "shop": None, "new": 1},
]
# the same as raw rows
RAW = np.array([[39.1, 1, 0, 1], [np.nan, 2, 1, 0], [50, np.nan, -1, np.nan], [44.25, -1, np.nan, 1]], np.float32)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "people"
    labelled = np.concatenate([RAW] * 3)
    tfsoftmax.export(made.model_of(SPEC), SPEC, folder, rows=labelled, labels=np.arange(12) % 3)
    return folder


@pytest.fixture(scope="module")
def server(exported):
    with serve.Server(exported) as running:
        yield running


@pytest.fixture(scope="module")
def expected(exported):
    return Predictor(exported).answer(RAW)


def post(server, path, body, status=200):
    found, _, answer = server.request("POST", path, body)
    assert found == status, answer
    return json.loads(answer)


def same(answers, expected):
    assert [row["label"] for row in answers] == expected["label"].tolist()
    np.testing.assert_allclose([row["logits"] for row in answers], expected["logits"], atol=1e-6)


def test_tensorflow_serving(server, expected):
    predict = "/v1/models/people:predict"
    same(post(server, predict, {"instances": ROWS})["predictions"], expected)
    turned = [dict(reversed(row.items())) for row in ROWS]
    same(post(server, predict, {"instances": turned, "signature_name": "serving_default"})["predictions"], expected)
    columns = {name: [row[name] for row in ROWS] for name in reversed(ROWS[0])}
    # what the model lacks is ignored: columns that training left out, an id, the label
    for inputs in (columns, ROWS, {**columns, "id": ["a", None]}, [{**row, "id": 7} for row in ROWS]):
        outputs = post(server, predict, {"inputs": inputs})["outputs"]
        same([dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)], expected)
    context = {"examples": [{"age": 39.1, "job <b>": "cook"}, {**ROWS[1]}], "context": {"shop": 3, "new": True}}
    results = post(server, "/v1/models/people:classify", context)["results"]
    np.testing.assert_allclose([[p for _, p in row] for row in results], expected["probabilities"][:2], atol=1e-6)


def test_many_rows_are_the_same_in_the_helper_process(server, expected):
    body = {"instances": ROWS * 2000}
    assert len(json.dumps(body)) > 2**18
    answers = post(server, "/v1/models/people:predict", body)["predictions"]
    np.testing.assert_allclose([row["logits"] for row in answers], np.tile(expected["logits"], (2000, 1)), atol=1e-6)


@pytest.mark.parametrize("binary", [False, True])
def test_tritonclient(server, expected, binary):
    client = tritonclient.http.InferenceServerClient(server.address)
    values = {
        "new": (np.array([1, 0, np.nan, 1], np.float32), "FP32"),
        "shop": (np.array([3, 200, 77, -(2**63)]), "INT64"),
        "job <b>": (np.array(["cook", "größe", "", "pilot"], object), "BYTES"),
        "age": (np.array([39.1, np.nan, 50, 44.25], np.float32), "FP32"),
    }
    if not binary:  # JSON has no NaN
        values = {name: (array[:1], kind) for name, (array, kind) in values.items()}
    given = []
    for k, (name, (array, kind)) in enumerate(values.items()):
        array = array[:, None] if k % 2 else array
        item = tritonclient.http.InferInput(name, list(array.shape), kind)
        item.set_data_from_numpy(array, binary_data=binary)
        given.append(item)
    answer = client.infer("people", given)
    count = 4 if binary else 1
    np.testing.assert_allclose(answer.as_numpy("logits"), expected["logits"][:count], atol=1e-6)
    metadata = client.get_model_metadata("people")
    assert [(i["name"], i["datatype"], i["shape"]) for i in metadata["inputs"]] == [
        ("age", "FP32", [-1]), ("job <b>", "BYTES", [-1]), ("shop", "INT64", [-1]), ("new", "FP32", [-1])
    ]  # fmt: skip


def test_the_evidence_of_columns_adds_up(server, expected):
    for row, logits in zip(post(server, "/v1/models/people:explain", {"instances": ROWS})["explanations"],
                           expected["logits"], strict=True):  # fmt: skip
        first, second = np.sort(logits)[::-1][:2]
        assert len(row["evidence"]) == 4
        assert sum(row["evidence"]) + row["bias"] == pytest.approx(first - second, abs=1e-5)
    card = server.get("/page/models/people")
    assert [column["name"] for column in card["columns"]] == [column.name for column in COLUMNS]
    assert card["samples"][0]["raw"] in [
        {**ROWS[0], "age": float(np.float32(39.1))},
        ROWS[1],
        {**ROWS[2], "shop": "?"},
        {**ROWS[3], "job <b>": "?", "new": True},
    ]


WRONG = {
    "no column": ({"instances": [{"age": 1, "shop": 3, "new": True}]}, "instances[0] has no 'job <b>'"),
    "a word": ({"instances": [{**ROWS[0], "age": "old"}]}, "instances[0]: 'age' must be a number, got 'old'"),
    "a broken number": ({"instances": [{**ROWS[0], "shop": 1.5}]}, "instances[0]: 'shop' must be a whole number"),
    "large": ({"instances": [{**ROWS[0], "age": 1e39}]}, "'age' must be a number that a float32 can hold, got 1e+39"),
    "beyond all floats": (
        b'{"instances": [{"age": 1%s, "job <b>": "x", "shop": 3, "new": true}]}' % (b"0" * 400),
        "'age' must be a number",
    ),
    "ragged": ({"inputs": {**{k: [v] for k, v in ROWS[0].items()}, "age": [1, 2]}}, "columns of 1 and 2 rows"),
    "a list": ({"instances": [[1, 2, 3, 4]]}, "Expected `object`, got `array`"),
    "twice": (b'{"instances": [{"age": 1, "age": 2, "job <b>": "x", "shop": 3, "new": true}]}', "'age' stands twice"),
    "nothing": ({"instances": []}, "length >= 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_requests(server, case):
    body, expected = WRONG[case]
    error = post(server, "/v1/models/people:predict", body, 400)["error"]
    assert expected in error
    assert "\n" not in error


def test_what_training_did_not_see_is_counted_or_refused(server, exported):
    post(server, "/v1/models/people:predict", {"instances": ROWS})
    text = server.request("GET", "/metrics")[2].decode()
    assert 'tfsoftmax_unseen_values_total{column="job <b>",model="people"}' in text
    with serve.Server(exported, "--unseen", "refuse") as strict:
        post(strict, "/v1/models/people:predict", {"instances": ROWS[:2]})
        error = post(strict, "/v1/models/people:predict", {"instances": ROWS}, 400)["error"]
        assert error.startswith("values that training did not see, in 'job <b>' (1), 'shop' (1); this server refuses")


@pytest.mark.browser
def test_page(server, expected, browser):
    page, problems = browser.new_page(), []
    page.on("console", lambda message: problems.append(message.text))
    page.goto(server.url)
    page.wait_for_selector("#answer strong")
    assert page.locator("#features label").all_inner_texts() == [column.name for column in COLUMNS]
    with_fraction = page.locator("#samples button", has_text="39.1, cook, 3, true").first
    with_fraction.click()  # 39.1 is 39.0999984741… in float32
    serve.until(lambda: page.locator("#features input").first.input_value() == "39.1")
    for field, value in zip(page.locator("#features input").all(), ("44.25", "pilot", "", "true"), strict=True):
        field.fill(value)
    page.click("#features button")
    label, share = expected["label"][3], expected["probabilities"][3].max()
    serve.until(lambda: page.inner_text("#answer strong") == label)
    serve.until(lambda: page.locator("#bars output").first.inner_text() == f"{100 * share:.1f}%")
    assert len(page.locator("#columns li").all()) == 4
    page.locator("#features input").first.fill("old")
    page.click("#features button")
    serve.until(lambda: page.inner_text("#problem") == '"old" is not a number')
    assert problems == []
    page.close()


def test_openapi_names_the_columns(server):
    document = server.get("/openapi.json")
    body = document["paths"]["/v1/models/people:predict"]["post"]["requestBody"]["content"]["application/json"]
    rows = body["schema"]["anyOf"][0]["properties"]["instances"]["items"]
    assert rows["properties"]["shop"] == {"type": ["integer", "null"]}
    assert rows["required"] == [column.name for column in COLUMNS]
