"""The same app on a Ray cluster: `serve run tfsoftmax.serving.ray:app`, with TFSOFTMAX_SERVE naming the exports."""

from __future__ import annotations

from typing import Any, cast

from ray import serve
from starlette.types import ASGIApp

from tfsoftmax.serving.settings import Settings


def _build() -> ASGIApp:
    """Made in each replica: sessions of ONNX Runtime do not travel between processes."""
    from tfsoftmax.serving.app import create_app

    return create_app(Settings.from_environment())


@serve.deployment
@serve.ingress(_build)
class Softmax:
    """One replica. Replicas and autoscaling are set by Ray Serve's own config, or by ``Softmax.options``."""


app = cast(Any, Softmax).bind()
