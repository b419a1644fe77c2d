"""A request as it came over the wire, before anybody has interpreted it.

Text is UTF-8 with surrogateescape, so that every byte a client sent can be had back: a signature is over bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import unquote_to_bytes


def to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def to_text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


@dataclass(frozen=True, kw_only=True)
class WireRequest:
    method: str
    # As sent, percent-encoding untouched, without the query.
    raw_path: str
    # As sent, without the question mark.
    raw_query: str
    # Names in lower case; in the order of arrival, repeated ones repeated.
    headers: tuple[tuple[str, str], ...]
    source_ip: str = ""
    # Over TLS.
    secure: bool = False

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, value in self.headers:
            found.setdefault(name, []).append(value)
        return found

    def header(self, name: str) -> str | None:
        """The first one of that (lower-case) name."""
        values = self._by_name.get(name)
        return values[0] if values else None

    def header_values(self, name: str) -> list[str]:
        return self._by_name.get(name, [])

    @property
    def header_names(self) -> Iterable[str]:
        return self._by_name

    @cached_property
    def query(self) -> tuple[tuple[bytes, bytes], ...]:
        """Decoded names and values; `+` is a space and a name without `=` has an empty value, as S3 reads them."""
        return tuple(decode_query(self.raw_query))

    @cached_property
    def _by_query_name(self) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for name, value in self.query:
            found.setdefault(name, value)
        return found

    def query_value(self, name: str) -> str | None:
        """The first one of that name."""
        value = self._by_query_name.get(name.encode())
        return None if value is None else to_text(value)

    @property
    def host(self) -> str:
        return self.header("host") or ""


def decode_query(raw_query: str) -> Iterable[tuple[bytes, bytes]]:
    for pair in raw_query.split("&"):
        if pair:
            name, _, value = pair.partition("=")
            yield _decode(name), _decode(value)


def _decode(text: str) -> bytes:
    raw = to_bytes(text)
    if b"+" in raw:
        raw = raw.replace(b"+", b" ")
    return unquote_to_bytes(raw) if b"%" in raw else raw


def split_target(target: str) -> tuple[str, str]:
    """Raw path and raw query of a request target, also of the absolute form that proxies send (RFC 9112, 3.2.2)."""
    if not target.startswith("/") and "://" in target:
        rest = target.split("://", 1)[1]
        slash = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
        target = rest[slash:]
    path, _, query = target.partition("?")
    return path or "/", query
