"""Settings of the server: what it serves, and the limits of every request."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

from tfsoftmax._checks import number, one_of
from tfsoftmax.errors import InputError

VARIABLE = "TFSOFTMAX_SERVE"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the app serves, and its limits.

    Args:
        exports: export folders, or folders of export folders; ``NAME=FOLDER`` serves one export under another name.
        max_body: largest request body in bytes, counted after decompression.
        max_rows: largest number of rows in one request.
        timeout: seconds for a whole request; a slower body is answered 408, a slower computation 504.
        api_keys: valid keys for ``Authorization: Bearer KEY``; none: no key is required.
        access_log: print one JSON object per request on standard output.
        unseen: of tables: ``"accept"`` values that training did not see, which speak for no class, or ``"refuse"`` the
            request.
        allow_origins: origins whose pages may send requests (CORS), ``*`` for all; none: this server only.
        hosts: names that requests may be for, beside those of this machine, in small letters; none: any.
        rate: requests a second that each key may send to one process, and at once; none: any number.
        concurrency: requests that each key may have under way in one process; none: any number.
        traces: send a span per request, by OpenTelemetry.
    """

    exports: tuple[str, ...]
    max_body: int = 64 * 2**20
    max_rows: int = 16_384
    timeout: float = 30.0
    api_keys: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    access_log: bool = False
    allow_origins: tuple[str, ...] = ()
    unseen: str = "accept"
    hosts: tuple[str, ...] = ()
    rate: float | None = None
    concurrency: int | None = None
    traces: bool = False

    def __post_init__(self) -> None:
        for name in ("exports", "api_keys", "allow_origins", "hosts"):
            object.__setattr__(self, name, _texts(name, getattr(self, name)))
        if not self.exports:
            raise InputError("nothing to serve: name an export folder, or a folder of them")
        one_of("--unseen", self.unseen, ("accept", "refuse"))
        number("--max-body", self.max_body, 1, whole=True)
        number("--max-rows", self.max_rows, 1, whole=True)
        number("--timeout", self.timeout, 0, open_low=True)
        if self.rate is not None:
            number("--rate", self.rate, 0, open_low=True)
        if self.concurrency is not None:
            number("--concurrency", self.concurrency, 1, whole=True)
        for option, value in (("--rate", self.rate), ("--concurrency", self.concurrency)):
            if value is not None and not self.api_keys:
                raise InputError(f"{option} {value:g} is per key: give --api-key-file FILE too, or leave it out")
        for name in ("access_log", "traces"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} must be true or false, got {getattr(self, name)!r}")
        for origin in self.allow_origins:
            if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+", origin):
                raise InputError(f"--allow-origin {origin!r} is not one: expected https://HOST[:PORT], or * for all")

    @classmethod
    def from_environment(cls) -> Settings:
        """Settings from the variable ``TFSOFTMAX_SERVE``: one JSON object of the fields, or one export folder."""
        text = os.environ.get(VARIABLE, "")
        if not text:
            raise InputError(f"{VARIABLE} is not set: set it to an export folder, or a JSON object of settings")
        if not text.startswith("{"):
            return cls((text,))
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise InputError(f"{VARIABLE} holds no settings: {error}") from error


def _texts(name: str, value: Any) -> tuple[str, ...]:
    """A list of strings, or a single one."""
    found = (value,) if isinstance(value, str) else value
    if not isinstance(found, (list, tuple)) or not all(isinstance(item, str) and item for item in found):
        raise InputError(f"{name} must be a string or a list of strings, got {type(value).__name__}")
    return tuple(found)


def read_keys(path: Path) -> tuple[str, ...]:
    """The keys in a file, one per line; empty lines are skipped. Raises InputError."""
    try:
        keys = tuple(line.strip() for line in path.read_text(encoding="ascii").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the keys in {str(path)!r}: {error}") from error
    if not keys:
        raise InputError(f"{str(path)!r} holds no key; write one a line")
    if short := [key for key in keys if len(key) < 16 or " " in key]:
        raise InputError(
            f"a key in {str(path)!r} has {len(short[0])} characters; 16 or more are needed, without spaces"
        )
    return keys
