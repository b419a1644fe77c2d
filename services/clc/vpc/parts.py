"""What every VPC has one of from its beginning: a main route table, an internet gateway, a network ACL, DHCP options.

They live in the VPC's record; their ids are the VPC's own digits behind another prefix, so they need no storing.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from mallee.clc.v1 import record_pb2
from services.clc.lookup import DHCP_OPTIONS, INTERNET_GATEWAY, NETWORK_ACL, ROUTE_TABLE, Kind
from services.clc.paging import Paged, page
from services.clc.store import Store, Stored, sorted_by_creation

Vpc = record_pb2.VpcRecord
M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class VpcPart:
    kind: Kind
    id_of: Callable[[Vpc], str]
    # Of the record, or of a draft of it.
    tags_of: Callable[[Vpc], MutableMapping[str, str]]


def twin_id(prefix: str, given: str) -> str:
    """`rtb-0abc…` for `vpc-0abc…`."""
    return f"{prefix}-{given.rpartition('-')[2]}"


MAIN_ROUTE_TABLE: Final = VpcPart(
    kind=ROUTE_TABLE, id_of=lambda vpc: twin_id("rtb", vpc.vpc_id), tags_of=lambda vpc: vpc.route_table_tags
)
DEFAULT_GATEWAY: Final = VpcPart(
    kind=INTERNET_GATEWAY, id_of=lambda vpc: twin_id("igw", vpc.vpc_id), tags_of=lambda vpc: vpc.internet_gateway_tags
)
DEFAULT_ACL: Final = VpcPart(
    kind=NETWORK_ACL, id_of=lambda vpc: twin_id("acl", vpc.vpc_id), tags_of=lambda vpc: vpc.network_acl_tags
)
OPTIONS: Final = VpcPart(
    kind=DHCP_OPTIONS, id_of=lambda vpc: vpc.dhcp_options_id, tags_of=lambda vpc: vpc.dhcp_options_tags
)
VPC_PARTS: Final = (MAIN_ROUTE_TABLE, DEFAULT_GATEWAY, DEFAULT_ACL, OPTIONS)


def select_parts(store: Store, account_id: str, part: VpcPart, ids: Sequence[str]) -> list[Stored[Vpc]]:
    """The account's VPCs whose part is named, or all, oldest first. Raises InvalidArgument, NotFound for the part."""
    found = {part.id_of(vpc.record): vpc for vpc in sorted_by_creation(store.owned(Vpc, account_id))}
    for given in ids:
        part.kind.check(given)
    if missing := [given for given in dict.fromkeys(ids) if given not in found]:
        raise part.kind.missing(missing)
    return [vpc for part_id, vpc in found.items() if not ids or part_id in ids]


def page_of_parts(
    vpcs: Sequence[Stored[Vpc]],
    view: Callable[[Vpc], M],
    matches: Callable[[M], bool],
    *,
    max_results: int | None,
    request: Paged,
) -> tuple[list[M], str | None]:
    pairs = ((vpc, view(vpc.record)) for vpc in vpcs)
    shown, following = page(
        (pair for pair in pairs if matches(pair[1])), key=_place, max_results=max_results, request=request
    )
    return [part for _, part in shown], following


def _place(pair: tuple[Stored[Vpc], Any]) -> str:
    return f"{pair[0].created_revision:020}{pair[0].key}"
