"""The cache of ``train``: a data set that trains as row files alone, or better, becomes row files once."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tfsoftmax import sources
from tfsoftmax.mixing import ENOUGH, mixing
from tfsoftmax.sources.converted import convert
from tfsoftmax.sources.large import Large
from tfsoftmax.spec import OPTIONS, RunConfig
from tfsoftmax.stored import Stored
from tfsoftmax.windows import Plan


def prepared(
    settings: RunConfig, cache: Path, say: Callable[[str], None], progress: Callable[[int, int], None] | None = None
) -> RunConfig:
    """``settings`` with row files in ``cache`` instead of data that need them; they are made where they are not there.

    Data need them that are larger than memory and cannot be read in windows, or whose files are so sorted that batches
    hold fewer than 0.9 of the classes of a full shuffle. The folder is found by the fingerprint of the data.

    Args:
        settings: of the run, with the name of a data set.
        cache: the folder with the folders of row files. Processes that want the same wait for each other.
        say: gets one line where row files are made or used.
        progress: as of ``convert``.
    """
    if settings.data is None:
        return settings
    given = {name: getattr(settings, name) for name in OPTIONS}
    source = sources.opened(settings.data, **given)
    if isinstance(source, Large):
        why = f"takes more memory than the {source.memory:,} bytes that rows may take"
    elif isinstance(source.x_train, Stored):
        plan = Plan.of(source.x_train, None, settings.batch_size)
        share = mixing(source.y_train, plan, settings.batch_size, settings.seed)["share"]
        if share >= ENOUGH:
            return settings
        why = f"is sorted by class (batches hold {share:.2f} of the classes of a full shuffle)"
    else:
        return settings
    key = hashlib.blake2b(source.fingerprint.encode(), digest_size=8).hexdigest()
    folder = cache / key
    there = folder.exists()
    say(
        f"{settings.data!r} {why}: "
        f"{'its row files are' if there else 'writing row files, shuffled, to'} {str(folder)!r}"
    )
    if not there:
        convert(source, folder, progress=progress, shared=True)
    kept: dict[str, Any] = {name: settings.memory if name == "memory" else None for name in OPTIONS}
    return dataclasses.replace(settings, data=f"rows:{folder}", fingerprint=None, **kept)
