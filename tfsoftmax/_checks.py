"""Checks of arguments, with errors that name the value and what was expected."""

from __future__ import annotations

import math
from typing import Any

from tfsoftmax.errors import InputError


def one_of(name: str, value: Any, choices: Any) -> None:
    """Raise InputError unless ``value`` is among ``choices``; the text lists them."""
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(sorted(choices))}, got {value!r}")


def number(name: str, value: Any, low: float, *, whole: bool = False, open_low: bool = False) -> None:
    """Raise InputError unless ``value`` is a finite number of at least (with ``open_low``: above) ``low``."""
    kinds = int if whole else (int, float)
    kind = "a whole number" if whole else "a finite number"
    good = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    if not good or value < low or (open_low and value == low):
        raise InputError(f"{name} must be {kind} {'above' if open_low else 'of at least'} {low:g}, got {value!r}")


def fraction(name: str, value: Any) -> None:
    """Raise InputError unless ``value`` is a number in [0, 1)."""
    number(name, value, 0)
    if value >= 1:
        raise InputError(f"{name} must be below 1, got {value!r}")
