"""Pages of other origins, and names by which a server on loopback may be asked."""

import json

import numpy as np
import pytest
import serve
from conftest import SHAPE

from tfsoftmax.serving.app import create_app
from tfsoftmax.serving.settings import Settings

TINY = "/v1/models/tiny"
RAW = np.random.default_rng(5).integers(0, 256, SHAPE).astype(np.uint8)


def test_pages_of_other_origins(served):
    origin = {"Origin": "https://app.example"}
    preflight = origin | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    closed = create_app(Settings((str(served),)))
    assert serve.ask(closed, "OPTIONS", f"{TINY}:predict", preflight)[0] == 405
    assert "access-control-allow-origin" not in serve.ask(closed, "GET", TINY, origin)[1]
    opened = create_app(Settings((str(served),), allow_origins=("https://app.example",)))
    status, headers, _ = serve.ask(opened, "OPTIONS", f"{TINY}:predict", preflight)
    assert (status, headers["access-control-allow-origin"]) == (200, "https://app.example")
    assert "content-type" in headers["access-control-allow-headers"].lower()
    assert "POST" in headers["access-control-allow-methods"]
    for method, path, status in (("GET", TINY, 200), ("POST", f"{TINY}:predict", 400), ("GET", "/nothing", 404)):
        found, headers, _ = serve.ask(opened, method, path, origin)
        assert (found, headers["access-control-allow-origin"]) == (status, "https://app.example")
    other = serve.ask(opened, "GET", TINY, {"Origin": "https://other.example"})[1]
    assert "access-control-allow-origin" not in other


def test_pages_that_were_not_admitted_may_not_post(served):
    """The answer would not reach them, but the work would be done."""
    closed = create_app(Settings((str(served),)))
    opened = create_app(Settings((str(served),), allow_origins=("https://app.example",)))
    body, path = json.dumps({"instances": [RAW.tolist()]}).encode(), f"{TINY}:predict"
    for app, headers, status in (
        (closed, {"Origin": "https://app.example"}, 403),
        (closed, {"Origin": "null"}, 403),
        (opened, {"Origin": "https://app.example"}, 200),
        (opened, {"Origin": "https://other.example"}, 403),
        (closed, {"Origin": "http://localhost:8501", "Host": "localhost:8501"}, 200),
        (closed, {"Origin": "http://localhost:3000", "Host": "localhost:8501"}, 403),
        # behind a proxy that changes Host the browser's word counts
        (closed, {"Origin": "https://app.example", "Sec-Fetch-Site": "same-origin"}, 200),
        (closed, {"Origin": "http://localhost:3000", "Host": "localhost:3000", "Sec-Fetch-Site": "same-site"}, 403),
        (closed, {}, 200),
    ):
        found, _, answer = serve.ask(app, "POST", path, {"Host": "localhost:8501"} | headers, body)
        assert found == status, (headers, answer)
    refused = serve.ask(closed, "POST", path, {"Origin": "https://app.example"}, body)[2]
    assert "--allow-origin https://app.example admits it" in json.loads(refused)["error"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8501", 200),
        ("127.0.0.1:8501", 200),
        ("[::1]:8501", 200),
        ("model.localhost:80", 200),
        ("box:1", 200),
        ("evil.example", 421),
        ("evil.example:8501", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("10.0.0.1", 421),
        ("box.evil", 421),
    ],
)
def test_names_that_a_server_on_loopback_answers_for(export, host, status):
    app = create_app(Settings((str(export),), hosts=("box",)))
    for path in ("/v1/models/m", "/v2/health/live", "/"):
        assert serve.ask(app, "GET", path, {"Host": host})[0] == status
    assert serve.ask(create_app(Settings((str(export),))), "GET", "/v1/models/m", {"Host": host})[0] == 200
