"""The verbs predict and serve: exports answer."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tfsoftmax._quiet import quiet
from tfsoftmax.errors import InputError
from tfsoftmax.verbs import Json


def predict(
    export: Annotated[Path, typer.Argument(metavar="EXPORT", help="Export folder, or one version folder in it.")],
    files: Annotated[
        list[str], typer.Argument(metavar="FILE…", help="Pictures, NPY, NPZ or IDX files; - reads one JSON array.")
    ],
    top: Annotated[int, typer.Option(help="Classes to show for each input, most probable first.", min=1)] = 3,
    fit: Annotated[bool, typer.Option("--fit", help="Convert pictures of another colour mode or size.")] = False,
    invert: Annotated[
        bool, typer.Option("--invert", help="For dark-on-light pictures: turn them light-on-dark.")
    ] = False,
    as_json: Json = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV: input, label, probability, then the rest of the top.")
    ] = False,
) -> None:
    """Predict with an export, through ONNX Runtime."""
    if as_json and as_csv:
        raise InputError("--json and --csv exclude each other: give one of the two")
    from tfsoftmax import inputs
    from tfsoftmax.predict import Predictor

    predictor = Predictor(export)
    classes = predictor.spec.classes
    top = min(top, len(classes))
    with quiet():  # libtiff's own words on broken files
        batches = [(name, inputs.read(name, predictor.spec, fit=fit, invert=invert)) for name in files]
    answers: list[tuple[str, list[tuple[str, float]]]] = []
    for name, raw in batches:
        probabilities = predictor.answer(raw)["probabilities"]
        best = (-probabilities).argsort(axis=1, kind="stable")[:, :top]
        for i, order in enumerate(best):
            row = name if len(raw) == 1 else f"{name}[{i}]"
            answers.append((row, [(classes[k], float(probabilities[i, k])) for k in order]))
    if as_json:
        rows = [
            {"input": row, "label": ranked[0][0], "top": [{"label": label, "probability": p} for label, p in ranked]}
            for row, ranked in answers
        ]
        print(json.dumps({"predictions": rows}))
    elif as_csv:
        table = csv.writer(sys.stdout, lineterminator="\n")
        ranks = [field for k in range(2, top + 1) for field in (f"label_{k}", f"probability_{k}")]
        table.writerow(["input", "label", "probability", *ranks])
        table.writerows([row, *(field for pair in ranked for field in pair)] for row, ranked in answers)
    else:
        width = max((len(row) for row, _ in answers), default=0)
        for row, ranked in answers:
            print(f"{row:<{width}}  " + "   ".join(f"{label} {p:.1%}" for label, p in ranked))


def serve(
    exports: Annotated[
        list[str],
        typer.Argument(
            metavar="EXPORT…", help="Export folders, or folders of them; NAME=EXPORT serves one under another name."
        ),
    ],
    host: Annotated[str, typer.Option(help="Name or address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="TCP port; 0 takes a free one.", min=0, max=65535)] = 8501,
    workers: Annotated[int, typer.Option(help="Processes.", min=1)] = 1,
    max_body: Annotated[int, typer.Option(help="MiB of a request's body, counted after decompression.", min=1)] = 64,
    max_rows: Annotated[int, typer.Option(help="Rows in one request.", min=1)] = 16_384,
    timeout: Annotated[float, typer.Option(help="Seconds for a whole request.")] = 30,
    api_key_file: Annotated[Path | None, typer.Option(help="Keys that clients may send, one a line.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Serve others than this machine without a key.")] = False,
    unseen: Annotated[
        str, typer.Option(help="accept or refuse rows of a table with a value that training did not see.")
    ] = "accept",
    access_log: Annotated[bool, typer.Option("--access-log", help="Print one JSON object a request.")] = False,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="Origin whose pages browsers let ask (CORS), once for each; * for all.", show_default="none"),
    ] = None,
) -> None:
    """Serve exports: TensorFlow Serving's REST protocol, the Open Inference Protocol, and a page at /."""
    from tfsoftmax.serving.settings import Settings, read_keys

    try:
        from tfsoftmax.serving import server
    except ImportError as error:
        raise InputError(f"serve needs more packages: pip install 'tfsoftmax[serve]' ({error})") from error
    keys = () if api_key_file is None else read_keys(api_key_file)
    if not keys and not insecure and not server.is_loopback(host):
        raise InputError(f"--host {host} is reached by others: give --api-key-file FILE, or --insecure to go without")
    origins = tuple(allow_origin or ())
    settings = Settings(tuple(exports), max_body * 2**20, max_rows, timeout, keys, access_log, origins, unseen)
    server.run(settings, host, port, workers)
