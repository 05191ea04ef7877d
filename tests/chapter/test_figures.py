"""Each figure of the chapter's pages is made by a script that still runs."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CHECKOUT = Path(__file__).parents[2]
DOCS = CHECKOUT / "docs" / "chapter"
PAGES = {"number_formats": 1, "int8": 2, "overfitting": 3, "learning_rates": 4}


@pytest.mark.parametrize("name", PAGES)
def test_the_script_of_each_figure(name, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(DOCS)
    monkeypatch.setattr(sys, "argv", [str(DOCS / f"{name}.py"), "--small", "--out", str(tmp_path)])
    runpy.run_path(sys.argv[0], run_name="__main__")
    assert str(tmp_path / f"{name}.png") in capsys.readouterr().out
    pixels = np.asarray(Image.open(tmp_path / f"{name}.png").convert("L"))
    assert pixels.shape[1] > 1000
    assert np.ptp(pixels) > 200
    assert (DOCS / f"{name}.png").exists()


def test_each_figure_and_page_is_made_by_a_script_and_linked():
    assert {path.stem for path in DOCS.glob("*.png")} == set(PAGES)
    assert {path.stem for path in DOCS.glob("*.py")} == {*PAGES, "figures"}
    index = (DOCS / "README.md").read_text()
    for name, exercise in PAGES.items():
        page = f"{exercise}_{name}.md"
        text = (DOCS / page).read_text()
        assert page in index
        assert f"({name}.png)" in text
        assert f"python docs/chapter/{name}.py" in text
        assert len(text.split()) < 1000, "a page is read in five minutes"
