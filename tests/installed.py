"""The wheel in an environment of its own: nothing there but what its requirements bring, nothing of the checkout."""

import contextlib
import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import venv
from importlib import metadata
from importlib.util import cache_from_source
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CHECKOUT = Path(__file__).parent.parent
# what would lead back to the checkout, or change how loud TensorFlow is and how it compiles
_LEFT_OUT = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "TF_CPP_MIN_LOG_LEVEL", "TFDS_DATA_DIR", "XLA_FLAGS")

# has imported TensorFlow as a program would, through the wheel; runs in a child what a client sends to its socket
_FORKING = """
import gc, json, os, runpy, socket, sys, traceback
import tfsoftmax.export, tfsoftmax.model, tfsoftmax.runs.training, tuning
from tfsoftmax import cli
gc.freeze()
{first}
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1] + "~")
server.listen()
os.rename(sys.argv[1] + "~", sys.argv[1])
while True:
    connection = server.accept()[0]
    if os.fork():
        connection.close()
        continue
    request, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    folder, variables, command = json.loads(request)
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        connection.send(bytes([status % 256]))
        os._exit(0)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", 1, closefd=False)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv, status = command, 0
    try:
        if command[0] == "tfsoftmax":
            cli.main()
        else:
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as stop:
        status = stop.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    os._exit(status)
"""
_CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect({socket!r})
    request = json.dumps([os.getcwd(), dict(os.environ), {first} + sys.argv[1:]])
    socket.send_fds(connection, [request.encode()], [0, 1, 2])
    sys.exit(connection.recv(1)[0])
"""


def build(folder):
    """Build the source archive from a copy of the checkout, the wheel from it; returns both, and it unpacked."""
    source = shutil.copytree(CHECKOUT, folder / "checkout", ignore=_not_source, symlinks=True)
    archive = _hook("build_sdist", source, folder)
    subprocess.run(["tar", "xzf", archive, "-C", folder], check=True)
    unpacked = folder / archive.name.removesuffix(".tar.gz")
    return archive, _hook("build_wheel", unpacked, folder), unpacked


def _not_source(folder, names):
    top = ("build", "dist", "export", "runs", "tune") if Path(folder) == CHECKOUT else ()
    return [name for name in names if name[0] == "." or name.endswith((".egg-info", "__pycache__")) or name in top]


def _hook(name, source, folder):
    """Call one PEP 517 hook of setuptools, as pip and build do."""
    program = f"import sys\nfrom setuptools import build_meta\nprint(build_meta.{name}(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", program, folder], cwd=source, env=_clean(), capture_output=True, text=True, check=True
    )
    return folder / done.stdout.splitlines()[-1]


class Environment:
    """A virtual environment with the wheel and, linked from the one that runs the tests, what its requirements name.

    Args:
        folder: where to make it.
        wheel: the wheel to install.
        extras: extras of the wheel, whose requirements are linked as well.
        also: more requirements, of what documents install.
        instead: requirements to link instead of the wheel's own.
        pip: have pip in it.
    """

    def __init__(self, folder, wheel, *, extras=(), also=(), instead=None, pip=False):
        self.folder = folder
        venv.create(folder, symlinks=True)
        (self.site,) = folder.glob("lib/python*/site-packages")
        command = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet"]
        subprocess.run([*command, "--no-deps", "--no-index", wheel], env=_clean(), check=True)
        (own,) = metadata.distributions(name="tfsoftmax", path=[str(self.site)])
        wanted = [*_wanted(own, extras), *map(Requirement, also)] if instead is None else map(Requirement, instead)
        self.distributions = _closure(wanted, own)
        linked = [*self.distributions.values()]
        if pip:
            linked.append(metadata.distribution("pip"))
            script = folder / "bin" / "pip"
            script.write_text(f'#!/bin/sh\nexec {folder}/bin/python -m pip "$@"\n')
            script.chmod(0o755)
        for distribution in linked:
            _link(distribution, self.site)

    def run(self, *command, cwd, check=True, **variables):
        """Run a command with the environment's programs first on the path; returns what subprocess.run returns."""
        done = subprocess.run(
            [*map(str, command)], cwd=cwd, env=self.variables(**variables), capture_output=True, text=True
        )
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done

    @contextlib.contextmanager
    def forking(self, first):
        """Yields a folder of `tfsoftmax` and `python SCRIPT` that run where TensorFlow is imported, after ``first``."""
        with tempfile.TemporaryDirectory() as folder:
            where = f"{folder}/socket"
            for name, first in ("tfsoftmax", ["tfsoftmax"]), ("python", []):
                client = Path(folder, name)
                client.write_text(_CLIENT.format(python=sys.executable, socket=where, first=first))
                client.chmod(0o755)
            program = [self.folder / "bin" / "python", "-c", _FORKING.format(first=first), where]
            process = subprocess.Popen(program, cwd=self.folder, env=self.variables())
            try:
                while not os.path.exists(where):
                    assert process.poll() is None
                    time.sleep(0.05)
                yield folder
            finally:
                process.kill()
                process.wait()

    @contextlib.contextmanager
    def serving(self, command, cwd):
        """Run a shell command that ends in `tfsoftmax serve …` meanwhile; yields its URL."""
        with open(Path(cwd, "server.log"), "w+") as log:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=cwd, env=self.variables(), stdout=log, stderr=log
            )
            try:
                until = time.monotonic() + 60
                while not (found := re.search(r"serving on (\S+)", Path(log.name).read_text())):
                    assert process.poll() is None, Path(log.name).read_text()
                    assert time.monotonic() < until, "the server does not start"
                    time.sleep(0.05)
                yield found[1]
                process.send_signal(signal.SIGTERM)
                assert process.wait(30) == 0
            finally:
                process.kill()
                process.wait()

    def variables(self, **more):
        """Environment variables of a user who has activated the environment."""
        return {**_clean(), "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", **more}


def _wanted(distribution, extras):
    """What a distribution requires with ``extras`` on this machine."""
    for requirement in map(Requirement, distribution.requires or []):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def _closure(requirements, own):
    """Name -> distribution of all that the requirements bring, from what is installed here; ``own`` is the wheel."""
    found, seen, left = {}, set(), list(requirements)
    while left:
        requirement = left.pop()
        key = name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if key not in seen:
            seen.add(key)
            distribution = own if name == "tfsoftmax" else found.setdefault(name, metadata.distribution(name))
            left += _wanted(distribution, extras)
    return found


def _clean():
    return {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}


def _link(distribution, site):
    source = distribution.locate_file("")
    names = [name for name, *_ in csv.reader(distribution.read_text("RECORD").splitlines())]
    # where pip has not compiled, Python has
    names += [
        c for name in names if name.endswith(".py") and os.path.exists(f"{source}/{(c := cache_from_source(name))}")
    ]
    for name in names:
        link = f"{site}/{name}"
        if not name.startswith("..") and not os.path.lexists(link):  # two distributions may have the same file
            os.makedirs(os.path.dirname(link), exist_ok=True)
            os.symlink(f"{source}/{name}", link)
