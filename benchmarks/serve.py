"""Requests a second on loopback: `tfsoftmax serve`, the smallest possible handler, Triton, KServe's SDK, MLServer.

HTTP is asked by wrk and gRPC by h2load, since a loop of grpcio's client takes as much of the processor as a server.
That calls over gRPC were answered is seen from the bytes received: an error has no message.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil

from benchmarks import common
from tfsoftmax.serving import protos

ROUNDS = 3  # the whole list so often, so that a disturbance does not hit one case alone
SECONDS = 2  # each time, after one of warm-up
SERVERS = {
    "tfsoftmax": ("serve_ours", ("v1", "v2", "binary", "grpc")),
    "smallest handler": ("serve_minimal", ("v1",)),
    "Triton, Python": ("serve_triton", ("v2", "binary", "grpc")),
    "KServe SDK": ("serve_kserve", ("v1", "binary")),
    "MLServer": ("serve_mlserver", ("v2",)),
}
PATHS = {
    "v1": "/v1/models/fashion_mnist:predict",
    "v2": "/v2/models/fashion_mnist/infer",
    "binary": "/v2/models/fashion_mnist/infer",
}
METHOD = "/inference.GRPCInferenceService/ModelInfer"
WORDS = {"v1": "JSON (v1)", "v2": "JSON (v2)", "binary": "binary", "grpc": "gRPC"}
# (rows, connections)
LOADS = [(1, 1), (1, 8), (64, 1), (64, 8)]


def main(threads: int, only: str) -> None:
    """Run all cases, print the table, write ``results/serve.json`` and ``results/serve.png``."""
    for program, package in (("wrk", "wrk"), ("h2load", "nghttp2-client")):
        if shutil.which(program) is None:
            raise SystemExit(f"error: {program} is needed: apt-get install {package}")
    found: dict[tuple[str, str, int, int], list[dict[str, float]]] = {}
    missing: dict[str, str] = {}
    starts: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        export = _export(Path(folder))
        _requests(Path(folder))
        for _ in range(ROUNDS):
            for name, (peer, forms) in SERVERS.items():
                if only not in name or name in missing:
                    continue
                try:
                    with _server(peer, export, forms[0], Path(folder)) as (ports, start):
                        starts.setdefault(name, []).append(start)
                        for form in forms:
                            for rows, connections in LOADS:
                                ask = functools.partial(_ask, ports, form, rows, connections, Path(folder))
                                ask(1)
                                result = ask(SECONDS)
                                found.setdefault((name, form, rows, connections), []).append(result)
                except common.Missing as error:
                    missing[name] = str(error)
                    print(f"{name}: {error}")
    rows = [_median(key, results) for key, results in found.items()]
    _print(rows)
    begun = {name: {key: statistics.median(s[key] for s in all_) for key in all_[0]} for name, all_ in starts.items()}
    for name, start in begun.items():
        print(f"{name:<18} first answer after {start['seconds']:.2f} s, {start['mb']:.0f} MB resident after the load")
    if not only:
        result = {"machine": common.machine(threads), "rows": rows, "starts": begun, "missing": missing}
        common.write("serve", result)
        _chart(rows)


def _export(folder: Path) -> Path:
    """A model of Fashion-MNIST, trained and exported in a process of its own."""
    program = f"""
import tfsoftmax
data = tfsoftmax.FashionMNIST(batch_size=256)
model = tfsoftmax.SoftmaxRegression(num_outputs=10, lr=0.1)
model.fit(data.train, epochs=2, verbose=0)
rows = data.val.rows
tfsoftmax.export(model, data.spec, {str(folder / "fashion_mnist")!r}, rows=rows.x, labels=rows.y)
import numpy
numpy.save({str(folder / "rows.npy")!r}, rows.x[:64])
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    return folder / "fashion_mnist"


def _requests(folder: Path) -> None:
    """One body a form and a number of rows, with a script for wrk where that is HTTP's."""
    images = np.load(folder / "rows.npy")
    for rows in sorted({rows for rows, _ in LOADS}):
        x = images[:rows]
        tensor = {"name": "image", "shape": list(x.shape), "datatype": "UINT8"}
        head = {"inputs": [{**tensor, "parameters": {"binary_data_size": x.nbytes}}]}
        binary = json.dumps({**head, "parameters": {"binary_data_output": True}}).encode()
        forms = {
            "v1": (json.dumps({"instances": x.tolist()}).encode(), {"Content-Type": "application/json"}),
            "v2": (
                json.dumps({"inputs": [{**tensor, "data": x.ravel().tolist()}]}).encode(),
                {"Content-Type": "application/json"},
            ),
            "binary": (
                binary + x.tobytes(),
                {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(binary))},
            ),
        }
        message = protos.message("inference.ModelInferRequest")(
            model_name="fashion_mnist",
            inputs=[{"name": "image", "datatype": "UINT8", "shape": x.shape}],
            raw_input_contents=[x.tobytes()],
        )
        (folder / f"grpc-{rows}.body").write_bytes(message.SerializeToString())
        for form, (body, headers) in forms.items():
            (folder / f"{form}-{rows}.body").write_bytes(body)
            lines = [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()]
            (folder / f"{form}-{rows}.lua").write_text(
                f'wrk.method = "POST"\nlocal file = io.open("{folder}/{form}-{rows}.body", "rb")\n'
                'wrk.body = file:read("*a")\nfile:close()\n' + "\n".join(lines) + "\n"
            )


@contextlib.contextmanager
def _server(peer: str, export: Path, form: str, folder: Path) -> Iterator[tuple[tuple[int, int], dict[str, float]]]:
    """Start a server; gives its ports, HTTP's and gRPC's, and its seconds to the first answer and its memory.

    The latter are filled in as they are known; the memory is that of all its processes.
    """
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        port, grpc_port = (free.getsockname()[1] for free in (one, other))
    case = {"export": str(export), "onnx": str(export / "1" / "model.onnx"), "port": port, "grpc_port": grpc_port}
    case["folder"] = str(folder)
    command = [common.python_of(peer), common.HERE / "peers" / f"{peer}.py", json.dumps(case)]
    environment = {name: value for name, value in os.environ.items() if name not in common.SLOWING}
    body = (folder / f"{form}-1.body").read_bytes()
    begin = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment | {"PYTHONPATH": ""})
        try:
            request = urllib.request.Request(f"http://127.0.0.1:{port}{PATHS[form]}", body)
            request.add_header("Content-Type", "application/json")
            while True:
                try:
                    urllib.request.urlopen(request, timeout=5).read()
                    break
                except (urllib.error.URLError, OSError) as error:
                    if process.poll() is not None or time.perf_counter() - begin > 60:
                        log.seek(0)
                        why = log.read().decode(errors="replace").strip().splitlines() or [str(error)]
                        raise common.Missing(f"did not start: {why[-1]}") from error
                    time.sleep(0.02)
            start = {"seconds": time.perf_counter() - begin}
            try:
                yield (port, grpc_port), start
            finally:  # also where a form of requests is not answered
                all_ = psutil.Process(process.pid)
                start["mb"] = sum(each.memory_info().rss for each in (all_, *all_.children(recursive=True))) / 2**20
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _ask(
    ports: tuple[int, int], form: str, rows: int, connections: int, folder: Path, seconds: int
) -> dict[str, float]:
    """Requests a second and their p99."""
    if form == "grpc":
        return _h2load(ports[1], folder / f"grpc-{rows}.body", connections, seconds)
    return _wrk(ports[0], form, folder / f"{form}-{rows}.lua", connections, seconds)


def _wrk(port: int, form: str, script: Path, connections: int, seconds: int) -> dict[str, float]:
    url = f"http://127.0.0.1:{port}{PATHS[form]}"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--latency", "-s", str(script), url]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        raise common.Missing(f"{form} was not answered: {text.strip().splitlines()[-3]}")
    number, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", text).groups()
    per_second = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])
    return {"requests": per_second, "p99_ms": float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]}


def _h2load(port: int, body: Path, connections: int, seconds: int) -> dict[str, float]:
    message, address = body.read_bytes(), f"127.0.0.1:{port}"
    with grpc.insecure_channel(address) as channel:
        try:
            answer = channel.unary_unary(METHOD)(message, wait_for_ready=True, timeout=30)
        except grpc.RpcError as error:
            raise common.Missing(f"gRPC was not answered: {error.details()}") from error
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "frame").write_bytes(struct.pack(">BI", 0, len(message)) + message)
        command = ["h2load", "-t1", f"-c{connections}", "-m1", f"-D{seconds}", f"--log-file={folder}/log"]
        command += ["-d", f"{folder}/frame", "-H", "content-type: application/grpc", "-H", "te: trailers"]
        text = subprocess.run(
            [*command, f"http://{address}{METHOD}"], capture_output=True, text=True, check=True
        ).stdout
        took = [int(line.split()[2]) for line in Path(folder, "log").read_text().splitlines()]
    received = int(re.search(r"\((\d+)\) data", text)[1])
    if len(took) * (5 + len(answer)) > received:  # an error has no message; calls under way at the end may have one
        raise common.Missing(f"not all calls over gRPC were answered:\n{text}")
    return {"requests": len(took) / seconds, "p99_ms": sorted(took)[int(len(took) * 0.99)] / 1000}


def _median(key: tuple[str, str, int, int], results: list[dict[str, float]]) -> dict[str, Any]:
    name, form, rows, connections = key
    values = {field: statistics.median(result[field] for result in results) for field in results[0]}
    spread = [min(r["requests"] for r in results), max(r["requests"] for r in results)]
    return {"name": name, "form": form, "rows": rows, "connections": connections, **values, "spread": spread}


def _print(rows: list[dict[str, Any]]) -> None:
    smallest = {(r["rows"], r["connections"]): r["requests"] for r in rows if r["name"] == "smallest handler"}
    print(f"{'':<18}{'form':<8}{'rows':>5}{'conn.':>6}{'requests/s':>12}{'rows/s':>10}{'p99 ms':>8}{'of smallest':>13}")
    for r in sorted(rows, key=lambda r: (r["rows"], r["connections"])):
        base = smallest.get((r["rows"], r["connections"]))
        share = f"{r['requests'] / base:>13.2f}" if base else ""
        print(
            f"{r['name']:<18}{r['form']:<8}{r['rows']:>5}{r['connections']:>6}{r['requests']:>12,.0f}"
            f"{r['requests'] * r['rows']:>10,.0f}{r['p99_ms']:>8.2f}{share}"
        )


def _chart(rows: list[dict[str, Any]]) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, size in zip(axes, (1, 64), strict=True):
        shown = [r for r in rows if r["rows"] == size and r["connections"] == 8][::-1]
        colours = ["#0b6e4f" if r["name"] == "tfsoftmax" else "#9db4c0" for r in shown]
        labels = [f"{r['name']}, {WORDS[r['form']]}" for r in shown]
        bars = axis.barh(labels, [r["requests"] * size for r in shown], color=colours)
        axis.bar_label(bars, [f"{r['requests'] * size:,.0f}" for r in shown], padding=3)
        axis.set_xlim(0, max(r["requests"] * size for r in shown) * 1.25)
        axis.set_title(f"{size} image{'s' * (size > 1)} a request")
        axis.set_xlabel("images a second")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(common.RESULTS / "serve.png", dpi=110)
