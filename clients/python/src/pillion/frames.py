"""Frames: what is written to the socket and read from it.

`u32 length of the rest | u16 length of the header | header | body`, big endian. Header and body are CBOR; a body with a content type
(`ct`) is bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from struct import Struct
from typing import Any

from cbor2 import dumps, loads

from .errors import BadArg, TooLarge

BODY_MAX = 63 * 1024 * 1024
HEADER_MAX = 65_535
FRAME_MAX = 64 * 1024 * 1024 + 128 * 1024
"""Nothing longer is a frame of this protocol."""

_LENGTHS = Struct(">IH")
pack_lengths = _LENGTHS.pack
unpack_lengths = _LENGTHS.unpack_from

_CACHED_MAX = 1024
_CACHED_BYTES_MAX = 512

OCTETS = "application/octet-stream"
"""The content type that a body gets which is no CBOR and has none."""


class Malformed(Exception):
    """What was read is no frame. The connection is of no more use."""


class _Absent:
    """No body at all, which is not the same as `None`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = _Absent()


def body_bytes(body: Any, ct: str | None) -> bytes:
    """The bytes of a body: as they are with a content type, else CBOR."""
    if ct is not None:
        if not isinstance(body, (bytes, bytearray, memoryview)):
            raise BadArg(f"a body with the content type {ct} is bytes, not {type(body).__name__}")
        raw = bytes(body)
    elif body is ABSENT:
        raw = b""
    else:
        try:
            raw = dumps(body)
        except Exception as error:
            raise BadArg(f"this cannot be written as CBOR: {error}") from error
    if len(raw) > BODY_MAX:
        raise TooLarge(f"a body of {len(raw)} bytes; no node takes more than {BODY_MAX}")
    return raw


def body_value(header: Mapping[str, Any], raw: bytes) -> tuple[Any, str | None]:
    """The value of a body and its content type. What is no CBOR stays bytes."""
    ct = header.get("ct")
    if ct is not None:
        return raw, str(ct)
    if not raw:
        return None, None
    try:
        return loads(raw), None
    except Exception:  # Whatever another app has written must not end this one's connection.
        return raw, OCTETS


def header_bytes(header: Mapping[str, Any]) -> bytes:
    try:
        raw = dumps(header)
    except Exception as error:
        raise BadArg(f"this cannot be written as CBOR: {error}") from error
    if len(raw) > HEADER_MAX:
        raise TooLarge(f"a command of {len(raw)} bytes beside its body; no node takes more than 64 KiB")
    return raw


def frame(header: Mapping[str, Any], body: bytes = b"") -> bytes:
    return raw_frame(header_bytes(header), body)


def raw_frame(header: bytes, body: bytes) -> bytes:
    size = len(header)
    return pack_lengths(size + len(body) + 2, size) + header + body


def uint(value: int) -> bytes:
    """A whole number in CBOR."""
    if value < 24:
        return _SMALL[value]
    if value < 0x100:
        return bytes((0x18, value))
    if value < 0x10000:
        return b"\x19" + value.to_bytes(2, "big")
    return dumps(value)


_SMALL = [bytes((value,)) for value in range(24)]


class Parser:
    """Cuts what is read into frames. Headers of events that come again and again are decoded once."""

    __slots__ = ("_parts", "_have", "_need", "_cache")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._have = 0
        self._need = 0
        self._cache: dict[bytes, dict[str, Any]] = {}

    def feed(self, data: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
        """The frames that are whole now: header and raw body of each. A header may be shared: nobody changes it."""
        if self._parts:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                return
            data = b"".join(self._parts)
            self._parts.clear()
        at, end_of_data = 0, len(data)
        cache = self._cache
        while end_of_data - at >= 6:
            size, header_size = unpack_lengths(data, at)
            if size > FRAME_MAX or header_size + 2 > size:
                raise Malformed(f"a frame of {size} bytes with a header of {header_size}")
            end = at + 4 + size
            if end > end_of_data:
                self._need = 4 + size
                break
            body_at = at + 6 + header_size
            raw = data[at + 6 : body_at]
            header = cache.get(raw)
            if header is None:
                header = self._header(raw)
            yield header, data[body_at:end]
            at = end
        else:
            self._need = 6
        if at < end_of_data:
            rest = data[at:] if at else data
            self._parts.append(rest)
            self._have = len(rest)

    def _header(self, raw: bytes) -> dict[str, Any]:
        try:
            header = loads(raw)
        except Exception as error:
            raise Malformed(f"a header that is no CBOR: {error}") from error
        if not isinstance(header, dict):
            raise Malformed("a header that is no map")
        if header.get("ev") in ("message", "cast") and len(raw) <= _CACHED_BYTES_MAX:
            if len(self._cache) >= _CACHED_MAX:
                self._cache.clear()
            self._cache[raw] = header
        return header
