"""Load over HTTP and gRPC on a server whose versions change: `python tests/load.py --seconds 120 --every 5`."""

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc
import msgspec
import numpy as np
import serve
from calls import V2
from calls import infer as infer_request
from tritonclient.grpc import service_pb2

import tfsoftmax

SHAPE, CLASSES = (28, 28), tuple(f"class {i}" for i in range(10))
SPEC = tfsoftmax.ModelSpec("made", SHAPE, "uint8", CLASSES, "unit", 0.0, 1 / 255)
KEPT = 3  # version folders that are left


def weights(version):
    rng = np.random.default_rng(version)
    return rng.normal(size=(784, 10)).astype(np.float32), rng.normal(size=10).astype(np.float32)


def flip(folder):
    """One bit of the graph is another."""
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)


async def client(server, request, answers, found, stop):
    """Requests one after the other on one connection; each answer must be, to the byte, one of ``answers``."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    while not stop.is_set():
        writer.write(request)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError, IndexError):
            found["failed"] += 1
            reader, writer = await asyncio.open_connection(server.host, server.port)
            continue
        found["requests"] += 1
        if not head.startswith(b"HTTP/1.1 200 "):
            found["failed"] += 1
        elif body in answers:
            found["seen"].add(answers[body])
        else:
            found["wrong"] += 1
    writer.close()


async def grpc_client(server, image, answers, found, stop):
    """The same over gRPC: the version that an answer names must be that of its tensors."""
    async with grpc.aio.insecure_channel(server.grpc, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        method = channel.unary_unary(f"{V2}ModelInfer", response_deserializer=service_pb2.ModelInferResponse.FromString)
        request = infer_request(image).SerializeToString()
        while not stop.is_set():
            try:
                answer = await method(request, timeout=30)
            except grpc.RpcError:
                found["failed"] += 1
                continue
            found["calls"] += 1
            version = answers.get(tuple(answer.raw_output_contents))
            if version is not None and answer.model_version == str(version):
                found["seen over gRPC"].add(version)
            else:
                found["wrong"] += 1


def run(folder, seconds, every, connections, wrk=False):
    """A new version every ``every`` seconds and a broken one in between; what was found."""
    export = Path(folder) / "m"
    versions = list(range(1, 2 * int(seconds / every) + 3, 2))
    serve.write_version(export, 1, SPEC, *weights(1))
    image = np.random.default_rng(0).integers(0, 256, (1, *SHAPE)).astype(np.uint8)
    body = json.dumps({"instances": image.tolist()}).encode()
    request = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (
        len(body),
        body,
    )
    found = {"requests": 0, "calls": 0, "failed": 0, "wrong": 0, "seen": set(), "seen over gRPC": set(), "memory": []}
    # what each version must answer, from a predictor of its own
    answers, tensors = {}, {}
    with tempfile.TemporaryDirectory() as other:
        for version in versions:
            made = serve.write_version(Path(other) / "m", version, SPEC, *weights(version))
            values = tfsoftmax.Predictor(made)(image)
            answer = {name: value.tolist() for name, value in values.items()}
            order = ("logits", "probabilities", "class_id", "label")
            expected = {"predictions": [{name: answer[name][0] for name in order}]}
            label = str(answer["label"][0]).encode()
            raw = [values[name].tobytes() for name in order[:-1]]
            tensors[(*raw, len(label).to_bytes(4, "little") + label)] = version
            answers[msgspec.json.encode(expected)] = version  # floats in the form in which the server prints them

    async def drive(server):
        stop = asyncio.Event()
        clients = [client(server, request, answers, found, stop) for _ in range(connections)]
        clients += [grpc_client(server, image, tensors, found, stop) for _ in range(connections)]
        clients = [asyncio.create_task(each) for each in clients]
        for version in versions[1:]:
            await asyncio.sleep(every / 2)
            await asyncio.to_thread(serve.write_version, export, version - 1, SPEC, *weights(version - 1), flip)
            found["memory"].append(server.memory())
            await asyncio.sleep(every / 2)
            await asyncio.to_thread(serve.write_version, export, version, SPEC, *weights(version))
            for old in sorted(export.iterdir(), key=lambda path: path.name.zfill(9))[:-KEPT]:
                shutil.rmtree(old)
        await asyncio.sleep(1)
        stop.set()
        await asyncio.gather(*clients)

    with serve.Server(export, "--grpc-port", 0) as server:
        process = None
        if wrk:
            script = Path(folder) / "wrk.lua"
            (Path(folder) / "body").write_bytes(body)
            script.write_text(
                f'wrk.method = "POST"\nlocal file = io.open("{folder}/body", "rb")\nwrk.body = file:read("*a")\n'
            )
            command = [
                "wrk",
                "-t1",
                "-c6",
                f"-d{seconds}",
                "--latency",
                "-s",
                script,
                f"{server.url}/v1/models/m:predict",
            ]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        asyncio.run(drive(server))
        if process:
            found["wrk"] = process.communicate()[0]
        found["memory"].append(server.memory())
        found["refused"] = sum("is refused" in line for line in server.lines)
    found["versions"] = len(versions)
    found["versions seen"] = len(found.pop("seen"))
    found["versions seen over gRPC"] = len(found.pop("seen over gRPC"))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--every", type=float, default=5)
    parser.add_argument("--connections", type=int, default=2, help="of each protocol, beside wrk's six")
    arguments = parser.parse_args()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = run(folder, arguments.seconds, arguments.every, arguments.connections, wrk=bool(shutil.which("wrk")))
    found["seconds"] = round(time.perf_counter() - begin, 1)
    memory = found.pop("memory")
    warm = memory[len(memory) // 6]
    print(found.pop("wrk", "wrk is not installed"))
    print("memory, MB:", *(f"{value:.1f}" for value in memory), f"growth {memory[-1] / warm - 1:+.2%}")
    print(found)
    sys.exit(found["failed"] + found["wrong"] > 0)


if __name__ == "__main__":
    main()
