"""What can carry tags: records, and resources that live in another's record, such as the rules of a security group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import Message

from common.errors import InvalidArgument
from mallee.clc.v1 import record_pb2
from services.clc.instance.rules import HOLDING
from services.clc.lookup import NETWORK_INTERFACE, NOUNS, SECURITY_GROUP_RULE, Kind, Noun, own
from services.clc.store import Changes, Store, Stored
from services.clc.vpc.parts import VPC_PARTS, VpcPart

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
    known: dict[str, dict[str, Carrier]] = {}
    return [_find(store, account_id, given, known) for given in dict.fromkeys(ids)]


def all_carriers(store: Store, account_id: str) -> Iterator[Carrier]:
    """The account's own, in no order."""
    for noun in NOUNS:
        for stored in store.owned(noun.record, account_id):
            # Tasks of several kinds are one type of record.
            if stored.key.rpartition("/")[2].rpartition("-")[0] in noun.prefixes:
                yield _of_record(noun, stored)
    for _, parts in _PARTS:
        yield from parts(store, account_id)


def _find(store: Store, account_id: str, given: str, known: dict[str, dict[str, Carrier]]) -> Carrier:
    """`known`: what lives in others' records, by kind and id, as far as it was looked through already."""
    prefix = given.rpartition("-")[0]
    for noun in NOUNS:
        if prefix in noun.prefixes and noun.fits(given):
            return _of_record(noun, own(store, noun, account_id, given))
    for kind, parts in _PARTS:
        if prefix in kind.prefixes and kind.fits(given):
            if kind.resource_type not in known:
                known[kind.resource_type] = {part.resource_id: part for part in parts(store, account_id)}
            found = known[kind.resource_type].get(given)
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


def _interfaces(store: Store, account_id: str) -> Iterator[Carrier]:
    for instance in store.owned(record_pb2.InstanceRecord, account_id):
        if instance.record.state in HOLDING:
            yield Carrier(
                resource_id=instance.record.interface.interface_id,
                resource_type=NETWORK_INTERFACE.resource_type,
                stored=instance,
                tags=lambda record: record.interface_tags,
            )


def _of_vpcs(part: VpcPart) -> Callable[[Store, str], Iterator[Carrier]]:
    def carriers(store: Store, account_id: str) -> Iterator[Carrier]:
        for vpc in store.owned(record_pb2.VpcRecord, account_id):
            yield Carrier(
                resource_id=part.id_of(vpc.record),
                resource_type=part.kind.resource_type,
                stored=vpc,
                tags=part.tags_of,
            )

    return carriers


_PARTS: Final[tuple[tuple[Kind, Callable[[Store, str], Iterator[Carrier]]], ...]] = (
    (SECURITY_GROUP_RULE, _rules),
    (NETWORK_INTERFACE, _interfaces),
    *((part.kind, _of_vpcs(part)) for part in VPC_PARTS),
)
