"""The drawing in CONTRIBUTING.md, made from small packages of which one knows what it must say."""

import importlib.machinery
import importlib.util
import subprocess

import pytest
from installed import CHECKOUT


@pytest.fixture(scope="module")
def tree():
    loader = importlib.machinery.SourceFileLoader("tree", str(CHECKOUT / "scripts" / "tree"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("tree", loader))
    loader.exec_module(module)
    return module


@pytest.fixture
def root(tree, tmp_path):
    files = {
        "tfsoftmax/__init__.py": '"""Top."""',
        "tfsoftmax/b.py": '"""Below."""',
        "tfsoftmax/a.py": '"""Above."""\ndef f():\n    from tfsoftmax import b',
        "tfsoftmax/room/__init__.py": '"""A room."""',
        "tfsoftmax/room/c.py": '"""Uses."""\nfrom tfsoftmax.a import f',
        "tuning/__init__.py": '"""Tuning."""',
        "CONTRIBUTING.md": f"before\n{tree.BEGIN}{tree.END}after\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_tree_is_that_of_the_code():
    subprocess.run([CHECKOUT / "scripts" / "tree", "--check"], check=True)


def test_a_file_stands_below_what_it_imports(tree, root):
    assert tree.main(root, check=True)[0] == 1
    assert tree.main(root, check=False) == tree.main(root, check=True) == (0, "")
    lines = (root / "CONTRIBUTING.md").read_text().splitlines()
    assert lines.index("  b.py                 Below.") < lines.index("  a.py                 Above.")
    assert "tfsoftmax/room/    imports from tfsoftmax" in lines
    assert (lines[0], lines[-1]) == ("before", "after")


def test_a_circle_is_named(tree, root):
    (root / "tfsoftmax" / "b.py").write_text("import tfsoftmax.room.c")
    status, said = tree.main(root, check=True)
    assert status == 1
    assert said.startswith("a circle of imports: ")
    for name in ("tfsoftmax.a", "tfsoftmax.b", "tfsoftmax.room.c"):
        assert name in said


def test_what_only_type_checkers_import_is_no_circle(tree, root):
    (root / "tfsoftmax" / "b.py").write_text("if TYPE_CHECKING:\n    import tfsoftmax.room.c")
    assert tree.main(root, check=False) == (0, "")


def test_a_long_file_is_named(tree, root):
    (root / "tfsoftmax" / "b.py").write_text("\n" * 401)
    assert tree.main(root, check=True) == (1, "longer than 400 lines, make two of each: tfsoftmax.b")
