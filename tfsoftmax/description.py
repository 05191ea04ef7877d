"""What a folder of ours holds, on one screen: a run, an export or a search. No heavy imports."""

from __future__ import annotations

import contextlib
import dataclasses
import textwrap
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any, TypedDict

from tfsoftmax._checks import typed
from tfsoftmax._files import read_json
from tfsoftmax._kinds import EXPORT, RUN, TUNE, UNFINISHED, VERSION, kind
from tfsoftmax.errors import InputError
from tfsoftmax.exporting import manifest
from tfsoftmax.exporting.versions import versions
from tfsoftmax.findings import one_line
from tfsoftmax.runs.evaluation import checked, proof, read_metrics, summary
from tfsoftmax.runs.folder import best_epoch, has_finished, history
from tfsoftmax.spec import SOLVER, ModelSpec, RunConfig
from tfsoftmax.tuned import Tuned

_WIDTH, _BEST = 100, 5
_ALWAYS = ("epochs", "batch_size", "lr", "seed")  # settings that are shown though they are the default
_ELSEWHERE = ("data", "fingerprint")
_OF_TRIAL = ("best_epoch", "val_loss", "val_accuracy", "gap", "passes")
_OF_SPLIT = ("rows", "loss", "accuracy", "accuracy_95")


class _Row(TypedDict):
    """What is shown of a row of the parity table."""

    format: str
    file: str
    bytes: int
    logits: float
    classes: int
    accuracy: float | None
    ok: bool


class _Exported(TypedDict):
    """What is shown of a manifest."""

    spec: dict[str, Any]
    config: dict[str, Any] | None
    metrics: dict[str, Any] | None
    tools: dict[str, str]
    parity: list[_Row]


def describe(folder: Path) -> dict[str, Any]:
    """What ``folder`` holds, for JSON: ``kind`` is ``"run"``, ``"export"`` or ``"tune"``, and what else depends on it.

    Raises:
        InputError: it is no such folder, or one of its files is not as it was written.
    """
    found = kind(folder)
    made = found and _KINDS.get(found[0])
    if not made:
        what = f"{str(folder)!r} is {found[0]}" if found else f"there is nothing of ours in {str(folder)!r}"
        if not folder.exists():
            what = f"there is no folder {str(folder)!r}"
        raise InputError(f"{what}: describe takes a run, an export or a tune folder")
    return made(folder)


def text(found: dict[str, Any]) -> str:
    """What :func:`describe` returns, as lines for people."""
    rows = lines(found)
    width = max(len(name) for name, _ in rows)
    made = []
    for name, value in rows:
        wrapped = textwrap.wrap(value, _WIDTH - width - 2, break_on_hyphens=False) or [""]
        made += [f"{name if k == 0 else '':<{width}}  {line}" for k, line in enumerate(wrapped)]
    table = _table(found)
    return "\n".join([*made, "", *table] if table else made)


def html(found: dict[str, Any]) -> str:
    """The same as a table for a notebook."""
    left, rows = 'style="text-align: left; vertical-align: top"', lines(found)
    return "<table>{}</table>".format(
        "".join(
            f'<tr><th scope="row" {left}>{escape(name)}</th><td {left}><bdi>{escape(value)}</bdi></td></tr>'
            for name, value in rows
        )
    )


def lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The same as pairs of a name and one line."""
    rows = [(found["kind"], f"{found['folder']} ({found['state']}; {found['files']:,} files, {_size(found['bytes'])})")]
    if found.get("versions"):
        rows.append(("versions", ", ".join(map(str, found["versions"]))))
    rows += _of_data(found)
    if found["kind"] == "tune":
        rows += _of_search(found)
    if found.get("classes"):
        names = ", ".join(one_line(name, 30) for name in found["classes"][:20])
        more = "" if len(found["classes"]) <= 20 else f" and {len(found['classes']) - 20:,} more"
        rows.append(("classes", f"{len(found['classes']):,}: {names}{more}"))
        rows.append(("input", _input(found)))
    if found["config"]:
        rows.append(("settings" if found["kind"] != "tune" else "best", _settings(found["config"])))
    rows += _of_training(found)
    return rows


def _of_data(found: dict[str, Any]) -> list[tuple[str, str]]:
    counts = found["data"]["rows"]
    train, test = counts.get("train"), counts.get("test")
    rows = ""
    if train:
        rows = f"{train:,} rows" if test is None else f"{train:,} training and {test:,} test rows"
    drawn = " (the test rows are drawn from them)" if train and test is None else ""
    made = [("data", ": ".join(filter(None, (one_line(found["data"]["name"] or "made in Python", 60), rows))) + drawn)]
    if found["data"]["fingerprint"]:
        made.append(("fingerprint", found["data"]["fingerprint"]))
    return made


def _of_search(found: dict[str, Any]) -> list[tuple[str, str]]:
    space = "; ".join(
        f"{name} {values['low']:.4g} to {values['high']:.4g}"
        if isinstance(values, dict)
        else f"{name} {', '.join(map(_short, values))}"
        for name, values in found["space"].items()
    )
    counts = ", ".join(f"{count:,} {status}" for status, count in found["trials"].items())
    return [("searched", f"{space}, by {found['tuner']}, for {found['objective']}"), ("trials", counts or "none")]


def _of_training(found: dict[str, Any]) -> list[tuple[str, str]]:
    rows, config = [], found["config"]
    if found.get("optimum"):
        rows.append(("optimum", proof(found["optimum"])))
    elif found.get("epochs") is not None and config and config["optimizer"] != SOLVER:
        best = f"; the validation loss is lowest after epoch {found['best_epoch']}" if found.get("best_epoch") else ""
        rows.append(("epochs", f"{found['epochs']:,} of {config['epochs']:,}{best}"))
    if found.get("seconds") is not None:
        rows.append(("seconds", f"{found['seconds']:.1f}"))
    rows += [(split, summary(found[split])) for split in ("val", "test") if found.get(split)]
    if found.get("temperature"):
        inside = {True: ", in the weights", False: ", not in the weights", None: ""}[found.get("calibrated")]
        rows.append(("temperature", f"{found['temperature']:.4g}, fitted on the validation rows{inside}"))
    return rows


def _table(found: dict[str, Any]) -> list[str]:
    """The parity of an export, or the best trials of a search."""
    if found["kind"] == "export":
        heads = ["format", "file", "bytes", "logits differ", "classes", "accuracy", "ok"]
        rows = [
            [
                *(row["format"], row["file"], f"{row['bytes']:,}", f"{row['logits']:.1e}", f"{row['classes']:,}"),
                *(_short(row["accuracy"]), "yes" if row["ok"] else "NO"),
            ]
            for row in found["formats"]
        ]
    elif found["kind"] == "tune" and found["best"]:
        heads = [name for name in ("trial", *found["space"], *_OF_TRIAL) if name in found["best"][0]]
        rows = [[_short(row[name]) for name in heads] for row in found["best"]]
    else:
        return []
    widths = [max(len(row[k]) for row in (heads, *rows)) for k in range(len(heads))]
    left = 2 if found["kind"] == "export" else 1
    return [
        "  ".join(
            value.ljust(width) if k < left else value.rjust(width)
            for k, (value, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (heads, *rows)
    ]


def _run(folder: Path) -> dict[str, Any]:
    config = RunConfig.of_run(folder / "config.json")
    spec = ModelSpec.load(folder / "spec.json", "model specification")
    past, finished = history(folder), has_finished(folder)
    metrics = read_metrics(folder / "metrics.json") if finished else {}
    return {
        **_head("run", folder, "finished" if finished else "not finished: the same `tfsoftmax train` goes on"),
        "finished": finished,
        **_about(spec, config),
        **_figures(metrics),
        "epochs": metrics.get("epochs", len(past.get("epoch", []))),
        "best_epoch": best_epoch(past),
    }


def _export(folder: Path) -> dict[str, Any]:
    found = versions(folder)
    return _version(folder / str(found[-1]), folder, found)


def _version(version: Path, folder: Path | None = None, found: list[int] | None = None) -> dict[str, Any]:
    what = f"manifest {str(version / manifest.NAME)!r}"
    values = typed(what, read_json(version / manifest.NAME, "manifest"), _Exported)
    spec = ModelSpec.from_dict(values["spec"], f"{what}.spec")
    config = None if values["config"] is None else RunConfig.from_dict(values["config"], f"{what}.config")
    ok = all(row["ok"] for row in values["parity"])
    metrics = {} if values["metrics"] is None else checked(values["metrics"], f"{what}.metrics")
    return {
        **_head(
            "export",
            folder or version,
            f"version {version.name} " + ("answers as the model did" if ok else "does not answer as the model did"),
        ),
        "versions": found or [int(version.name)] * version.name.isdecimal(),
        **_about(spec, config),
        **_figures(metrics),
        "calibrated": "temperature" in metrics,
        "formats": values["parity"],
        "tools": values["tools"],
    }


def _tune(folder: Path) -> dict[str, Any]:
    found = Tuned(folder)
    config, trials = found.asked["config"], found.trials
    counts: dict[str, int] = {}
    for status in [row["status"] for row in trials] or ["trained"] * len(found.histories):
        counts[status] = counts.get(status, 0) + 1
    return {
        **_head("tune", folder, "finished" if trials else "not finished: the same `tfsoftmax tune` goes on"),
        "finished": bool(trials),
        "data": _data(config.data, config.fingerprint),
        **{name: found.asked[name] for name in ("space", "tuner", "objective")},
        "trials": counts,
        "best": [row for row in trials if row["status"] == "completed"][:_BEST],
        "config": found.best and dataclasses.asdict(found.best),
    }


_KINDS: dict[str, Callable[[Path], dict[str, Any]]] = {
    RUN: _run,
    UNFINISHED: _run,
    EXPORT: _export,
    VERSION: _version,
    TUNE: _tune,
}


def _head(name: str, folder: Path, state: str) -> dict[str, Any]:
    sizes = []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # what is written now is renamed
            if path.is_file():
                sizes.append(path.stat().st_size)
    return {"kind": name, "folder": str(folder), "state": state, "files": len(sizes), "bytes": sum(sizes)}


def _about(spec: ModelSpec, config: RunConfig | None) -> dict[str, Any]:
    name, fingerprint = spec.name, spec.fingerprint
    if config is not None:
        name, fingerprint = config.data or name, fingerprint or config.fingerprint
    return {
        "data": _data(name, fingerprint),
        "classes": list(spec.classes),
        "input": {"name": spec.input_name, "shape": list(spec.shape), "dtype": spec.dtype},
        "columns": [{"name": column.name, "kind": column.kind, "dtype": column.dtype} for column in spec.columns],
        "preprocess": spec.preprocess,
        "config": config and dataclasses.asdict(config),
    }


def _data(name: str | None, fingerprint: str | None) -> dict[str, Any]:
    counts = dict(part.split(":")[:2] for part in (fingerprint or "").split() if part.count(":") == 2)
    rows = {split: int(counts[split]) for split in ("train", "test") if counts.get(split, "").isdecimal()}
    return {"name": name, "fingerprint": fingerprint, "rows": rows}


def _figures(metrics: dict[str, Any]) -> dict[str, Any]:
    if not metrics:
        return {"val": None, "test": None, "temperature": None, "seconds": None}
    val = metrics["val"] or {}
    return {
        **{split: metrics[split] and {name: metrics[split][name] for name in _OF_SPLIT} for split in ("val", "test")},
        "temperature": metrics.get("temperature") or val.get("calibrated", {}).get("temperature"),
        "seconds": metrics["seconds"],
        "epochs": metrics["epochs"],
        "optimum": metrics.get("optimum"),
    }


def _input(found: dict[str, Any]) -> str:
    if columns := found["columns"]:
        kinds = [column["kind"] for column in columns]
        names = ", ".join(f"{one_line(column['name'], 30)} ({column['kind']})" for column in columns[:20])
        more = "" if len(columns) <= 20 else f" and {len(columns) - 20:,} more"
        return f"{len(kinds):,} columns: {names}{more}; {found['preprocess']}"
    shape = "x".join(map(str, found["input"]["shape"]))
    return f"{found['input']['name']}, {shape} {found['input']['dtype']}; {found['preprocess']}"


def _settings(config: dict[str, Any]) -> str:
    """The settings that are not the default, and those that everybody asks for."""
    plain, always = dataclasses.asdict(RunConfig()), ("seed",) if config["optimizer"] == SOLVER else _ALWAYS
    shown = [
        name for name, value in config.items() if name in always or (value != plain[name] and name not in _ELSEWHERE)
    ]
    return ", ".join(f"{name} {one_line(_short(config[name]), 60)}" for name in shown)


def _short(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"
