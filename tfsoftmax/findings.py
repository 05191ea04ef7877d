"""What was found in a data set, as lines for people."""

from __future__ import annotations

from typing import Any

from tfsoftmax.inspection import Inspection
from tfsoftmax.mixing import ENOUGH, line

_LINES = 30  # columns or classes
_WIDTH = 100
_PLACES = 3  # duplicates that a line names
_SPLITS = {
    "train": ("training rows", "an earlier one"),
    "test": ("test rows", "an earlier one"),
    "test_in_train": ("test rows", "a training row"),
}


def headline(found: Inspection) -> str:
    """How many rows, columns and classes there are."""
    test = found.rows["test"]
    rows = (
        f"{found.rows['train']:,} rows" if test is None else f"{found.rows['train']:,} training and {test:,} test rows"
    )
    columns = f"{len(found.columns):,} column{'s' if len(found.columns) > 1 else ''}"
    of = columns if found.columns else f"{'x'.join(map(str, found.shape))} {found.dtype} values"
    test_split = "; no test split" if test is None else "; the test rows are drawn from all" if found.drawn else ""
    groups = "" if found.groups is None else f" in {found.groups:,} groups"
    return f"{one_line(found.name, 40)}: {rows}{groups} of {of}, {len(found.classes):,} classes{test_split}"


def warnings(found: Inspection) -> list[str]:
    """What can make a model better on paper than it is, or is of no use to it; a line each."""
    lines = []
    if (twice := found.duplicates.get("test_in_train")) and twice["rows"]:
        lines.append(f"{repeats(found, 'test_in_train')}: the test figures are not those of new rows")
    for telling in found.telling:
        name, share = one_line(telling["column"], 40), telling["share"]
        name = f"column {name}" if found.columns else name
        share = "all rows" if share == 1 else f"{100 * share:.1f} % of the rows"
        lines.append(f"{name} alone tells the label for {share}: is it known when predicting?")
    if found.mixing and found.mixing["share"] < ENOUGH:
        lines.append(line(found.mixing))
    if found.constant:
        names = ", ".join(one_line(name, 40) for name in found.constant[:_PLACES])
        more = f" and {len(found.constant) - _PLACES} more" if len(found.constant) > _PLACES else ""
        lines.append(f"the same value in all training rows, of no use to a model: {names}{more}")
    return lines


def text(found: Inspection) -> list[str]:
    """All that was found, in lines of at most 100 characters but for the warnings at the end."""
    lines = [headline(found), ""]
    if found.values:
        v = found.values
        constant = f"; {v['constant']:,} are the same in all training rows" if v["constant"] else ""
        lines += [f"{v['elements']:,} numbers a row, {_span(v)}{constant}", ""]
    if found.columns:
        lines += _table(
            ("column", "kind", "missing", "distinct", "values of the training rows"),
            [
                (c["name"], f"{c['kind']} {c['dtype']}", missing(c), f"{c['distinct']:,}", of_column(c))
                for c in found.columns
            ],
            right=(2, 3),
        )
        lines.append("")
    splits = [split for split, rows in found.rows.items() if rows is not None]
    counts = [(c["name"], *(f"{c[split]:,}" for split in splits)) for c in found.classes]
    lines += _table(("class", *splits), counts, right=(1, 2))
    shares = " and ".join(f"{found.baseline[split]:.3f} of the {_SPLITS[split][0]}" for split in splits)
    lines += ["", f"always {one_line(found.baseline['class'], 30)}: right for {shares}"]
    lines += [repeats(found, split) for split in found.duplicates]
    if found.mixing and found.mixing["share"] >= ENOUGH:  # else it is a warning
        lines.append(line(found.mixing))
    return lines + first_lines(found)[1:]


def first_lines(found: Inspection) -> list[str]:
    """What a training begins with: the headline, and the warnings."""
    return [headline(found), *(f"warning: {line}" for line in warnings(found))]


def repeats(found: Inspection, split: str) -> str:
    """The line of the rows that stand twice."""
    twice, (rows, like) = found.duplicates[split], _SPLITS[split]
    count = (found.looked_at or found.rows)["train" if split == "train" else "test"]
    if found.looked_at:
        rows += " that were looked at"
    if not twice["rows"]:
        return f"none of the {count:,} {rows} repeats {like}"
    places = ", ".join(f"row {row} repeats row {first}" for row, first in twice["first"][:_PLACES])
    more = ", ..." if twice["rows"] > _PLACES else ""
    differing = f", {twice['differing']:,} with another label" if twice["differing"] else ""
    verb = "repeats" if twice["rows"] == 1 else "repeat"
    return f"{twice['rows']:,} of the {count:,} {rows} {verb} {like} byte for byte{differing} ({places}{more})"


def missing(column: dict[str, Any]) -> str:
    """The missing values of a column, by split."""
    train, test = column["missing"]["train"], column["missing"]["test"]
    return f"{train:,}" if not test else f"{train:,} + {test:,}"


def of_column(column: dict[str, Any]) -> str:
    """What values a column has."""
    if column["kind"] == "number":
        return "none" if column["min"] is None else _span(column)
    unseen = f"; {column['unseen_in_test']:,} test rows have others" if column["unseen_in_test"] else ""
    return ", ".join(f"{one_line(word, 20)} {count:,}" for word, count in column["frequent"]) + unseen


def _span(figures: dict[str, Any]) -> str:
    return f"{figures['min']:.6g} to {figures['max']:.6g}, mean {figures['mean']:.6g}"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]], right: tuple[int, ...]) -> list[str]:
    """Aligned columns, of which the last is cut at the edge of the page."""
    shown = [
        head,
        *(tuple(one_line(cell, 30) if k == 0 else cell for k, cell in enumerate(row)) for row in rows[:_LINES]),
    ]
    widths = [max(len(row[k]) for row in shown) for k in range(len(head))]
    lines = []
    for row in shown:
        cells = [cell.rjust(widths[k]) if k in right else cell.ljust(widths[k]) for k, cell in enumerate(row)]
        lines.append(_cut("  ".join(cells).rstrip(), _WIDTH))
    return lines + ([f"and {len(rows) - _LINES:,} more"] if len(rows) > _LINES else [])


def one_line(name: str, width: int) -> str:
    """A name as text on one line: what cannot be printed is escaped, a long one is cut."""
    return _cut("".join(one if one.isprintable() else repr(one)[1:-1] for one in name[: width + 1]), width)


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else line[: width - 3] + "..."
