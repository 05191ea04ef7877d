"""Versions and models that come, go, break, and are linked."""

import concurrent.futures
import dataclasses
import json
import shutil
import threading
import time

import load
import numpy as np
import pytest
import serve
from serve import BODY, SPEC, version, weights

import tfsoftmax
from tfsoftmax.exporting import manifest
from tfsoftmax.exporting.reference import Reference
from tfsoftmax.serving.app import create_app
from tfsoftmax.serving.models import Models
from tfsoftmax.serving.settings import Settings


def test_a_new_version_is_served_within_a_second_and_a_rollback_too(export):
    with serve.Server(export) as server:
        assert version(server) == "1"
        new = serve.write_version(export, 2, SPEC, *weights(2))
        serve.until(lambda: version(server) == "2")
        assert server.error("POST", "/v1/models/m/versions/1:predict", BODY)[0] == 404
        logits = server.post("/v1/models/m:predict", BODY)["predictions"][0]["logits"]
        np.testing.assert_allclose(logits, weights(2)[1], atol=1e-6)
        shutil.rmtree(new)
        serve.until(lambda: version(server) == "1")
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
        # the line comes just before the state is shown
        serve.until(lambda: server.get("/v1/models/m")["model_version_status"][0]["state"] == "END")
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
    assert found["calls"] > 100
    assert found["versions seen over gRPC"] >= 5
    assert found["versions seen"] >= 5
    assert found["refused"] >= 2


def test_several_models_and_one_that_comes_later(export):
    with serve.Server(export.parent) as server:
        serve.write_version(export.parent / "other", 5, SPEC, *weights(3))
        serve.until(lambda: server.request("GET", "/v2/models/other/ready")[0] == 200)
        assert server.get("/page/models") == ["m", "other"]


def another_shape(folder):
    """Whole by its manifest, but the graph does not run on what the spec says."""
    other = tfsoftmax.ModelSpec("tiny", (7, 5), "uint8", SPEC.classes, "unit", 0.0, 1 / 255)
    manifest.write(folder, {"spec": dataclasses.asdict(other)})
    (folder / "reference.npz").unlink()
    manifest.write(folder, {"spec": dataclasses.asdict(other)})


@pytest.mark.parametrize("break_it", [another_shape, lie, flip])
def test_a_version_that_fails_stops_nobody(export, break_it):
    """Neither the start, where an older one is good, nor the look at the models after it."""
    other = export.parent / "z"
    serve.write_version(other, 1, SPEC, *weights(1))
    serve.write_version(export, 2, SPEC, *weights(2), break_it)
    with serve.Server(export, other) as server:
        assert version(server) == "1"
        serve.write_version(export, 3, SPEC, *weights(3), break_it)
        serve.write_version(other, 2, SPEC, *weights(2))
        serve.until(lambda: server.get("/v2/models/z")["versions"] == ["2"])
        time.sleep(0.7)
        said = [line for line in server.lines if "m: version" in line]
        assert [line.split("m: ")[1].split(":")[0] for line in said] == [
            "version 2 is refused",
            "version 1 is served",
            "version 3 is refused",
        ], "each once, in one line"
        assert not any("Traceback" in line for line in server.lines)
        shutil.rmtree(export / "3")
        serve.write_version(export, 3, SPEC, *weights(3))
        serve.until(lambda: version(server) == "3")


def test_a_link_is_served_under_its_own_name(export):
    """As `ln -s` and Kubernetes make them; where it points to later counts."""
    folder = export.parent
    serve.write_version(folder / "m_v8", 1, SPEC, *weights(2))
    (folder / "shop").symlink_to("m")
    with serve.Server(folder / "shop") as server:
        assert server.get("/v1/models") == {"models": ["shop"]}
        (folder / "next").symlink_to("m_v8")
        (folder / "next").replace(folder / "shop")
        wanted = weights(2)[1]

        def switched():
            logits = server.post("/v1/models/shop:predict", BODY)["predictions"][0]["logits"]
            return np.allclose(logits, wanted, atol=1e-6)

        serve.until(switched)
        assert server.get("/v1/models") == {"models": ["shop"]}


def names(*exports):
    return sorted(Models(Settings(tuple(map(str, exports)))).shown.current)


def test_names(export, monkeypatch):
    folder = export.parent
    assert names(folder) == ["m"]
    (folder / "link").symlink_to("m")
    assert names(folder) == ["link", "m"]
    assert names(f"shop={export}", f"other={export}") == ["other", "shop"]
    monkeypatch.chdir(export)
    assert names(".") == ["m"]
    export.rename(folder / "x=y")
    assert names(folder / "x=y") == ["x=y"], "a folder that is there is meant itself"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("shop=NOTHING", "there is no export in 'NOTHING'"),
        ("={m}", "must not be empty"),
        ("a/b={m}", "must not be empty"),
        ("a:b={m}", "cannot be part of a path"),
    ],
)
def test_names_that_cannot_be(export, given, text):
    with pytest.raises(tfsoftmax.InputError, match=text):
        names(given.format(m=export))


def test_a_name_with_quotes_is_json(export):
    name = 'say "m"\\'
    app = create_app(Settings((f"{name}={export}",)))
    for path in ("/ready", "", "/config", "/stats"):
        status, _, body = serve.ask(app, "GET", f"/v2/models/{name}{path}")
        found = json.loads(body)
        assert (status, found.get("name") or found["model_stats"][0]["name"]) == (200, name)


def test_states_do_not_change_under_a_reader(export):
    """What a request has begun to read stays as it is, whatever is found on disk meanwhile."""
    models = Models(Settings((str(export),)))
    shown, over = models.shown, threading.Event()
    before = {name: dict(states) for name, states in shown.states.items()}

    def read():
        while not over.is_set():
            for _ in models.shown.states["m"].items():
                time.sleep(0.0001)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        for number in range(2, 8):
            serve.write_version(export, number, SPEC, *weights(number), flip)
            models.refresh()
        over.set()
        reader.result()
    assert shown.states == before
    assert sorted(models.shown.states["m"]) == [1, 2, 3, 4, 5, 6, 7]
