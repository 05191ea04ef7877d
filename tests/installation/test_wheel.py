import re
import zipfile

import pytest
from installed import CHECKOUT, Environment, build


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def environment(built, tmp_path_factory):
    return Environment(tmp_path_factory.mktemp("environment"), built[1], extras=("serve",))


def test_the_wheel_made_from_the_source_archive_holds_every_file_of_the_packages(built):
    expected = {
        path.relative_to(CHECKOUT).as_posix()
        for package in ("tfsoftmax", "tuning")
        for path in (CHECKOUT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "tfsoftmax/datasets/fashion_mnist/t10k-labels-idx1-ubyte.gz" in expected
    held = {name for name in zipfile.ZipFile(built[1]).namelist() if ".dist-info/" not in name}
    assert held == expected


def test_nothing_of_the_checkout_is_seen(environment, tmp_path):
    program = "import tfsoftmax, tuning; print(tfsoftmax.__file__, tuning.__file__)"
    for file in environment.run("python", "-c", program, cwd=tmp_path).stdout.split():
        assert file.startswith(str(environment.site)), file


@pytest.mark.pinned
def test_what_the_requirements_bring_is_pinned(environment):
    text = (CHECKOUT / "constraints.txt").read_text()
    pinned = {}
    for name, version in re.findall(r"^([\w.-]+)==([\w.+-]+)", text, re.MULTILINE):
        pinned.setdefault(re.sub(r"[-_.]+", "-", name).lower(), set()).add(version)
    for name, distribution in environment.distributions.items():
        assert distribution.version in pinned.get(name, ()), name
