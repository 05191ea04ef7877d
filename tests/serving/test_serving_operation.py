"""Operation: versions that come and go, draining, limits, keys, metrics, workers, the access log."""

import dataclasses
import gzip
import http.client
import json
import os
import shutil
import signal
import socket
import threading
import time

import load
import numpy as np
import psutil
import pytest
import serve
from conftest import CLASSES, SHAPE
from prometheus_client.parser import text_string_to_metric_families

import tfsoftmax
from tfsoftmax.exporting import manifest
from tfsoftmax.exporting.reference import Reference

SPEC = tfsoftmax.ModelSpec("tiny", SHAPE, "uint8", CLASSES, "unit", 0.0, 1 / 255)
ROW = np.zeros(SHAPE, int).tolist()
BODY = {"instances": [ROW]}


def weights(seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(30, 3)).astype(np.float32), rng.normal(size=3).astype(np.float32)


@pytest.fixture
def export(tmp_path):
    """An export called `m` with version 1."""
    serve.write_version(tmp_path / "m", 1, SPEC, *weights(1))
    return tmp_path / "m"


def version(server):
    return server.post("/v2/models/m/infer", INFER)["model_version"]


INFER = {"inputs": [{"name": "image", "shape": [1, *SHAPE], "datatype": "UINT8", "data": [0] * 30}]}


# ---- versions


def test_a_new_version_is_served_within_a_second_and_a_rollback_too(export):
    with serve.Server(export) as server:
        assert version(server) == "1"
        new = serve.write_version(export, 2, SPEC, *weights(2))
        assert serve.until(lambda: version(server) == "2") < 1
        assert server.error("POST", "/v1/models/m/versions/1:predict", BODY)[0] == 404
        logits = server.post("/v1/models/m:predict", BODY)["predictions"][0]["logits"]
        np.testing.assert_allclose(logits, weights(2)[1], atol=1e-6)
        shutil.rmtree(new)
        assert serve.until(lambda: version(server) == "1") < 1
        shutil.rmtree(export / "1")
        time.sleep(0.7)
        assert version(server) == "1", "a model whose folder is emptied goes on from memory"
        states = server.get("/v1/models/m")["model_version_status"]
        assert [(state["version"], state["state"]) for state in states] == [("1", "AVAILABLE")]


def flip(folder):
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)


def lie(folder):
    """Hashes are right, but the reference says other logits than the graph gives."""
    kept = Reference.read(folder)
    dataclasses.replace(kept, logits=kept.logits + 1).write(folder)
    manifest.write(folder, {"spec": dataclasses.asdict(SPEC)})


@pytest.mark.parametrize(
    "break_it",
    [
        flip,
        lie,
        lambda folder: (folder / "model.onnx").unlink(),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{}"),
        lambda folder: (folder / "manifest.json").write_text('{"spec": {"name": 1}, "files": {"model.onnx": 3}}'),
        lambda folder: (folder / "reference.npz").write_bytes(b"PK"),
    ],
    ids=["byte-flip", "other-answers", "no-graph", "no-manifest", "empty-manifest", "odd-manifest", "no-npz"],
)
def test_a_broken_version_is_refused_and_the_old_one_goes_on(export, break_it):
    with serve.Server(export) as server:
        broken = serve.write_version(export, 2, SPEC, *weights(2), break_it)
        serve.until(lambda: any("m: version 2 is refused" in line for line in server.lines))
        assert version(server) == "1"
        newest, old = server.get("/v1/models/m")["model_version_status"]
        assert (newest["version"], newest["state"], newest["status"]["error_code"]) == (
            "2",
            "END",
            "FAILED_PRECONDITION",
        )
        assert newest["status"]["error_message"]
        assert (old["version"], old["state"]) == ("1", "AVAILABLE")
        time.sleep(0.7)
        assert sum("version 2 is refused" in line for line in server.lines) == 1, "said once"
        shutil.rmtree(broken)
        serve.write_version(export, 2, SPEC, *weights(2))  # made good
        serve.until(lambda: version(server) == "2")


def test_damage_to_the_served_version_does_not_matter(export):
    serve.write_version(export, 2, SPEC, *weights(2))
    with serve.Server(export) as server:
        flip(export / "2")
        serve.until(lambda: any("version 2 is refused" in line for line in server.lines))
        assert version(server) == "2"


def test_under_load_no_request_fails_and_no_answer_is_mixed(tmp_path):
    found = load.run(tmp_path, seconds=8, every=0.8, connections=4)
    assert found["failed"] == 0
    assert found["wrong"] == 0
    assert found["requests"] > 500
    assert found["versions seen"] >= 5
    assert found["refused"] >= 2


def test_several_models_and_one_that_comes_later(export):
    with serve.Server(export.parent) as server:
        serve.write_version(export.parent / "other", 5, SPEC, *weights(3))
        serve.until(lambda: server.request("GET", "/v2/models/other/ready")[0] == 200)
        assert server.get("/page/models") == ["m", "other"]


# ---- the end


def test_sigterm_answers_what_is_under_way(export):
    with serve.Server(export) as server:
        body = json.dumps(BODY).encode()
        half, idle = server.connect(), server.connect()
        idle.request("GET", "/v2/health/live")
        idle.getresponse().read()
        half.putrequest("POST", "/v1/models/m:predict")
        half.putheader("Content-Length", str(len(body)))
        half.endheaders()
        half.send(body[:10])
        time.sleep(0.2)
        server.process.terminate()
        time.sleep(0.2)
        idle.request("GET", "/v2/health/live")  # a request that crosses the signal
        answer = idle.getresponse()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((server.host, server.port), 5)
        half.send(body[10:])
        answer = half.getresponse()
        assert answer.status == 200
        assert json.loads(answer.read())["predictions"]
        half.close()
        idle.close()
        assert server.process.wait(10) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_under_load_drops_nothing(export, workers):
    server = serve.Server(export, "--workers", workers)
    body, done, failures = json.dumps(BODY), [], []

    def client():
        """Goes on until the server says that it closes; only a refused new connection may end it otherwise."""
        while True:
            connection = server.connect()
            try:
                connection.connect()
            except ConnectionRefusedError:
                return
            try:
                while True:
                    connection.request("POST", "/v1/models/m:predict", body)
                    answer = connection.getresponse()
                    answer.read()
                    done.append(answer.status)
                    if answer.headers.get("connection") == "close":
                        break
            except (http.client.HTTPException, OSError) as error:
                failures.append(error)
                return
            finally:
                connection.close()

    clients = [threading.Thread(target=client) for _ in range(4)]
    for thread in clients:
        thread.start()
    time.sleep(3 if workers > 1 else 1)
    status = server.stop()
    for thread in clients:
        thread.join()
    assert (status, failures, set(done)) == (0, [], {200})
    assert len(done) > 100


# ---- limits


@pytest.fixture(scope="module")
def tight(tmp_path_factory):
    """A server with tight limits."""
    export = tmp_path_factory.mktemp("tight") / "m"
    serve.write_version(export, 1, SPEC, *weights(1))
    with serve.Server(export, "--max-body", 1, "--max-rows", 4, "--timeout", 1) as server:
        yield server


def test_rows_and_bytes(tight):
    tight.post("/v1/models/m:predict", {"instances": [ROW] * 4})
    assert tight.error("POST", "/v1/models/m:predict", {"instances": [ROW] * 5})[0] == 400
    assert tight.error("POST", "/v1/models/m:predict", bytes(2**20 + 1))[0] == 413
    packed = gzip.compress(bytes(2**20 + 1))
    assert tight.error("POST", "/v1/models/m:predict", packed, {"Content-Encoding": "gzip"})[0] == 413
    packed = gzip.compress(bytes(2**20))  # as large as may be, but not JSON
    assert tight.error("POST", "/v1/models/m:predict", packed, {"Content-Encoding": "gzip"})[0] == 400
    chunks = iter([bytes(2**18)] * 5)
    status, error = tight.error("POST", "/v1/models/m:predict", chunks)  # sent in chunks
    assert (status, "larger than" in error) == (413, True)


def raw_request(server, content, wait=5, then=b""):
    """All bytes that come back for these bytes, until the server closes."""
    with socket.create_connection((server.host, server.port), wait) as connection:
        connection.sendall(content)
        if then:
            time.sleep(0.3)
            connection.sendall(then)
        found = b""
        while part := connection.recv(65536):
            found += part
        return found


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", 408),
        (b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", 408),
        (b"GET /v2 HTTP/1.1\r\nHost: ", 408),
        (b"GET /v2 HTTP/1.1\r\n" + b"x: y\r\n" * 20_000, 431),
        (b"not http\r\n\r\n", 400),
        (b"GET /v2 HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /v2 HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ],
    ids=["body", "chunk", "head", "large head", "not http", "negative", "smuggled", "bad chunk", "tls"],
)
def test_slow_and_odd_http(tight, content, status):
    head, _, body = raw_request(tight, content).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert list(json.loads(body)) == ["error"]
    assert version(tight) == "1"


def test_a_connection_that_says_nothing_is_closed(tight):
    begin = time.perf_counter()
    assert raw_request(tight, b"") == b""
    assert time.perf_counter() - begin < 3


# ---- keys and addresses


KEY = "correct-horse-battery"


def test_keys(export, tmp_path):
    (tmp_path / "keys").write_text(f"\nold-key-old-key-old\n{KEY}\n")
    with serve.Server(export, "--api-key-file", tmp_path / "keys", "--host", "0.0.0.0") as server:
        for headers in (
            {},
            {"Authorization": KEY},
            {"Authorization": f"Basic {KEY}"},
            {"Authorization": f"Bearer {KEY}x"},
            {"Authorization": "Bearer "},
            {"Authorization": "Bearer \xff"},
        ):
            for method, path in (("POST", "/v1/models/m:predict"), ("GET", "/metrics"), ("GET", "/page/models")):
                status, found, _ = server.request(method, path, headers=headers)
                assert (status, found["www-authenticate"]) == (401, "Bearer")
        for path in ("/v2/health/ready", "/v2/health/live", "/"):
            assert server.request("GET", path)[0] == 200
        for key in (KEY, "old-key-old-key-old"):
            assert server.post("/v1/models/m:predict", BODY, {"Authorization": f"Bearer {key}"})


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--host", "0.0.0.0"], "give --api-key-file FILE, or --insecure"),
        (["--host", "::"], "give --api-key-file FILE, or --insecure"),
        (["--host", "no such host"], "no name or address"),
        (["--api-key-file", "EMPTY"], "holds no key"),
        (["--api-key-file", "SHORT"], "16 or more are needed"),
        (["--api-key-file", "NOTHING"], "cannot read the keys"),
        (["--timeout", "0"], "--timeout must be a finite number above 0"),
        (["--max-rows", "0"], "--max-rows"),
        (["OTHER"], "there is no export in"),
        (["TWIN"], "two exports are called 'm'"),
        (["BROKEN"], "model 'b' cannot be served"),
        (["m/1"], "there is no export in"),
    ],
)
def test_what_cannot_be_served(export, tfsoftmax_cli, tmp_path, arguments, text):
    (tmp_path / "EMPTY").write_text("\n")
    (tmp_path / "SHORT").write_text("abc\n")
    (tmp_path / "OTHER").mkdir()
    serve.write_version(tmp_path / "TWIN" / "m", 1, SPEC, *weights(1))
    serve.write_version(tmp_path / "BROKEN" / "b", 1, SPEC, *weights(1), flip)
    named = [str(tmp_path / word) if (tmp_path / word).exists() else word for word in arguments]
    status, out, err = tfsoftmax_cli("serve", export, *named)
    assert (status, out) == (2, "")
    assert text in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("error: ")


def test_a_port_in_use(export, server, tfsoftmax_cli):
    status, _, err = tfsoftmax_cli("serve", export, "--port", server.port)
    assert (status, "cannot listen on 127.0.0.1" in err) == (2, True)


# ---- figures and log


def counted(server, name, **labels):
    text = server.request("GET", "/metrics")[2].decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_metrics(export, workers):
    with serve.Server(export, "--workers", workers) as server:
        for _ in range(20):  # a connection each: both workers get some
            server.post("/v1/models/m:predict", {"instances": [ROW] * 3})
        for _ in range(5):
            server.error("POST", "/v1/models/m:predict", {})
        server.error("POST", "/v1/models/nothing:predict", {})
        assert counted(server, "tfsoftmax_requests_total", model="m", verb="predict", code="200") == 20
        assert counted(server, "tfsoftmax_requests_total", model="m", verb="predict", code="400") == 5
        assert counted(server, "tfsoftmax_requests_total", model="", verb="predict", code="404") == 1
        assert counted(server, "tfsoftmax_errors_total") == 6
        assert counted(server, "tfsoftmax_request_seconds_count", model="m", verb="predict") == 25
        assert counted(server, "tfsoftmax_batch_rows_sum", model="m") == 60
        assert counted(server, "tfsoftmax_batch_rows_bucket", model="m", le="2.0") == 0
        assert counted(server, "tfsoftmax_batch_rows_bucket", model="m", le="4.0") == 20
        serve.write_version(export, 2, SPEC, *weights(2))
        serve.until(lambda: counted(server, "tfsoftmax_served_version", model="m") == 2)


def test_a_worker_that_dies_is_replaced(export):
    with serve.Server(export, "--workers", 2) as server:
        version(server)
        workers = {
            child.pid
            for child in psutil.Process(server.process.pid).children()
            if any("spawn_main" in word for word in child.cmdline())
        }
        victim = workers.pop()
        os.kill(victim, signal.SIGKILL)

        def replaced():
            found = {child.pid for child in psutil.Process(server.process.pid).children()}
            return victim not in found and len(found - workers) >= 1

        serve.until(replaced)
        serve.until(lambda: any("a worker ended (-9)" in line for line in server.lines))
        for _ in range(20):
            assert version(server) == "1"


def test_access_log_is_json_and_off_by_default(export, server):
    assert server.output == []
    with serve.Server(export, "--access-log") as logged:
        logged.post("/v1/models/m:predict", {"instances": [ROW] * 2})
        logged.error("GET", "/nothing")
        assert logged.stop() == 0
    first, second = map(json.loads, logged.output)
    assert {key: first[key] for key in ("method", "path", "status", "model", "version", "rows", "client")} == {
        "method": "POST",
        "path": "/v1/models/m:predict",
        "status": 200,
        "model": "m",
        "version": "1",
        "rows": 2,
        "client": "127.0.0.1",
    }
    assert first["milliseconds"] > 0
    assert (second["path"], second["status"]) == ("/nothing", 404)
