"""The verbs predict and serve: exports answer."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tfsoftmax._checks import one_of, shown
from tfsoftmax.errors import InputError
from tfsoftmax.verbs import Json

if TYPE_CHECKING:
    import numpy as np

    from tfsoftmax.spec import ModelSpec

_log = logging.getLogger(__name__)


def predict(
    export: Annotated[Path, typer.Argument(metavar="EXPORT", help="Export folder, or one version folder in it.")],
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE…",
            help="Pictures, NPY, NPZ or IDX files; of a table CSV, TSV, Parquet or JSON lines; - reads one JSON array.",
        ),
    ],
    top: Annotated[int, typer.Option(help="Classes to show for each input, most probable first.", min=1)] = 3,
    fit: Annotated[bool, typer.Option("--fit", help="Convert pictures of another colour mode or size.")] = False,
    invert: Annotated[
        bool, typer.Option("--invert", help="For dark-on-light pictures: turn them light-on-dark.")
    ] = False,
    id_: Annotated[
        str | None, typer.Option("--id", help="Column of a table that names its rows.", show_default="their places")
    ] = None,
    unseen: Annotated[
        str, typer.Option(help="accept or refuse values of a table that training did not see.")
    ] = "accept",
    refuse_below: Annotated[
        float, typer.Option(help="Name no label where its probability is below this.", min=0, max=1)
    ] = 0.0,
    to: Annotated[
        Path | None, typer.Option(help="Write a .csv, .json or .parquet file.", show_default="standard output")
    ] = None,
    as_json: Json = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV: input, label, probability, then the rest of the top.")
    ] = False,
    escape: Annotated[
        bool, typer.Option("--escape", help="In CSV, put ' before what a spreadsheet would take for a formula.")
    ] = False,
) -> None:
    """Predict with an export, through ONNX Runtime."""
    if (as_json, as_csv, to is not None).count(True) > 1:
        raise InputError("--json, --csv and --to exclude each other: give one of them")
    one_of("--unseen", unseen, ("accept", "refuse"))
    from tfsoftmax import inputs, outputs
    from tfsoftmax.predict import Predictor

    predictor = Predictor(export)
    spec = predictor.spec
    if id_ is not None and not spec.columns:
        raise InputError(f"--id {id_} is for tables; this model takes {spec.input_name}")
    read = [inputs.parts(name, spec, fit=fit, invert=invert, id_column=id_) for name in files]

    def predictions() -> Iterator[outputs.Prediction]:
        for names, raw in itertools.chain.from_iterable(read):
            _note_unseen(unseen == "refuse", names, raw, spec)
            probabilities = predictor.answer(raw)["probabilities"]
            best = (-probabilities).argsort(axis=1, kind="stable")[:, : min(top, len(spec.classes))]
            for i, (name, order) in enumerate(zip(names, best, strict=True)):
                ranked = [(spec.classes[k], float(probabilities[i, k])) for k in order]
                yield outputs.Prediction(name, ranked, ranked[0][1] < refuse_below)

    if to is not None:
        print(f"{outputs.write(predictions(), to, escape):,} rows: {to}")
        return
    found = list(predictions())  # nothing is printed if something cannot be read
    if as_csv:
        print("".join(outputs.as_csv(found, escape)), end="")
    else:
        print("".join(outputs.as_json(found)) if as_json else outputs.as_text(found), end="")


def _note_unseen(refuse: bool, names: list[str], raw: np.ndarray, spec: ModelSpec) -> None:
    """Say, or refuse, what training did not see."""
    from tfsoftmax import columns

    if found := columns.unseen(raw, spec.columns):
        counted = ", ".join(f"{shown(name)} ({count:,} of {len(raw):,})" for name, count in found.items())
        text = f"{names[0]} and on: values that training did not see, in {counted}"
        if refuse:
            raise InputError(f"{text}; --unseen accept lets them speak for no class")
        _log.warning("%s; they speak for no class", text)


def serve(
    exports: Annotated[
        list[str],
        typer.Argument(
            metavar="EXPORT…", help="Export folders, or folders of them; NAME=EXPORT serves one under another name."
        ),
    ],
    host: Annotated[str, typer.Option(help="Name or address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="TCP port; 0 takes a free one.", min=0, max=65535)] = 8501,
    grpc_port: Annotated[
        int | None, typer.Option(help="TCP port of gRPC; 0 takes a free one.", min=0, max=65535, show_default="no gRPC")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes.", min=1)] = 1,
    max_body: Annotated[int, typer.Option(help="MiB of a request's body, counted after decompression.", min=1)] = 64,
    max_rows: Annotated[int, typer.Option(help="Rows in one request.", min=1)] = 16_384,
    timeout: Annotated[float, typer.Option(help="Seconds for a whole request.")] = 30,
    api_key_file: Annotated[Path | None, typer.Option(help="Keys that clients may send, one a line.")] = None,
    rate: Annotated[
        float | None, typer.Option(help="Requests a second that each key may send to a process.", show_default="any")
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(help="Requests that each key may have under way in a process.", min=1, show_default="any"),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Serve others than this machine, under any name, without a key.")
    ] = False,
    unseen: Annotated[
        str, typer.Option(help="accept or refuse rows of a table with a value that training did not see.")
    ] = "accept",
    access_log: Annotated[bool, typer.Option("--access-log", help="Print one JSON object a request.")] = False,
    traces: Annotated[
        bool, typer.Option("--traces", help="Send a span a request (OpenTelemetry; OTEL_* variables say where).")
    ] = False,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="Origin whose pages browsers let ask (CORS), once for each; * for all.", show_default="none"),
    ] = None,
) -> None:
    """Serve exports: TensorFlow Serving's protocol, the Open Inference Protocol, and a page at /."""
    from tfsoftmax.serving.settings import Settings, read_keys

    try:
        from tfsoftmax.serving import server
    except ImportError as error:
        raise InputError(f"serve needs more packages: pip install 'tfsoftmax[serve]' ({error})") from error
    if grpc_port is not None:
        try:
            from tfsoftmax.serving import rpc  # noqa: F401
        except ImportError as error:
            text = f"--grpc-port needs more packages: pip install 'tfsoftmax[serve,grpc]' ({error})"
            raise InputError(text) from error
    keys = () if api_key_file is None else read_keys(api_key_file)
    hosts: tuple[str, ...] = ()  # whoever needs a key may come under any name
    if not keys and not insecure:
        if not server.is_loopback(host):
            text = "give --api-key-file FILE, or --insecure to go without"
            raise InputError(f"--host {host} is reached by others: {text}")
        hosts = (host.lower(),)
    origins = tuple(allow_origin or ())
    settings = Settings(
        tuple(exports),
        max_body * 2**20,
        max_rows,
        timeout,
        keys,
        access_log,
        origins,
        unseen,
        hosts,
        rate,
        concurrency,
        traces,
    )
    server.run(settings, host, port, workers, grpc_port)
