"""Exports killed at random moments: `python tests/exporting/killed_exports.py RUN COUNT [SEED]` says what each left.

Half of them keep all versions, half keep two. After each kill every version that is to be seen must be whole, no
version may be lost that nothing has replaced, and what stands beside the versions must be one version's.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tfsoftmax.exporting.manifest import digest, verify_files
from tfsoftmax.exporting.versions import versions

# says when the export begins and ends, so that kills fall into it and not into imports
PROGRAM = """
import sys
from pathlib import Path
import tfsoftmax
from tfsoftmax.runs.run import Run
run = Run(Path(sys.argv[1]))
run.model
for line in sys.stdin:
    print("begin", flush=True)
    tfsoftmax.export(run.model, run.spec, sys.argv[2], metrics=run.metrics, keep=json.loads(line))
    print("end", flush=True)
""".replace("import sys\n", "import json, sys\n", 1)


class Exporter:
    """A process that has imported everything and exports on demand."""

    def __init__(self, run, folder):
        command = [sys.executable, "-c", PROGRAM, str(run), str(folder)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )

    def begin(self, keep):
        """Start an export and come back when it has begun."""
        self.process.stdin.write(json.dumps(keep) + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "begin\n"

    def finish(self):
        """Wait for the end of the export."""
        assert self.process.stdout.readline() == "end\n"

    def kill(self):
        """SIGKILL, at once."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def check(folder, before, keep):
    """What the folder holds after a kill; an AssertionError if that is not what it must."""
    found = versions(folder)
    manifests = {number: verify_files(folder / str(number)) for number in found}  # raises if one is not whole
    lost = [number for number in before if number not in found]
    assert not lost or (keep is not None and len(found) >= keep and max(found) > max(before)), (before, found)
    for name in ("README.md", "config.pbtxt"):
        assert digest((folder / name).read_bytes()) in [values["beside"][name] for values in manifests.values()]
    strange = {
        entry for entry in os.listdir(folder) if not entry.isdecimal() and not entry.startswith(".tfsoftmax-export-")
    }
    assert strange == {"README.md", "config.pbtxt"}
    return found


def kills(run, folder, count, seed):
    """Kill ``count`` exports; gives (moment in seconds, versions before, versions after) of each."""
    rng, results = random.Random(seed), []
    exporter = Exporter(run, folder)
    for _ in range(2):
        exporter.begin(None)
        begin = time.monotonic()
        exporter.finish()
        seconds = time.monotonic() - begin  # the second one: a first export in a process takes longer
    for i in range(count):
        keep = 2 if i % 2 else None
        before = versions(folder)
        # every other kill falls into the last tenth, where versions appear and go
        moment = rng.uniform(0 if i % 4 < 2 else 0.9 * seconds, 1.02 * seconds)
        exporter.begin(keep)
        time.sleep(moment)
        exporter.kill()
        results.append((moment, before, check(folder, before, keep)))
        if i + 1 < count:
            exporter = Exporter(run, folder)
            exporter.begin(None)  # warm, as measured; also: it goes on after a kill, and clears what was left
            exporter.finish()
            assert not [name for name in os.listdir(folder) if name.startswith(".tfsoftmax-export-")]
    return seconds, results


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as aside:
        seconds, results = kills(Path(sys.argv[1]), Path(aside) / "model", int(sys.argv[2]), int(*sys.argv[3:] or [0]))
    ends = Counter(
        "new version in place" if max(after) > max(before) else "old versions only" for _, before, after in results
    )
    removed = sum(len(after) < len(before) + (max(after) > max(before)) for _, before, after in results)
    print(f"{len(results)} kills of an export that takes {seconds:.2f} s: {dict(ends)}; {removed} removed old versions")
