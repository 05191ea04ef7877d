"""Checks of arguments, with errors that name the value and what was expected."""

from __future__ import annotations

import functools
import math
import numbers
import reprlib
import types
import typing
from collections.abc import Sequence
from typing import Any

from tfsoftmax.errors import InputError

INT32, INT64 = 2**31 - 1, 2**63 - 1  # what TensorFlow counts rows and epochs with; its seeds

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100

_NAMES = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}


def shown(value: Any) -> str:
    """``value`` for an error message: one line, cut in the middle where it is long."""
    return " ".join(_SHORT.repr(value).split())


def one_of(name: str, value: Any, choices: Any) -> None:
    """Raise InputError unless ``value`` is a string among ``choices``; the text lists them."""
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{name} must be one of {', '.join(sorted(choices))}, got {shown(value)}")


def number(
    name: str, value: Any, low: float, high: float = math.inf, *, whole: bool = False, open_low: bool = False
) -> Any:
    """Return ``value``, which may be a NumPy scalar, as a plain ``float`` or, with ``whole``, ``int``.

    Raises:
        InputError: it is not a finite number of at least (with ``open_low``: above) ``low``, and at most ``high``.
    """
    plain = _plain(value, int if whole else float)
    if plain is None or not (plain > low or (plain == low and not open_low)) or plain > high or plain == math.inf:
        kind = "a whole number" if whole else "a finite number"
        bound = f"{'above' if open_low else 'of at least'} {low:g}"
        if plain is not None and plain > high:
            bound = f"of at most {high}"
        raise InputError(f"{name} must be {kind} {bound}, got {shown(value)}")
    return plain


def fraction(name: str, value: Any) -> float:
    """Return ``value`` as a plain ``float``; raise InputError unless it is a number in [0, 1)."""
    plain: float = number(name, value, 0)
    if plain >= 1:
        raise InputError(f"{name} must be below 1, got {shown(value)}")
    return plain


def class_names(what: str, names: Sequence[str]) -> None:
    """Raise InputError unless ``names`` are at least two different lines of text; ``what`` says whose they are."""
    if len(names) < 2:
        raise InputError(f"{what} needs at least 2 classes, got {len(names)}")
    seen: dict[str, int] = {}
    for label, name in enumerate(names):
        if not name.strip() or name.splitlines() != [name]:
            raise InputError(
                f"{what}: class name {label} is {shown(name)}, expected one line of text (name.strip() takes away the "
                "line break that readlines() leaves)"
            )
        if name in seen:
            raise InputError(f"{what}: the classes {seen[name]} and {label} are both called {shown(name)}; rename one")
        seen[name] = label


def _plain(value: Any, kind: type) -> Any:
    """The number ``value``, Python's or NumPy's, as ``kind`` (int or float); None if it is no such number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral if kind is int else numbers.Real):
        return None
    try:
        return kind(value)
    except OverflowError:
        return None


def typed(name: str, value: Any, hint: Any) -> Any:
    """Return ``value`` as the type hint ``hint`` says; ``name`` is what errors call it.

    Hints may be the types of JSON, ``list``, ``tuple`` and ``dict`` of them, unions, typed dictionaries (whose unknown
    keys stay) and ``Any``. Lists become tuples where the hint says so; NumPy scalars become plain numbers.

    Raises:
        InputError: another type; the text names the place inside ``value``.
    """
    if hint is Any:
        return value
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        fits = next((option for option in options if _outer(value, option)), None)
        if fits is None:
            raise InputError(f"{name} must be {' or '.join(map(_name, options))}, got {shown(value)}")
        return typed(name, value, fits)
    if not _outer(value, hint):
        raise InputError(f"{name} must be {_name(hint)}, got {shown(value)}")
    if hint in (int, float):
        return _plain(value, hint)
    if hint is str:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{name} must be text without lone surrogates, got {shown(value)}") from error
        return str(value)
    if typing.is_typeddict(hint):
        if missing := sorted(hint.__required_keys__ - value.keys()):
            raise InputError(f"{name} has no {missing[0]!r}")
        inner = _hints(hint)
        return {key: typed(f"{name}.{key}", one, inner[key]) if key in inner else one for key, one in value.items()}
    outer = typing.get_origin(hint)
    return _inside(name, value, outer, typing.get_args(hint)) if outer else value


def _inside(name: str, value: Any, outer: Any, inner: tuple[Any, ...]) -> Any:
    """The elements of a list, tuple or dictionary."""
    if outer is dict:
        return {
            typed(f"a key of {name}", key, str): typed(_place(name, key), one, inner[1]) for key, one in value.items()
        }
    if outer is tuple and ... not in inner:
        if len(value) != len(inner):
            raise InputError(f"{name} must have {len(inner)} elements, got {shown(value)}")
        return tuple(typed(f"{name}[{i}]", one, hint) for i, (one, hint) in enumerate(zip(value, inner, strict=True)))
    if inner[0] is float and all(type(one) is float for one in value):  # a constant for each of many inputs
        return outer(value)
    return outer(typed(f"{name}[{i}]", one, inner[0]) for i, one in enumerate(value))


def _place(name: str, key: str) -> str:
    """What errors call the value of a key, which may be any text, in one line."""
    return f"{name}.{key}" if key.isidentifier() else f"{name}[{shown(key)}]"


def _outer(value: Any, hint: Any) -> bool:
    """Whether ``value`` is of the type that ``hint`` has outside."""
    if hint in (int, float):
        return _plain(value, hint) is not None
    if typing.is_typeddict(hint) or typing.get_origin(hint) is dict:
        return isinstance(value, dict)
    if typing.get_origin(hint) in (list, tuple):
        return isinstance(value, (list, tuple))
    return isinstance(value, hint)


def _name(hint: Any) -> str:
    if typing.is_typeddict(hint) or typing.get_origin(hint) is dict:
        return "an object"
    return _NAMES.get(hint, "a list")


@functools.cache
def _hints(owner: Any) -> dict[str, Any]:
    return typing.get_type_hints(owner)


def typed_fields(made: Any) -> None:
    """Replace the fields of a frozen dataclass by what :func:`typed` returns for them and their hints."""
    for name, hint in _hints(made.__class__).items():
        object.__setattr__(made, name, typed(name, getattr(made, name), hint))
