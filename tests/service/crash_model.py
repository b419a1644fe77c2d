"""A bucket as a plain dictionary, and what each change makes of it: what the store is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import strategies as st

# What it is, and with what: CHANGES says which there are.
Change = list[Any]

# None: a delete marker.
Body = bytes | None

_KEYS = st.sampled_from(["a", "b/c", "b/d"])
# Empty, in the index, the most that is, a blob, a blob of two pieces.
_SIZES = st.sampled_from([0, 10, 64, 65, 500, 150_000])
_FILLS = st.integers(0, 255)
CHANGES: st.SearchStrategy[list[Change]] = st.lists(
    st.one_of(
        st.tuples(st.just("put"), _KEYS, _SIZES, _FILLS),
        st.tuples(st.just("put"), _KEYS, _SIZES, _FILLS),
        st.tuples(
            st.just("upload"),
            _KEYS,
            st.lists(st.sampled_from([100, 150_000]), min_size=1, max_size=3),
            _FILLS,
            st.sampled_from(["complete", "complete", "abort", "leave"]),
        ),
        st.tuples(st.just("copy"), _KEYS, _KEYS),
        st.tuples(st.just("delete"), _KEYS),
        st.tuples(st.just("remove"), _KEYS, st.integers(0, 3)),
        st.tuples(st.just("versioning"), st.sampled_from(["Enabled", "Enabled", "Suspended"])),
        st.tuples(st.just("reclaim")),
    ).map(list),
    min_size=1,
    max_size=12,
)


def body_of(size: int, fill: int) -> bytes:
    return bytes((fill + n) % 251 for n in range(size))


@dataclass(frozen=True, slots=True)
class Model:
    versioning: str = ""
    # By key, newest first: what it is, and whether it is the null version.
    versions: dict[str, tuple[tuple[Body, bool], ...]] = field(default_factory=dict)

    def changed(self, change: Change) -> Model:
        match change:
            case ["put", key, size, fill]:
                return self._with(key, body_of(size, fill))
            case ["upload", key, sizes, fill, "complete"]:
                return self._with(key, b"".join(body_of(size, fill) for size in sizes))
            case ["copy", source, key]:
                body = self.versions.get(source, ((None, False),))[0][0]
                return self if body is None or source == key else self._with(key, body)
            case ["delete", key]:
                return self._with(key, None) if self.versioning else self._set(key, self._without_null(key))
            case ["remove", key, place]:
                now = self.versions.get(key, ())
                at = place % len(now) if now else 0
                return self._set(key, now[:at] + now[at + 1 :])
            case ["versioning", status]:
                return replace(self, versioning=status)
        return self

    def after(self, changes: Sequence[Change]) -> Model:
        model = self
        for change in changes:
            model = model.changed(change)
        return model

    def _with(self, key: str, body: Body) -> Model:
        if self.versioning == "Enabled":
            return self._set(key, ((body, False), *self.versions.get(key, ())))
        return self._set(key, ((body, True), *self._without_null(key)))

    def _without_null(self, key: str) -> tuple[tuple[Body, bool], ...]:
        return tuple(one for one in self.versions.get(key, ()) if not one[1])

    def _set(self, key: str, versions: tuple[tuple[Body, bool], ...]) -> Model:
        others = {name: stack for name, stack in self.versions.items() if name != key}
        return replace(self, versions={**others, key: versions} if versions else others)
