"""Training killed at random moments: `python tests/fitting/killed_training.py COUNT [SEED]` says what came of it.

One run of 20 epochs is killed COUNT times, at random moments and in the middle of writes, each time with the same
command again; then it must have the bytes of a run that nobody disturbed. Then once more, with a torn file in the
place of the newest state after each fifth kill.
"""

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tfsoftmax.fitting import resume

EPOCHS = 20

# has imported everything, runs `tfsoftmax` with the arguments of each line in a child and prints its exit status;
# "fsync" and "replace" say at which of their calls the child kills itself, half a file written or nothing renamed
PROGRAM = """
import json, os, signal, sys
from tfsoftmax import cli, console
import tfsoftmax.runs.training, tfsoftmax.data

def deadly(name, at):
    left, call = [at], getattr(os, name)
    def counted(*arguments):
        left[0] -= 1
        if not left[0]:
            if name == "fsync":
                os.ftruncate(arguments[0], os.fstat(arguments[0]).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments)
    setattr(os, name, counted)

for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if not child:
        os.dup2(os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        os.dup2(2, 1)
        for name in ("fsync", "replace"):
            if asked.get(name):
                deadly(name, asked[name])
        sys.argv = ["tfsoftmax", *asked["arguments"]]
        try:
            cli.main()
        except SystemExit as stop:
            os._exit(stop.code or 0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Trainer:
    """Runs one command line in children of a process that has imported everything."""

    def __init__(self, *arguments, log):
        self.asked = {"arguments": [str(argument) for argument in arguments], "log": str(log)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.communicate()

    def run(self, out, after=None, trained=0, **deaths):
        """Train into ``out``; killed ``after`` seconds from the start, or from when it has ``trained`` so many epochs
        more, or at a call of ``deaths``. True if it came to its end."""
        asked = {**self.asked, **deaths, "arguments": [*self.asked["arguments"], "--out", str(out)]}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        child = int(self.process.stdout.readline())
        if after is not None:
            goal = self._epochs() + trained
            while self._epochs() < goal and not (out / "metrics.json").exists():
                time.sleep(0.002)
            time.sleep(after)
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.kill(child, 9)
        status = int(self.process.stdout.readline())
        assert status in (0, 9), f"exit status {status}: {Path(asked['log']).read_text()}"
        return status == 0

    def _epochs(self):
        log = Path(self.asked["log"])
        return log.read_text().count(" val_loss ") if log.exists() else 0


def content(folder):
    """name -> bytes of a run folder; of metrics.json without the seconds."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    metrics = json.loads(found["metrics.json"])
    assert metrics.pop("seconds") > 0
    return {**found, "metrics.json": metrics}


def kills(trainer, out, count, seed, torn):
    """Kill ``count`` runs into ``out``, then let one end; gives how the kills fell."""
    rng, fell = random.Random(seed), Counter()
    for i in range(count):
        state = resume.read(out / "state")
        if state is not None and state["epoch"] > i * EPOCHS / count:  # or the run would end before the kills do
            death = {rng.choice(["fsync", "replace"]): rng.randint(1, 4)}
        else:
            death = {"after": rng.uniform(0, 0.1), "trained": rng.randint(0, 2)}
        ended = trainer.run(out, **death) or ((out / "metrics.json").exists() and not (out / "state").exists())
        fell["ended" if ended else next(iter(death))] += 1
        if ended:
            return fell
        if torn and i % 3 == 2 and resume.before(out / "state").exists():
            whole = (out / "state").read_bytes() if (out / "state").exists() else b""
            if whole and resume.content_of(whole) is not None:
                (out / "state").write_bytes(whole[: rng.randrange(len(whole))])
                fell["torn"] += 1
    assert trainer.run(out)
    return fell


def main(count, seed):
    with tempfile.TemporaryDirectory() as folder:
        folder, log = Path(folder), Path(folder, "log")
        command = ["train", "--epochs", EPOCHS, "--momentum", 0.9, "--schedule", "cosine", "--patience", 15]
        with Trainer(*command, log=log) as trainer:
            trainer.run(folder / "undisturbed")
            trainer.run(folder / "again")
            expected = content(folder / "undisturbed")
            assert content(folder / "again") == expected, "two undisturbed runs differ"
            for torn in (False, True):
                log.unlink()
                fell = kills(trainer, folder / f"killed{torn}", count, seed + torn, torn)
                assert content(folder / f"killed{torn}") == expected
                text = log.read_text()
                said = text.count("is damaged: continuing from the previous one")
                assert (said > 0) == torn
                went_on = text.count("continuing after epoch")
                print(f"{dict(fell)}; went on {went_on} times, said {said} times that a state is damaged: same bytes")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(*sys.argv[2:] or [0]))
