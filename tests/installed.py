"""The wheel in an environment of its own: nothing there but what its requirements bring, nothing of the checkout."""

import os
import shutil
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CHECKOUT = Path(__file__).parent.parent
# what would lead back to the checkout, or change how loud TensorFlow is
_LEFT_OUT = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "TF_CPP_MIN_LOG_LEVEL", "TFDS_DATA_DIR")


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
        requirements: what the wheel is installed with; ``None``: its own requirements and those of ``extras``.
        extras: extras of the wheel.
    """

    def __init__(self, folder, wheel, *, extras=(), requirements=None):
        self.folder = folder
        venv.create(folder, symlinks=True)
        self.python = folder / "bin" / "python"
        (self.site,) = folder.glob("lib/python*/site-packages")
        pip = [sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet", "--no-deps", "--no-index"]
        subprocess.run([*pip, wheel], env=_clean(), check=True)
        if requirements is None:
            (own,) = metadata.distributions(name="tfsoftmax", path=[str(self.site)])
            requirements = wanted(own, extras)
            self.distributions = closure(requirements)
        else:
            self.distributions = {name: metadata.distribution(name) for name in requirements}
        for distribution in self.distributions.values():
            _link(distribution, self.site)

    def run(self, *command, cwd, check=True, **variables):
        """Run a command with the environment's programs first on the path; returns what subprocess.run returns."""
        done = subprocess.run(
            [*map(str, command)], cwd=cwd, env=self.variables(**variables), capture_output=True, text=True
        )
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done

    def variables(self, **more):
        """Environment variables of a user who has activated the environment."""
        return {**_clean(), "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", **more}


def wanted(distribution, extras=()):
    """Requirements of a distribution with ``extras``, those whose markers hold here."""
    parsed = [Requirement(line) for line in distribution.requires or []]
    return [
        one for one in parsed if one.marker is None or any(one.marker.evaluate({"extra": e}) for e in ("", *extras))
    ]


def closure(requirements):
    """Name -> distribution of all that the requirements bring, from what is installed here."""
    found, seen, left = {}, set(), list(requirements)
    while left:
        requirement = left.pop()
        key = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if key in seen:
            continue
        seen.add(key)
        found[key[0]] = distribution = metadata.distribution(requirement.name)
        left += wanted(distribution, requirement.extras)
    return found


def _clean():
    return {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}


def _link(distribution, site):
    for file in distribution.files:
        if ".." not in file.parts:
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            (site / file).symlink_to(distribution.locate_file(file))
