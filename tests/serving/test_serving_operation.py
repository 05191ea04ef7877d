"""Operation: the start, the end, keys, metrics, workers, the access log."""

import http.client
import json
import os
import shutil
import signal
import socket
import threading
import time

import psutil
import pytest
import serve
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.parser import text_string_to_metric_families
from serve import BODY, ROW, SPEC, version, weights
from test_serving_versions import flip

from tfsoftmax.errors import InputError
from tfsoftmax.serving import metrics
from tfsoftmax.serving.app import create_app
from tfsoftmax.serving.rate import Rate
from tfsoftmax.serving.settings import Settings

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


def test_on_loopback_other_names_need_a_key_or_a_word(export, tmp_path):
    """A page may let its own name point here (DNS rebinding)."""
    (tmp_path / "keys").write_text(KEY)
    other = {"Host": "evil.example"}
    with serve.Server(export) as server:
        assert server.request("GET", "/v1/models/m")[0] == 200
        status, text = server.error("POST", "/v1/models/m:predict", BODY, other)
        assert (status, text.partition(":")[0]) == (421, "this server answers for 127.0.0.1, not for 'evil.example'")
    with serve.Server(export, "--api-key-file", tmp_path / "keys") as server:
        assert server.request("GET", "/v1/models/m", headers=other | {"Authorization": f"Bearer {KEY}"})[0] == 200
    with serve.Server(export, "--insecure") as server:
        assert server.request("GET", "/v1/models/m", headers=other)[0] == 200


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_right_after_the_start(export, workers):
    for _ in range(3):
        with serve.Server(export, "--workers", workers) as server:
            server.process.terminate()  # when the line has been read that says where it serves
            assert server.process.wait(60) == 0


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
        (["--host", "no such host"], "not a name or address"),
        (["--api-key-file", "EMPTY"], "holds no key"),
        (["--api-key-file", "SHORT"], "16 or more are needed"),
        (["--api-key-file", "NOTHING"], "cannot read the keys"),
        (["--timeout", "0"], "--timeout must be a finite number above 0"),
        (["--max-rows", "0"], "--max-rows"),
        (["OTHER"], "there is no export in"),
        (["TWIN"], "two exports are called 'm'"),
        (["BROKEN"], "model 'b' cannot be served"),
        (["m/1"], "is one version of an export"),
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


def test_a_port_in_use_is_reported_before_anything_is_loaded(export, server, tfsoftmax_cli):
    status, _, err = tfsoftmax_cli("serve", export, "--port", server.port)
    assert (status, "cannot listen on 127.0.0.1" in err) == (2, True)
    assert "is served" not in err


def test_settings_from_the_environment(monkeypatch):
    for text in ("x", '{"exports": "x"}', '{"exports": ["x"]}'):
        monkeypatch.setenv("TFSOFTMAX_SERVE", text)
        assert Settings.from_environment().exports == ("x",)
    for text, named in [
        ('{"exports": 3}', "exports must be a string or a list"),
        ('{"exports": [3]}', "exports must be a string or a list"),
        ('{"exports": []}', "nothing to serve"),
        ('{"exports": "x", "api_keys": {"a": 1}}', "api_keys must be"),
        ('{"exports": "x", "timeout": "9"}', "--timeout"),
        ('{"exports": "x", "access_log": "no"}', "access_log must be true or false"),
        ('{"exports": "x", "allow_origins": "app.example"}', "is not one: expected"),
        ('{"exports": "x", "export": 1}', "unexpected keyword argument 'export'"),
        ('{"exports": ', "holds no settings"),
    ]:
        monkeypatch.setenv("TFSOFTMAX_SERVE", text)
        with pytest.raises(InputError, match=named):
            Settings.from_environment()


def test_rate(export):
    """Of each key: as many at once as a second may have, then at an even pace."""
    other = "another-key-of-somebody"
    app = create_app(Settings((str(export),), api_keys=(KEY, other), rate=0.01))

    def ask(key, path="/v1/models/m"):
        return serve.ask(app, "GET", path, {"Authorization": f"Bearer {key}"})

    assert ask(KEY)[0] == 200
    status, headers, body = ask(KEY)
    assert (status, 0 < int(headers["retry-after"]) <= 100) == (429, True)
    assert "more than 0.01 requests a second with this key" in body.decode()
    assert ask(other)[0] == ask("", "/v2/health/ready")[0] == 200
    assert ask("wrong")[0] == 401
    rate = Rate(2)
    assert [now for now in range(0, 3000, 100) if not rate.wait(b"", now / 1000)] == [0, 100, *range(500, 3000, 500)]
    slow = Rate(0.1)
    assert [slow.wait(b"", now) for now in (0, 4, 10)] == [0, 6, 0]
    with pytest.raises(InputError, match="--rate 2 is per key: give --api-key-file FILE too"):
        Settings((str(export),), rate=2)
    with pytest.raises(InputError, match="--concurrency 4 is per key: give --api-key-file FILE too"):
        Settings((str(export),), concurrency=4)
    with pytest.raises(InputError, match="--concurrency"):
        Settings((str(export),), api_keys=(KEY,), concurrency=0)


def test_keys_are_not_shown():
    assert KEY not in repr(Settings(("x",), api_keys=(KEY,)))


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


def test_metrics_while_a_worker_makes_its_file(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    counter = MmapedDict(tmp_path / "counter_1.db")
    counter.write_value(mmap_key("made", "made_total", [], [], "Made here."), 3.0, 0.0)
    counter.close()
    (tmp_path / "counter_2.db").touch()
    assert b"\nmade_total 3.0\n" in metrics.page()[0]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_refused_version_is_counted_once(export, workers):
    serve.write_version(export, 2, SPEC, *weights(2), flip)
    with serve.Server(export, "--workers", workers) as server:
        assert version(server) == "1"
        assert counted(server, "tfsoftmax_refused_versions", model="m") == 1
        (export / "2").rename(export / "not 2")
        serve.until(lambda: counted(server, "tfsoftmax_refused_versions", model="m") == 0)


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit")
def test_workers_need_no_folder_that_can_be_written(export):
    with serve.Server(export, "--workers", 2, wrapper=["prlimit", "--fsize=0"]) as server:
        assert version(server) == "1"
        assert any("/metrics shows only the figures of the worker that answers" in line for line in server.lines)
        assert counted(server, "tfsoftmax_served_version", model="m") == 1
        assert server.stop() == 0


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
