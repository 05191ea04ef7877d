"""A good client while 64 hostile requests come at once: `python tests/flood.py` prints what it sees of each kind."""

import base64
import concurrent.futures
import gzip
import io
import json
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import serve
from PIL import Image

import tfsoftmax

SHAPE, CLASSES = (28, 28), tuple(f"class {i}" for i in range(10))
SPEC = tfsoftmax.ModelSpec("made", SHAPE, "uint8", CLASSES, "unit", 0.0, 1 / 255)
MOST = 64 * 2**20  # bytes of a body after decompression


def _gzip(begin, filling, end):
    """JSON that is as large as may be, and small when packed."""
    count = (MOST - len(begin) - len(end)) // len(filling)
    return gzip.compress(begin + filling * count + end, 6), {"Content-Encoding": "gzip"}


def _png(mode):
    stream = io.BytesIO()
    Image.new(mode, (8000, 4000)).save(stream, "PNG")  # 32 megapixels, as many as may be
    return stream.getvalue()


def requests():
    """Kind -> path, body, headers."""
    row = json.dumps(np.zeros(SHAPE, int).tolist()).encode()
    picture = base64.b64encode(_png("L"))
    predict, classify, explain = (f"/v1/models/m:{verb}" for verb in ("predict", "classify", "explain"))
    return {
        "zeros, packed": (predict, *_gzip(b"", b"\0", b"")),
        "blanks, packed": (predict, *_gzip(b'{"instances":', b" ", b"1}")),
        "one flat list, packed": (predict, *_gzip(b'{"instances":[', b"0,", b"0]}")),
        "one long row, packed": (predict, *_gzip(b'{"instances":[[[', b"0,", b"0]]]}")),
        "many good rows, packed": (predict, *_gzip(b'{"instances":[', row + b",", row + b"]}")),
        "examples with colons, packed": (classify, *_gzip(b'{"examples":[', b'{"image":":"},', b"{}]}")),
        "grey picture": (f"{predict}?fit=true", _png("L"), {"Content-Type": "image/png"}),
        "colour picture with transparency": (f"{predict}?fit=true", _png("RGBA"), {"Content-Type": "image/png"}),
        "picture in base64": (f"{predict}?fit=true", b'{"instances":[{"b64":"%s"}]}' % picture, {}),
        "64 rows, explained": (explain, b'{"instances":[%s]}' % b",".join([row] * 50), {}),
    }


def memory(server):
    """Resident memory of the server's processes together, in MB."""
    process = psutil.Process(server.process.pid)
    return sum(one.memory_info().rss for one in [process, *process.children(recursive=True)]) / 2**20


def _status(server, path, body, headers):
    connection = server.connect(timeout=300)
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def run(server, path, body, headers, count=64):
    """What a good client sees while ``count`` such requests are under way: milliseconds, MB, statuses."""
    good = json.dumps({"instances": [np.arange(784).reshape(SHAPE).astype(np.uint8).tolist()]}).encode()
    over, seconds, peak = threading.Event(), [], [memory(server)]

    def client():
        connection = server.connect()
        while not over.is_set() or len(seconds) < 100:  # so that one of them is no percentile
            begin = time.perf_counter()
            connection.request("POST", "/v1/models/m:predict", good)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
            seconds.append(time.perf_counter() - begin)
            time.sleep(0.002)
        connection.close()

    def watch():
        while not over.wait(0.02):
            peak.append(memory(server))

    threads = [threading.Thread(target=target) for target in (client, watch)]
    for thread in threads:
        thread.start()
    begin = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        found = list(pool.map(lambda _: _status(server, path, body, headers), range(count)))
    took = time.perf_counter() - begin
    over.set()
    for thread in threads:
        thread.join()
    return {
        "p50": 1000 * float(np.percentile(seconds, 50)),
        "p99": 1000 * float(np.percentile(seconds, 99)),
        "max": 1000 * max(seconds),
        "answers": len(seconds),
        "memory": max(peak),
        "seconds": took,
        "statuses": {status: found.count(status) for status in sorted(set(found))},
    }


def export(folder):
    """An export of one version called `m`."""
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(784, 10)).astype(np.float32), rng.normal(size=10).astype(np.float32)
    serve.write_version(Path(folder) / "m", 1, SPEC, kernel, bias)
    return Path(folder) / "m"


def main():
    print(f"{'64 at once of':<34}{'bytes':>9}{'p50 ms':>8}{'p99 ms':>8}{'max ms':>8}{'MB':>6}{'s':>6}  statuses")
    with tempfile.TemporaryDirectory() as folder, serve.Server(export(folder)) as server:
        for kind, (path, body, headers) in requests().items():
            found = run(server, path, body, headers)
            figures = f"{found['p50']:>8.1f}{found['p99']:>8.1f}{found['max']:>8.1f}{found['memory']:>6.0f}"
            print(f"{kind:<34}{len(body):>9,}{figures}{found['seconds']:>6.1f}  {found['statuses']}", flush=True)


if __name__ == "__main__":
    main()
