"""The app on Ray Serve: two replicas, one of which is killed under load."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time

import psutil
import pytest
import serve
from conftest import SHAPE

CONFIG = """
proxy_location: HeadOnly
http_options:
  host: 127.0.0.1
  port: {port}
applications:
- name: softmax
  route_prefix: /
  import_path: tfsoftmax.serving.ray:app
  runtime_env: {{}}
  deployments:
  - name: Softmax
    num_replicas: 2
    health_check_period_s: 1
    ray_actor_options: {{num_cpus: 0.1}}
"""


@pytest.fixture
def cluster(served, tmp_path):
    """A Ray of its own with the app in two replicas."""
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "config.yaml").write_text(CONFIG.format(port=port))
    environment = os.environ | {
        "TFSOFTMAX_SERVE": json.dumps({"exports": [str(served)]}),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ADDRESS": "local",
    }
    command = [os.path.join(os.path.dirname(sys.executable), "serve"), "run", str(tmp_path / "config.yaml")]
    log = open(tmp_path / "log", "w")  # noqa: SIM115
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process, port, tmp_path / "log"
    finally:
        family = [process, *psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
        for member in family:  # how Ray ends is not ours to test, and takes half a minute
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()
        log.close()


class Remote(serve.Server):
    """Talks to a server that something else started."""

    def __init__(self, port):
        self.host, self.port = "127.0.0.1", port


def replicas(process):
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended while we looked, or is a zombie
            if "ServeReplica" in " ".join(child.cmdline()):
                found.append(child)
    return found


@pytest.mark.slow
def test_two_replicas_and_one_is_killed_under_load(cluster, predictor):
    import numpy as np

    process, port, log = cluster
    remote = Remote(port)

    def ready():
        assert process.poll() is None, log.read_text()
        try:
            return remote.request("GET", "/v2/health/ready")[0] == 200 and len(replicas(process)) == 2
        except OSError:
            return False

    serve.until(ready, 90)
    raw = np.random.default_rng(9).integers(0, 256, (2, *SHAPE)).astype(np.uint8)
    wanted = predictor["tiny"](raw)["logits"].tolist()
    body = json.dumps({"instances": raw.tolist()})
    assert remote.error("POST", "/v1/models/tiny:predict", {})[0] == 400
    statuses, wrong, stop = [], [], threading.Event()

    def client():
        while not stop.is_set():
            status, _, answer = remote.request("POST", "/v1/models/tiny:predict", body)
            statuses.append((time.perf_counter(), status))
            if status == 200 and [row["logits"] for row in json.loads(answer)["predictions"]] != wanted:
                wrong.append(answer)

    clients = [threading.Thread(target=client) for _ in range(4)]
    for thread in clients:
        thread.start()
    time.sleep(2)
    victim = replicas(process)[0]
    killed = time.perf_counter()
    victim.kill()
    serve.until(lambda: len(replicas(process)) == 2 and victim.pid not in [p.pid for p in replicas(process)], 60)
    time.sleep(2)
    stop.set()
    for thread in clients:
        thread.join()
    assert wrong == []
    failed = [(when - killed, status) for when, status in statuses if status != 200]
    print(len(statuses), "requests;", len(failed), "failed:", failed)
    assert len(failed) <= len(clients), "no more than what the dead replica had in hand"
    assert all(after > -0.1 for after, _ in failed)
    assert sum(when > killed + 1 for when, _ in statuses) > 20, "the other one goes on meanwhile"
