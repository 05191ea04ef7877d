"""Training killed at random moments: `PYTHONPATH=tests python tests/fitting/killed_training.py COUNT [SEED [windows]]`.

One run of 20 epochs is killed COUNT times, at random moments and in the middle of writes, each time with the same
command again; then it must have the bytes of a run that nobody disturbed. Then once more, with a torn file in the
place of the newest state after each third kill. With `windows` its rows stay in a file and come in some ten windows.
"""

import json
import random
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from conftest import make_rows
from forked import Program

from tfsoftmax.fitting import resume

EPOCHS = 20

# runs `tfsoftmax` with its arguments from the second one on; the first says at which call of "fsync" or "replace" it
# kills itself, half a file written or nothing renamed
PROGRAM = """
import json, os, signal, sys
from tfsoftmax import cli

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

for name, at in json.loads(sys.argv.pop(1)).items():
    deadly(name, at)
cli.main()
"""


class Trainer:
    """Runs one command line, in one process after the other."""

    def __init__(self, *arguments, log):
        self.arguments, self.log = arguments, Path(log)

    def run(self, out, after=None, trained=0, **deaths):
        """Train into ``out``; killed ``after`` seconds from the start, or from when it has ``trained`` so many epochs
        more, or at a call of ``deaths``. True if it came to its end."""
        child = Program("-c", PROGRAM, json.dumps(deaths), *self.arguments, "--out", out, log=self.log)
        if after is not None:
            goal = self._epochs() + trained
            while self._epochs() < goal and not (out / "metrics.json").exists():
                time.sleep(0.002)
            time.sleep(after)
            child.kill()
        status = child.wait()
        assert status in (0, -9), f"exit status {status}: {self.log.read_text()}"
        return status == 0

    def _epochs(self):
        return self.log.read_text().count(" val_loss ") if self.log.exists() else 0


def content(folder):
    """name -> bytes of a run folder; without the seconds, and its own name in the commands of its report."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    metrics = json.loads(found["metrics.json"])
    assert metrics.pop("seconds") > 0
    page = re.sub(rb"Training took [0-9.]+ s", b"", found["report.html"]).replace(str(folder).encode(), b"RUN")
    return {**found, "metrics.json": metrics, "report.html": page}


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


def main(count, seed, rows="memory"):
    with tempfile.TemporaryDirectory() as folder:
        folder, log = Path(folder), Path(folder, "log")
        command = ["train", "--epochs", EPOCHS, "--momentum", 0.9, "--schedule", "cosine", "--patience", 15]
        if rows == "windows":
            x, y = make_rows(20_000, 10, (784,))
            np.save(folder / "x.npy", x)
            np.save(folder / "y.npy", y)
            command += ["--data", f"npy:{folder}", "--memory", "2MiB"]
        trainer = Trainer(*command, log=log)
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
    main(int(sys.argv[1]), int(*sys.argv[2:3] or [0]), *sys.argv[3:])
