"""Where a report goes: one page, and a folder of its name with the figures as PNG and their numbers as CSV."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tfsoftmax import __version__
from tfsoftmax._files import write_bytes, write_csv, write_text
from tfsoftmax.errors import InputError
from tfsoftmax.reporting.figures import Draw, svg_and_png

_PAGE = Path(__file__).parent / "page"
_MARK = '<meta name="generator" content="tfsoftmax'


def is_report(path: Path) -> bool:
    """Whether ``path`` is a report of ours."""
    return path.is_file() and _MARK in path.read_text(encoding="utf-8", errors="replace")[:1000]


class Files:
    """The files of one report.

    Args:
        path: of the page, ``.html``; one of ours that is there is replaced, the folder and its parents are made.

    Raises:
        InputError: ``path`` has another ending, or is a file that is no report.
    """

    def __init__(self, path: Path):
        self.path, self.folder = path, path.with_suffix("")
        if path.suffix != ".html":
            raise InputError(f"--to must be the name of an .html file, got {str(path)!r}")
        if path.exists() and not is_report(path):
            raise InputError(f"{str(path)!r} exists and is not a report of ours; choose another --to")
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{str(self.folder)!r} is a file, where the figures belong; choose another --to")
        self.folder.mkdir(parents=True, exist_ok=True)

    def figure(self, name: str, label: str, draw: Draw, numbers: list[dict[str, Any]]) -> Markup:
        """A figure for the page; its PNG and CSV are written. ``label`` says what is seen, for those who do not see."""
        element, pixels = svg_and_png(draw, label)
        self.picture(name, pixels)
        self.numbers(name, numbers)
        return Markup(element)

    def picture(self, name: str, content: bytes) -> None:
        """Write a PNG file."""
        write_bytes(self.folder / f"{name}.png", content)

    def numbers(self, name: str, rows: list[dict[str, Any]], header: Sequence[str] = ()) -> None:
        """Write a CSV file; pairs of numbers become two columns. ``header`` is that of no rows."""
        flat = []
        for row in rows:
            made: dict[str, Any] = {}
            for key, value in row.items():
                if isinstance(value, (tuple, list)) and len(value) == 2:
                    made |= {f"{key}_low": value[0], f"{key}_high": value[1]}
                else:
                    made[key] = value
            flat.append(made)
        write_csv(self.folder / f"{name}.csv", flat, header)

    def page(self, template: str, **values: Any) -> Path:
        """Write the page."""
        loader = FileSystemLoader(_PAGE)
        found = Environment(
            loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        found.filters |= {"number": _number, "percent": _percent, "interval": _interval, "short": _short}
        own = {name: Markup((_PAGE / f"page.{name}").read_text()) for name in ("css", "js")}
        digest = base64.b64encode(hashlib.sha256(own["js"].encode()).digest()).decode()  # the one script that may run
        text = found.get_template(template).render(**own, **values, hash=Markup(digest), version=__version__)
        write_text(self.path, text)
        return self.path


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f}\u00a0%"


def _interval(pair: Any) -> str:
    return "-" if pair is None else f"{100 * pair[0]:.1f} to {100 * pair[1]:.1f}\u00a0%"


def _short(name: str, longest: int = 80) -> str:
    """A name for a table; of a long one the middle is left out, since names differ at their ends too."""
    return name if len(name) <= longest else f"{name[: longest // 2]} … {name[-longest // 2 + 3 :]}"
