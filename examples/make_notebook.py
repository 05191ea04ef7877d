"""Make `concise.ipynb` from `concise.py`: a cell begins at each line `# %%`."""

import re
from pathlib import Path

import nbformat
from nbformat import v4

HERE = Path(__file__).parent


def notebook(program: str) -> nbformat.NotebookNode:
    """The notebook of a program, without outputs; the same program makes the same bytes."""
    cells = []
    for i, (kind, text) in enumerate(re.findall(r"^# %%(.*)\n((?:(?!# %%).*\n)*)", program, re.MULTILINE)):
        if "markdown" in kind:
            cells.append(v4.new_markdown_cell(re.sub(r"^# ?", "", text.strip(), flags=re.MULTILINE), id=f"cell-{i}"))
        else:
            cells.append(v4.new_code_cell(text.strip(), id=f"cell-{i}"))
    return v4.new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})


if __name__ == "__main__":
    nbformat.write(notebook((HERE / "concise.py").read_text()), HERE / "concise.ipynb")
