"""The budget of one request: small in the event loop, larger in the helper process."""

from __future__ import annotations

import dataclasses
import zlib

from tfsoftmax.errors import InputError

INLINE = 128 * 1024  # bytes of a body up to which it is cheaper to answer here than in the helper
PIECE = 16 * 2**20  # bytes that are decompressed at once
MAX_PIXELS = 32_000_000  # of all pictures in one request; more would take too long and too much memory to decode


class TooMuch(Exception):
    """Too much for the event loop: the request starts over in the helper process."""


class Refused(Exception):
    """An error answer: its status, its text, and extra headers."""

    def __init__(self, status: int, text: str, *headers: tuple[bytes, bytes]):
        super().__init__(text)
        self.status, self.headers = status, headers


@dataclasses.dataclass(slots=True)
class Effort:
    """The remaining budget of one request.

    Args:
        max_body: bytes of its body after decompression.
        inline: computed in the event loop, where exceeding the budget raises TooMuch.
        files: bytes of picture files, in the event loop.
        pixels: pixels of its pictures.
        numbers: numbers in its answer, in the event loop.
    """

    max_body: int
    inline: bool
    files: int = 16 * 1024
    pixels: int = MAX_PIXELS
    numbers: int = 16 * 1024

    @classmethod
    def here(cls, max_body: int) -> Effort:
        """The budget in the event loop: about two milliseconds."""
        return cls(max_body, True, pixels=INLINE)

    def picture_file(self, size: int) -> None:
        """Account for opening a picture file of ``size`` bytes, before it is opened."""
        self.files -= size
        if self.inline and self.files < 0:
            raise TooMuch

    def picture(self, width: int, height: int) -> None:
        """Account for decoding a picture, before it is decoded. Raises InputError."""
        self.pixels -= width * height
        if self.pixels < 0:
            if self.inline:
                raise TooMuch
            raise InputError(
                f"the pictures of this request have more than {MAX_PIXELS:,} pixels, "
                f"one of them {width}x{height}: send smaller ones, or fewer"
            )

    def answer(self, numbers: int) -> None:
        """Account for an answer of so many numbers, before it is computed."""
        self.numbers -= numbers
        if self.inline and self.numbers < 0:
            raise TooMuch

    def decompress(self, body: bytes, encoding: bytes) -> bytes:
        """Decompress a gzip or deflate body. Raises Refused."""
        if encoding in (b"", b"identity"):
            return body
        check_encoding(encoding)
        raw = encoding == b"deflate" and (body[:1] or b"\0")[0] & 15 != 8  # some send deflate without the zlib header
        most = min(INLINE, self.max_body) if self.inline else self.max_body
        parts: list[bytes] = []
        size = 0
        while body:  # a gzip file may have several members, one after the other
            inflate = zlib.decompressobj(-15 if raw else 47)
            while not inflate.eof:
                try:
                    part = inflate.decompress(body, min(PIECE, most - size + 1))
                except zlib.error as error:
                    raise Refused(400, f"the body is not {encoding.decode()}: {error}") from error
                body = inflate.unconsumed_tail
                if not part and not body:
                    break
                parts.append(part)
                size += len(part)
                if size > most:
                    if self.inline and most < self.max_body:
                        raise TooMuch
                    raise Refused(413, f"the body is larger than {self.max_body} bytes after decompression")
            body = inflate.unused_data
            if not inflate.eof or (body and b"gzip" not in encoding):
                break
        else:
            return b"".join(parts)
        raise Refused(400, f"the {encoding.decode()} body is truncated, or data follows its end")


def check_encoding(encoding: bytes) -> None:
    """Raise Refused unless this content encoding is supported."""
    if encoding not in (b"", b"identity", b"gzip", b"x-gzip", b"deflate"):
        text = f"content encoding {encoding.decode('latin-1')!r} is not supported; gzip, deflate and identity are"
        raise Refused(415, text, (b"accept-encoding", b"gzip, deflate"))
