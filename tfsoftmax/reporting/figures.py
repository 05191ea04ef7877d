"""Figures: each drawn by matplotlib, as SVG in the page's own colours and as a PNG file."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# on paper; the page's style sheet has them by their names, for light and for dark
COLOURS = {"ink": "#1b1f23", "quiet": "#5b6570", "line": "#d8dcdf", "main": "#2166ac", "other": "#b35806"}
_SIZE = (4.6, 3.0)  # inches
_MARGINS = {"left": 0.17, "right": 0.97, "bottom": 0.15, "top": 0.96}

Draw = Callable[["Axes"], None]


def prepare() -> None:
    """Import matplotlib in a thread, which takes half a second, while the caller reads its data."""
    threading.Thread(target=importlib.import_module, args=("matplotlib.figure",)).start()


@contextlib.contextmanager
def _style() -> Iterator[None]:
    import matplotlib

    settings: Any = {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "tfsoftmax",  # the same figure has the same bytes
        "text.parse_math": False,  # a dollar in a name is a dollar
        "font.size": 9,
        "axes.edgecolor": COLOURS["quiet"],
        "axes.labelcolor": COLOURS["ink"],
        "text.color": COLOURS["ink"],
        "xtick.color": COLOURS["quiet"],
        "ytick.color": COLOURS["quiet"],
        "grid.color": COLOURS["line"],
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def svg_and_png(draw: Draw, label: str) -> tuple[str, bytes]:
    """An ``svg`` element for a page, in colours that its style sheet names, and the same as a PNG file.

    ``label`` is read out instead of the element.
    """
    from markupsafe import escape
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(_SIZE)
        draw(figure.subplots(gridspec_kw=_MARGINS))
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        pixels = _png(figure)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="(?!m|p|image)[^"]*"', "", text)  # groups that nothing refers to; the page has other figures
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1), pixels


def png(draw: Draw, size: tuple[float, float]) -> bytes:
    """A PNG file of ``size``, in inches, with margins as its texts need them."""
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(size, layout="constrained")
        draw(figure.subplots())
        return _png(figure)


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=144, facecolor="white", metadata={"Software": None})
    return file.getvalue()


def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x: str,
    y: str,
    best: float | None = None,
    log: bool = False,
) -> Draw:
    """Curves by name, each its places and values; ``best`` is a place that is marked."""

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        styles = [(COLOURS["main"], "-"), (COLOURS["other"], "--"), (COLOURS["ink"], ":"), (COLOURS["quiet"], "-.")]
        for k, (name, (places, values)) in enumerate(lines.items()):
            colour, style = styles[k % len(styles)]
            mark = "o" if len(places) < 2 else None
            axes.plot(places, values, style, color=colour, label=cut(name), marker=mark, linewidth=1.6)
        if best is not None:
            axes.axvline(best, color=COLOURS["quiet"], linewidth=1, linestyle=":", label=f"best epoch: {best:g}")
        if log:
            logarithmic(axes, "y")
        if x in ("epoch", "pass"):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.legend(fontsize=8)

    return draw


def bundle(lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], named: int, x: str, y: str) -> Draw:
    """Many curves, the best first, of which the first ``named`` stand out."""

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        styles = [(COLOURS["main"], "-"), (COLOURS["other"], "--"), (COLOURS["ink"], ":")][:named]
        for place, (name, (places, values)) in reversed([*enumerate(lines.items())]):
            if place < len(styles):
                colour, style = styles[place]
                axes.plot(places, values, style, color=colour, label=cut(name, 40), linewidth=1.6)
            else:
                axes.plot(places, values, "-", color=COLOURS["quiet"], linewidth=0.6, alpha=0.6)
        spread(axes, "y", [value for _, values in lines.values() for value in values])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        handles, names = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], names[::-1], fontsize=8)

    return draw


def points(found: Sequence[tuple[Any, float]], x: str, y: str) -> Draw:
    """Points of a number or a word and a number, of which the first stands out."""

    def draw(axes: Axes) -> None:
        places = [place if isinstance(place, (int, float)) else cut(str(place)) for place, _ in found]
        axes.plot(places, [value for _, value in found], "o", color=COLOURS["quiet"], markersize=4)
        axes.plot(
            places[:1], [found[0][1]], "o", color=COLOURS["main"], markersize=8, label=f"best: {plain(found[0][0])}"
        )
        if not any(isinstance(place, str) for place in places):
            spread(axes, "x", places)
        else:
            axes.margins(x=0.2)
        spread(axes, "y", [value for _, value in found])
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.legend(fontsize=8)

    return draw


def spread(axes: Axes, which: str, values: Sequence[Any]) -> None:
    """Make the axis ``"x"`` or ``"y"`` logarithmic where values span more than a factor of ten."""
    low, high = min(values), max(values)
    if low > 0 and high > 10 * low:
        logarithmic(axes, which)


def logarithmic(axes: Axes, which: str) -> None:
    """Make an axis logarithmic, its numbers plain text: no text is a formula here, since names may have dollars."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis, scale = (axes.xaxis, axes.set_xscale) if which == "x" else (axes.yaxis, axes.set_yscale)
    scale("log")
    low, high = axis.get_view_interval()
    wide = high > 100 * low
    axis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    axis.set_minor_formatter(NullFormatter())


def plain(value: Any) -> str:
    """A value of a setting as a figure shows it."""
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def reliability(bins: dict[str, list[dict[str, Any]]]) -> Draw:
    """How often the model is right, by how sure it is: bins by name, as ``evaluate`` returns them."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=COLOURS["quiet"], linewidth=1, linestyle=":", label="as sure as right")
        styles = [(COLOURS["main"], "-", "o"), (COLOURS["other"], "--", "s")]
        for (name, rows), (colour, style, mark) in zip(bins.items(), styles, strict=False):
            x, y = [row["confidence"] for row in rows], [row["accuracy"] for row in rows]
            axes.plot(x, y, style, color=colour, marker=mark, markersize=4, linewidth=1.4, label=name)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("largest probability")
        axes.set_ylabel("share that is right")
        axes.legend(fontsize=8)

    return draw


def confusion(matrix: list[list[int]], names: Sequence[str]) -> Draw:
    """The confusion matrix, coloured by the share of each true class."""

    def draw(axes: Axes) -> None:
        shares = [[count / (sum(row) or 1) for count in row] for row in matrix]
        axes.grid(visible=False)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        places = range(len(names))
        axes.set_xticks(places, [str(k) for k in places])
        axes.set_yticks(places, [f"{cut(name)} {k}" for k, name in enumerate(names)])
        axes.set_xlabel("predicted class")
        for i, row in enumerate(matrix):
            for k, count in enumerate(row):
                colour = "white" if shares[i][k] > 0.5 else COLOURS["ink"]
                axes.text(k, i, str(count), ha="center", va="center", fontsize=7, color=colour)

    return draw


def cut(name: str, longest: int = 24) -> str:
    """A name as a figure has room for it, in one line of signs that can be printed."""
    plain = "".join(one if one.isprintable() else "?" for one in name[: longest + 1])
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"
