"""What can carry tags: records, and resources that live in another's record, such as the rules of a security group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import Message

from common.errors import InvalidArgument
from mallee.clc.v1 import record_pb2
from services.clc.lookup import NOUNS, SECURITY_GROUP_RULE, Kind, Noun, own
from services.clc.store import Changes, Store, Stored

Tags = MutableMapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Carrier:
    resource_id: str
    resource_type: str
    stored: Stored[Any]
    # Of the record, or of a draft of it.
    tags: Callable[[Any], Tags]


class Drafts:
    """One draft per record, however many of a request's resources live in it."""

    def __init__(self) -> None:
        self._drafts: dict[str, tuple[Stored[Any], Any]] = {}

    def of(self, stored: Stored[Any]) -> Any:
        if stored.key not in self._drafts:
            self._drafts[stored.key] = (stored, stored.draft())
        return self._drafts[stored.key][1]

    def changes(self) -> Changes:
        """Of those that differ from their record."""
        changes = Changes()
        for stored, draft in self._drafts.values():
            if draft != stored.record:
                changes.update(stored, draft)
        return changes


def find_carriers(store: Store, account_id: str, ids: Sequence[str]) -> list[Carrier]:
    """In the order asked, each once. Raises InvalidArgument (InvalidID), NotFound as the id's own kind says it."""
    return [_find(store, account_id, given) for given in dict.fromkeys(ids)]


def all_carriers(store: Store, account_id: str) -> Iterator[Carrier]:
    """The account's own, in no order."""
    for noun in NOUNS:
        for stored in store.owned(noun.record, account_id):
            yield _of_record(noun, stored)
    for _, parts in _PARTS:
        yield from parts(store, account_id)


def _find(store: Store, account_id: str, given: str) -> Carrier:
    prefix = given.rpartition("-")[0]
    for noun in NOUNS:
        if prefix in noun.prefixes:
            return _of_record(noun, own(store, noun, account_id, given))
    for kind, parts in _PARTS:
        if prefix in kind.prefixes:
            kind.check(given)
            found = next((part for part in parts(store, account_id) if part.resource_id == given), None)
            if found is None:
                raise kind.missing([given])
            return found
    raise InvalidArgument(f"The ID '{given}' is not valid", code="InvalidID")


def _of_record(noun: Noun[Message], stored: Stored[Message]) -> Carrier:
    return Carrier(
        resource_id=stored.key.rpartition("/")[2],
        resource_type=noun.resource_type,
        stored=stored,
        tags=lambda record: record.tags,
    )


def _rules(store: Store, account_id: str) -> Iterator[Carrier]:
    for group in store.owned(record_pb2.SecurityGroupRecord, account_id):
        for index, rule in enumerate(group.record.rules):
            yield Carrier(
                resource_id=rule.rule_id,
                resource_type=SECURITY_GROUP_RULE.resource_type,
                stored=group,
                tags=lambda record, index=index: record.rules[index].tags,  # type: ignore[misc]
            )


_PARTS: Final[tuple[tuple[Kind, Callable[[Store, str], Iterator[Carrier]]], ...]] = ((SECURITY_GROUP_RULE, _rules),)
