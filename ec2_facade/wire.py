"""A request as it came over the wire, before anybody has interpreted it.

Text is UTF-8 with surrogateescape, so that every byte a client sent can be had back: a signature is over bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes


def to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def to_text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


# Not frozen: one is made for every request, and freezing costs as much as all the rest of it.
@dataclass(slots=True, kw_only=True, eq=False)
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
    _by_name: dict[str, list[str]] = field(init=False, repr=False)
    _query: tuple[tuple[bytes, bytes], ...] | None = field(init=False, repr=False, default=None)
    _texts: dict[str, str] | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        self._by_name = {}
        for name, value in self.headers:
            if name in self._by_name:
                self._by_name[name].append(value)
            else:
                self._by_name[name] = [value]

    def header(self, name: str) -> str | None:
        """The first one of that (lower-case) name."""
        values = self._by_name.get(name)
        return values[0] if values else None

    def header_values(self, name: str) -> list[str]:
        return self._by_name.get(name, [])

    @property
    def header_names(self) -> Iterable[str]:
        return self._by_name

    @property
    def query(self) -> tuple[tuple[bytes, bytes], ...]:
        """Decoded names and values; `+` is a space and a name without `=` has an empty value, as S3 reads them."""
        if self._query is None:
            self._query = tuple(decode_query(self.raw_query)) if self.raw_query else ()
        return self._query

    @property
    def query_texts(self) -> Mapping[str, str]:
        """By name; of one given twice the first counts."""
        if self._texts is None:
            self._texts = {}
            for name, value in self.query:
                self._texts.setdefault(to_text(name), to_text(value))
        return self._texts

    def query_value(self, name: str) -> str | None:
        """The first one of that name."""
        return self.query_texts.get(name)

    @property
    def host(self) -> str:
        return self.header("host") or ""


def decode_query(raw_query: str) -> Iterable[tuple[bytes, bytes]]:
    for pair in raw_query.split("&"):
        if pair:
            name, _, value = pair.partition("=")
            yield _decode(name), _decode(value)


def _decode(text: str) -> bytes:
    if "%" not in text and "+" not in text:
        return to_bytes(text)
    return _decoded_again(text) if len(text) <= _SHORT_CHARACTERS else _decoded(text)


def _decoded(text: str) -> bytes:
    return unquote_to_bytes(to_bytes(text).replace(b"+", b" "))


# Credentials and the like are the same from one request to the next.
_decoded_again = lru_cache(maxsize=1024)(_decoded)
_SHORT_CHARACTERS: Final = 256


def split_target(target: str) -> tuple[str, str]:
    """Raw path and raw query of a request target, also of the absolute form that proxies send (RFC 9112, 3.2.2)."""
    if not target.startswith("/") and "://" in target:
        rest = target.split("://", 1)[1]
        slash = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
        target = rest[slash:]
    path, _, query = target.partition("?")
    return path or "/", query
