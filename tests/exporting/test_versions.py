import os
import random
import subprocess
import sys
import time

import pytest
from killed_exports import kills

from tfsoftmax import InputError
from tfsoftmax.exporting import manifest, versions


def test_killed_exports_leave_whole_versions_only(finished, tmp_path):
    _, results = kills(finished[0].folder, tmp_path / "model", 2, seed=1)
    assert len(results) == 2


# many small versions in quick succession, without TensorFlow: kills fall on renames and removals
PROGRAM = """
import sys
from pathlib import Path
from tfsoftmax.exporting import manifest, versions
folder = Path(sys.argv[1])
while True:
    with versions.work(folder) as work:
        version = work / str(versions.choose(folder, None))
        (version / "inner").mkdir(parents=True)
        for i in range(20):
            (version / "inner" / f"{i}").write_text(f"{i}" * 1000)
        manifest.write(version, {})
        beside = work / "README.md"
        beside.write_text(version.name)
        done = versions.publish(version, [beside], folder)
        versions.keep(folder, int(done.name), 3, work)
        print(done.name, flush=True)
"""


def test_fifty_kills_between_renames(tmp_path):
    rng, best = random.Random(0), 0
    for _ in range(50):
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, tmp_path], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        process.communicate()
        found = versions.versions(tmp_path)
        for number in found:
            manifest.verify_files(tmp_path / str(number))
        assert found[-1] > best, "each program finished one"
        assert len(found) in (range(1, 5) if best == 0 else range(min(best, 3), 5))
        assert int((tmp_path / "README.md").read_text()) in (found[-1], found[-1] - 1)
        best = found[-1]


def test_one_export_at_a_time(tmp_path):
    with versions.work(tmp_path) as work:
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, tmp_path], stdout=subprocess.PIPE)
        time.sleep(1)
        assert versions.versions(tmp_path) == []
        assert work.is_dir()
    assert process.stdout.readline() == b"1\n"
    process.kill()
    process.communicate()


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="cannot write the export folder"), versions.work(tmp_path / ("x" * 300)):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write the export folder"), versions.work(tmp_path / "file"):
        pass
    assert os.listdir(tmp_path) == ["file"]
