"""Embeddings in Parquet files, a list column, that are larger than memory: read a part of a row group at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfsoftmax._checks import shown
from tfsoftmax.errors import InputError
from tfsoftmax.sources import tables
from tfsoftmax.sources.arrays import Source
from tfsoftmax.sources.columns import Choices, embedding, is_list
from tfsoftmax.sources.large import PART, Large, fingerprint, written
from tfsoftmax.sources.npy import budget

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


def parquet(path: str, memory: int | None = None, **options: Any) -> Source | Large:
    """Read Parquet files as ``tables.read_files`` does; a lone list column larger than ``memory`` is :class:`Large`.

    Args:
        path: a file, a folder of files or a pattern.
        memory: bytes that an embedding may take as float32; ``None``: half of what is free.
        options: of :class:`Choices`.
    """
    choices, files = Choices(**options), tables.files("parquet", path)
    heads = [_head(file) for file in files]
    rows, schema = sum(count for count, _ in heads), heads[0][1]
    name, memory = tables.name_of(path), budget(memory)
    no_inputs = {tables.label_of(name, schema.names, choices), *filter(None, (choices.group, choices.sample_weight))}
    inputs = [column for column in schema.names if column not in no_inputs | set(choices.drop)]
    if len(inputs) != 1 or not is_list(schema.field(inputs[0]).type) or not rows:
        return tables.read_files("parquet", path, choices)
    width = next((x.shape[1] for file in files for x in _parts(file, inputs[0], 1)), 0)
    if rows * width * 4 <= memory:
        return tables.read_files("parquet", path, choices)
    tables.check_named(name, schema.names, choices)
    if any(head.names != schema.names for _, head in heads):
        raise InputError(f"the files of {path!r} do not have the same columns")

    def write(folder: Path, progress: Callable[[int, int], None]) -> Source:
        others, stored, done = [], [], 0

        def parts(some: Sequence[Path]) -> Iterator[np.ndarray]:
            nonlocal done
            for file in some:
                for x in _parts(file, inputs[0], max(1, PART // (4 * width))):
                    if x.shape[1] != width:
                        raise InputError(
                            f"{str(file)!r}: a list of column {shown(inputs[0])} has {x.shape[1]:,} numbers, others "
                            f"{width:,}; they must be alike"
                        )
                    done += len(x)
                    yield x
                    progress(done, rows)

        for number, some in enumerate(tables.splits_of(files)):
            others.append(tables.joined([_columns(file, sorted(no_inputs)) for file in some], path))
            stored.append(written(folder / f"rows-{number}.part", parts(some), memory))
        kept = dataclasses.replace(choices, drop=(), category=(), number=())
        return tables.source(name, others[0], kept, others[1] if others[1:] else None, stored)

    return Large(name, fingerprint(files, choices), memory, write)


def _head(file: Path) -> tuple[int, pa.Schema]:
    """How many rows a file has, and its columns."""
    with tables.reading(file, "parquet"), _opened(file) as parquet:
        return parquet.metadata.num_rows, parquet.schema_arrow


def _columns(file: Path, names: list[str]) -> pa.Table:
    with tables.reading(file, "parquet"), _opened(file) as parquet:
        return parquet.read(columns=names)


def _parts(file: Path, name: str, size: int) -> Iterator[np.ndarray]:
    """The embedding of ``size`` rows at a time, float32 ``(size, numbers)``."""
    with tables.reading(file, "parquet"), _opened(file) as parquet:
        for group in range(parquet.num_row_groups):
            for batch in parquet.iter_batches(size, row_groups=[group], columns=[name], use_threads=False):
                if len(batch):
                    yield embedding(f"row group {group}", name, batch.column(0))


def _opened(file: Path) -> pq.ParquetFile:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(file, buffer_size=2**20)  # not a whole row group at once
