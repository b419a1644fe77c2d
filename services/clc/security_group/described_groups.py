"""DescribeSecurityGroups, and how a group is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import security_group_pb2 as ec2
from services.clc.filters import FilterTable
from services.clc.listing import max_results_of, shown_page
from services.clc.lookup import SECURITY_GROUP, own_all
from services.clc.security_group.groups import arn_of, find_group
from services.clc.security_group.rules import permissions_of
from services.clc.store import Store, sorted_by_creation
from services.clc.tag.view import as_mapping, shown
from services.clc.use_case import Call, Cloud, end_dry_run, use_case


@dataclass(frozen=True, slots=True)
class Shown:
    """A group as it is shown, and the store, which knows the names of the groups that its rules refer to."""

    view: ec2.SecurityGroup
    store: Store

    def ByteSize(self) -> int:
        return self.view.ByteSize()


Permissions = Sequence[ec2.IpPermission]
Found = Callable[[Permissions, Store], Iterable[str]]


def _group_names(permissions: Permissions, store: Store) -> Iterator[str]:
    for permission in permissions:
        for pair in permission.user_id_group_pairs:
            group = store.get(record_pb2.SecurityGroupRecord, pair.group_id)
            if group is not None:
                yield group.record.name


_OF_PERMISSIONS: Final[dict[str, Found]] = {
    "cidr": lambda found, _: [r.cidr_ip for p in found for r in p.ip_ranges],
    "from-port": lambda found, _: [str(p.from_port) for p in found if p.HasField("from_port")],
    "group-id": lambda found, _: [pair.group_id for p in found for pair in p.user_id_group_pairs],
    "group-name": _group_names,
    "ipv6-cidr": lambda found, _: [r.cidr_ipv6 for p in found for r in p.ipv6_ranges],
    "prefix-list-id": lambda found, _: [listed.prefix_list_id for p in found for listed in p.prefix_list_ids],
    "protocol": lambda found, _: [p.ip_protocol for p in found],
    "to-port": lambda found, _: [str(p.to_port) for p in found if p.HasField("to_port")],
    "user-id": lambda found, _: [pair.user_id for p in found for pair in p.user_id_group_pairs],
}


def _ingress(found: Found) -> Callable[[Shown], Iterable[str]]:
    return lambda group: found(group.view.ip_permissions, group.store)


def _egress(found: Found) -> Callable[[Shown], Iterable[str]]:
    return lambda group: found(group.view.ip_permissions_egress, group.store)


_FILTERS = FilterTable[Shown](
    "ec2.DescribeSecurityGroups",
    {
        "description": lambda g: g.view.description,
        "group-id": lambda g: g.view.group_id,
        "group-name": lambda g: g.view.group_name,
        "owner-id": lambda g: g.view.owner_id,
        "vpc-id": lambda g: g.view.vpc_id,
        **{f"ip-permission.{name}": _ingress(found) for name, found in _OF_PERMISSIONS.items()},
        **{f"egress.ip-permission.{name}": _egress(found) for name, found in _OF_PERMISSIONS.items()},
    },
    tags=lambda g: as_mapping(g.view.tags),
)


@use_case("ec2.DescribeSecurityGroups")
async def describe_security_groups(
    cloud: Cloud, call: Call, request: ec2.DescribeSecurityGroupsRequest
) -> ec2.DescribeSecurityGroupsResult:
    matches, limit = _FILTERS.matcher(request.filters), max_results_of(request)
    end_dry_run(request)
    store = cloud.store
    if request.group_ids or request.group_names:
        found = own_all(store, SECURITY_GROUP, call.account_id, request.group_ids)
        found += [find_group(store, call.account_id, name=name) for name in request.group_names]
        found = list({group.key: group for group in found}.values())
    else:
        found = list(store.owned(record_pb2.SecurityGroupRecord, call.account_id))
    pairs = ((group, Shown(_view(cloud, group.record), store)) for group in sorted_by_creation(found))
    found_groups, token = shown_page(pairs, matches, request=request, limit=limit)
    return ec2.DescribeSecurityGroupsResult(security_groups=[group.view for group in found_groups], next_token=token)


def _view(cloud: Cloud, group: record_pb2.SecurityGroupRecord) -> ec2.SecurityGroup:
    return ec2.SecurityGroup(
        group_id=group.group_id,
        group_name=group.name,
        description=group.description,
        owner_id=group.account_id,
        vpc_id=group.vpc_id,
        security_group_arn=arn_of(cloud, group),
        ip_permissions=permissions_of(group.rules, egress=False),
        ip_permissions_egress=permissions_of(group.rules, egress=True),
        tags=shown(group.tags),
    )
