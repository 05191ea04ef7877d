"""The verbs of the command line, one function each, and what several of them share."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from tfsoftmax._files import read_json
from tfsoftmax.errors import InputError

DEMO = "fashion_mnist"  # the data where neither --data nor --config names any
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder that train wrote.")]
# how a data set is read: an option for each of spec.OPTIONS
_READING: dict[str, Any] = {
    "label": Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of the labels, of a table.")],
    "resize": Annotated[str | None, typer.Option(metavar="WIDTHxHEIGHT", help="Size that pictures are brought to.")],
    "drop": Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="Column of a table to leave out; once for each.")
    ],
    "category": Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Column of a table whose values are names; once for each."),
    ],
    "number": Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Column of a table whose values are numbers; once for each."),
    ],
    "group": Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Rows with the same value here stay together in a split.")
    ],
    "sample_weight": Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of a table with weights of rows.")
    ],
    "memory": Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory for rows, such as 2GiB; more .npy rows are read in windows, others converted.",
            show_default="half of what is free",
        ),
    ],
}
ClassWeight = Annotated[
    str | None,
    typer.Option(metavar="balanced|FILE", help="Weights of classes: balanced, or a JSON file of weights by name."),
]
Missing = Annotated[
    str | None, typer.Option(help="Missing values of a table: refuse or impute.", show_default="refuse")
]
Val = Annotated[
    str | None,
    typer.Option(
        help="Validation rows cut from the training split, their share (0.2), or `test`.", show_default="one sixth"
    ),
]
Test = Annotated[
    str | None,
    typer.Option(help="Test rows, or their share, drawn where the data have no test split.", show_default="0.2"),
]


def reads_data(verb: Callable[..., None]) -> Callable[..., None]:
    """Give ``verb`` the options that say how its data set is read; it receives them as one dictionary, ``options``."""
    own = [one for one in signature(verb, eval_str=True).parameters.values() if one.name != "options"]
    kind = Parameter.KEYWORD_ONLY
    added = [Parameter(name, kind, default=None, annotation=type_) for name, type_ in _READING.items()]
    parameters = [one.replace(kind=kind) for one in (*own, *added)]

    @functools.wraps(verb)
    def with_options(**given: Any) -> None:
        options = {name: given.pop(name) for name in _READING}
        options["memory"] = size("--memory", options["memory"])
        verb(options=options, **given)

    with_options.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {one.name: one.annotation for one in parameters}
    return with_options


def size(option: str, text: str | None) -> int | None:
    """The bytes that ``"64MiB"``, ``"2 GB"`` or ``"1000000"`` is."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(?:([KMGT])(i?)B?)?", text, re.IGNORECASE | re.ASCII)
    if found is None:
        raise InputError(f"{option} must be a size such as 64MiB or 2GB, got {text!r}")
    power = " KMGT".index((found[2] or " ").upper())
    return int(float(found[1]) * (1024 if found[3] else 1000) ** power)


def rows(option: str, text: str | None) -> Any:
    """``text`` as a number of rows or a share of them; ``"test"`` and what is no number stay for others to refuse."""
    if text is None or (option == "--val" and text == "test"):
        return text
    try:
        return float(text) if "." in text else int(text)
    except ValueError as error:
        also = " or 'test'" if option == "--val" else ""
        raise InputError(
            f"{option} must be a number of rows, a share of them such as 0.2{also}, got {text!r}"
        ) from error


def class_weight(given: str | None) -> Any:
    """What ``--class-weight`` says: ``"balanced"``, or what a JSON file holds."""
    if given is None or given == "balanced":
        return given
    return read_json(Path(given), "class weights")


def file_name(data: str) -> str:
    """The name of a folder for what is made of a data set."""
    return re.sub(r"[:/,*?\\]", "_", data).strip("_.") or "data"
