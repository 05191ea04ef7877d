"""The ten lines, the notebook made of them, and one framework's loop against ours."""

import re
from pathlib import Path

import nbclient
import nbformat

from benchmarks import chapter

CHECKOUT = Path(__file__).parents[2]
DOCS, EXAMPLES = CHECKOUT / "docs" / "chapter", CHECKOUT / "examples"


def test_the_ten_lines_are_part_of_the_example():
    (block,) = re.findall(r"^```python\n(.*?)^```$", (DOCS / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for line in block.splitlines() if line]
    assert len(lines) <= 10
    program = (EXAMPLES / "concise.py").read_text()
    assert all(line in program for line in lines)


def test_the_notebook_is_the_example_and_runs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    from make_notebook import notebook

    made = notebook((EXAMPLES / "concise.py").read_text())
    assert nbformat.writes(made) == (EXAMPLES / "concise.ipynb").read_text().rstrip("\n"), "run make_notebook.py"
    done = nbclient.NotebookClient(made, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(output.get("text", "") for cell in done.cells for output in cell.get("outputs", ()))
    losses = [float(loss) for loss in re.findall(r"validation ([\d.]+)", printed)]
    assert len(losses) == 10
    assert losses[-1] == min(losses) < 0.46
    assert re.search(r"'accuracy': 0.8[34]", printed)
    assert "nan 0.0" in printed


def test_a_loop_of_plain_keras_has_our_losses_and_weights(tmp_path, monkeypatch):
    """The other frameworks need environments of their own: ``python -m benchmarks chapter`` measures all of them."""
    monkeypatch.delenv("XLA_FLAGS")  # compiled as users compile
    chapter.give(tmp_path, epochs=3)
    results = [
        chapter.measure(name, peer, 2, tmp_path) for name, peer in chapter.CASES if peer in ("ours", "tensorflow_keras")
    ]
    chapter.compare(results)
    assert [row["name"] for row in results] == ["tfsoftmax", "TensorFlow, Keras"]
    assert all(row["within"] for row in results), results
    assert len(results[1]["val_loss"]) == 3
