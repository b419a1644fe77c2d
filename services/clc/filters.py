"""Filters of the Describe actions, as EC2 evaluates them.

All filters must match; of one filter's values any may. `*` stands for any run of characters, `?` for one, a backslash
takes their meaning away; case counts. An unknown filter is an error, never ignored.
(EC2 API reference, "List and filter your resources".)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Generic, Protocol, TypeVar

from common.errors import InvalidArgument

T = TypeVar("T")
Value = str | bool | int | None
Getter = Callable[[T], Value | Iterable[str]]

# The limit that the EC2 API reference states for the values of all filters of a request.
MAX_VALUES = 200


class Filter(Protocol):
    name: str

    @property
    def values(self) -> Sequence[str]: ...


FilterT = TypeVar("FilterT", bound=Filter)


class FilterTable(Generic[T]):
    """The filters of one action: a name, and how an item's value for it is found.

    `tags`, where given, adds `tag:KEY`, `tag-key` and `tag-value`. `absent` are AWS's names for what no item of this
    cloud has: they match none.
    """

    def __init__(
        self,
        action: str,
        getters: Mapping[str, Getter[T]],
        *,
        tags: Callable[[T], Mapping[str, str]] | None = None,
        absent: Iterable[str] = (),
    ) -> None:
        self._getters = {**dict.fromkeys(absent, _nothing), **getters}
        self._tags = tags
        if tags is not None:
            self._getters["tag-key"] = lambda item: tags(item).keys()
            self._getters["tag-value"] = lambda item: tags(item).values()
        FILTERS[action] = (*self._getters, *(["tag:<key>"] if tags else []))

    def matcher(self, filters: Sequence[Filter]) -> Callable[[T], bool]:
        """Raises InvalidArgument for an unknown filter."""
        if sum(len(f.values) for f in filters) > MAX_VALUES:
            raise InvalidArgument(
                f"The maximum number of filter values specified on a single call is {MAX_VALUES}",
                code="FilterLimitExceeded",
            )
        tests = [self._test(f) for f in filters]
        return lambda item: all(test(item) for test in tests)

    def mine(self, filters: Iterable[FilterT]) -> list[FilterT]:
        """Those of `filters` that are in this table: for actions with several."""
        return [f for f in filters if f.name in self._getters]

    def _test(self, wanted: Filter) -> Callable[[T], bool]:
        getter = self._getter(wanted.name)
        exact = {v for v in wanted.values if not is_pattern(v)}
        patterns = [_pattern(v) for v in wanted.values if is_pattern(v)]

        def test(item: T) -> bool:
            return any(v in exact or any(p.fullmatch(v) for p in patterns) for v in _strings(getter(item)))

        return test

    def _getter(self, name: str) -> Getter[T]:
        if name in self._getters:
            return self._getters[name]
        if self._tags is not None and name.startswith("tag:"):
            tags, key = self._tags, name[4:]
            return lambda item: tags(item).get(key)
        raise InvalidArgument(f"The filter '{name}' is invalid")


# Action → the filters it honours: the conformance report reads it.
FILTERS: dict[str, tuple[str, ...]] = {}


def _nothing(item: object) -> None:
    return None


def _strings(value: Value | Iterable[str]) -> Iterable[str]:
    match value:
        case None:
            return ()
        case bool():
            return ("true" if value else "false",)
        case int():
            return (str(value),)
        case str():
            return (value,)
        case _:
            return value


def is_pattern(value: str) -> bool:
    return any(c in value for c in "*?\\")


@lru_cache(maxsize=1024)
def _pattern(value: str) -> re.Pattern[str]:
    """In linear time for any value: what stands between two `*` is taken where it first fits, and never given back."""
    runs, escaped = [""], False
    for c in value:
        if not escaped and c == "*":
            runs.append("")
        elif not escaped and c == "\\":
            escaped = True
            continue
        else:
            runs[-1] += "." if c == "?" and not escaped else re.escape(c)
        escaped = False
    if escaped:
        runs[-1] += re.escape("\\")
    if len(runs) == 1:
        return re.compile(runs[0], re.DOTALL)
    first, *middle, last = runs
    inner = "".join(f"(?>.*?{run})" for run in middle if run)
    return re.compile(f"{first}{inner}.*{last}", re.DOTALL)
