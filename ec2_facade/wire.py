"""A request as it came over the wire, before anybody has interpreted it.

Text is UTF-8 with surrogateescape, so that every byte a client sent can be had back: a signature is over bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes


def to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def to_text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


# Not frozen: one is made for every request, and freezing costs as much as all the rest of it. Each is asked some twenty
# times, so what is asked for is at hand.
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
    # The first one of that (lower-case) name.
    header: Callable[[str], str | None] = field(init=False, repr=False)
    header_names: Iterable[str] = field(init=False, repr=False)
    host: str = field(init=False, repr=False)
    # Decoded names and values; `+` is a space and a name without `=` has an empty value, as S3 reads them.
    query: Sequence[tuple[bytes, bytes]] = field(init=False, repr=False)
    # By name; of one given twice the first counts.
    query_texts: Mapping[str, str] = field(init=False, repr=False)
    query_value: Callable[[str], str | None] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        first = dict(reversed(self.headers))
        self.header, self.header_names, self.host = first.get, first, first.get("host", "")
        pairs = [_known_pair(pair) for pair in self.raw_query.split("&") if pair] if self.raw_query else []
        self.query = [decoded for decoded, _, _ in pairs]
        texts = {name: value for _, name, value in reversed(pairs)}
        self.query_texts, self.query_value = texts, texts.get

    def header_values(self, name: str) -> list[str]:
        return [value for known, value in self.headers if known == name]


def decode_query(raw_query: str) -> Iterable[tuple[bytes, bytes]]:
    for pair in raw_query.split("&"):
        if pair:
            yield _known_pair(pair)[0]


# Decoded name and value, and both as text.
_Pair = tuple[tuple[bytes, bytes], str, str]


def _known_pair(pair: str) -> _Pair:
    """Credentials, actions and the like are the same from one request to the next; what is long is not kept."""
    return _pair_again(pair) if len(pair) <= _SHORT_CHARACTERS else _pair(pair)


def _pair(pair: str) -> _Pair:
    name, _, value = pair.partition("=")
    if "%" not in pair and "+" not in pair and pair.isascii():
        return (name.encode(), value.encode()), name, value
    decoded = _decode(name), _decode(value)
    return decoded, to_text(decoded[0]), to_text(decoded[1])


def _decode(text: str) -> bytes:
    return unquote_to_bytes(to_bytes(text).replace(b"+", b" "))


_pair_again = lru_cache(maxsize=1024)(_pair)
_SHORT_CHARACTERS: Final = 256


def split_target(target: str) -> tuple[str, str]:
    """Raw path and raw query of a request target, also of the absolute form that proxies send (RFC 9112, 3.2.2)."""
    if not target.startswith("/") and "://" in target:
        rest = target.split("://", 1)[1]
        slash = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
        target = rest[slash:]
    path, _, query = target.partition("?")
    return path or "/", query
