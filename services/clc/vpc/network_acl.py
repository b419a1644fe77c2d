"""DescribeNetworkAcls: the default ACL of a VPC, which lets everything through; security groups do the rest."""

from __future__ import annotations

from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import network_acl_pb2 as ec2
from services.clc.filters import FilterTable
from services.clc.listing import max_results_of
from services.clc.store import Store, sorted_by_creation
from services.clc.tag.view import as_mapping, shown
from services.clc.use_case import Call, Cloud, end_dry_run, use_case
from services.clc.vpc.parts import DEFAULT_ACL, page_of_parts, select_parts, twin_id

# The rule `*`, after all that a user can number. (VPC User Guide, "Default network ACL".)
_LAST = 32767

_FILTERS = FilterTable[ec2.NetworkAcl](
    "ec2.DescribeNetworkAcls",
    {
        "association.association-id": lambda a: [x.network_acl_association_id for x in a.associations],
        "association.network-acl-id": lambda a: [x.network_acl_id for x in a.associations],
        "association.subnet-id": lambda a: [x.subnet_id for x in a.associations],
        "default": lambda a: a.is_default,
        "entry.cidr": lambda a: [e.cidr_block for e in a.entries],
        "entry.egress": lambda a: ["true" if e.egress else "false" for e in a.entries],
        "entry.protocol": lambda a: [e.protocol for e in a.entries],
        "entry.rule-action": lambda a: [e.rule_action for e in a.entries],
        "entry.rule-number": lambda a: [str(e.rule_number) for e in a.entries],
        "network-acl-id": lambda a: a.network_acl_id,
        "owner-id": lambda a: a.owner_id,
        "vpc-id": lambda a: a.vpc_id,
    },
    tags=lambda a: as_mapping(a.tags),
    absent=(
        "entry.icmp.code",
        "entry.icmp.type",
        "entry.ipv6-cidr",
        "entry.port-range.from",
        "entry.port-range.to",
    ),
)


@use_case("ec2.DescribeNetworkAcls")
async def describe_network_acls(
    cloud: Cloud, call: Call, request: ec2.DescribeNetworkAclsRequest
) -> ec2.DescribeNetworkAclsResult:
    matches, limit = _FILTERS.matcher(request.filters), max_results_of(request)
    end_dry_run(request)
    vpcs = select_parts(cloud.store, call.account_id, DEFAULT_ACL, request.network_acl_ids)
    acls, token = page_of_parts(vpcs, lambda vpc: _view(cloud.store, vpc), matches, max_results=limit, request=request)
    return ec2.DescribeNetworkAclsResult(network_acls=acls, next_token=token)


def _view(store: Store, vpc: record_pb2.VpcRecord) -> ec2.NetworkAcl:
    acl_id = DEFAULT_ACL.id_of(vpc)
    subnets = (s.record for s in sorted_by_creation(store.owned(record_pb2.SubnetRecord, vpc.account_id)))
    return ec2.NetworkAcl(
        network_acl_id=acl_id,
        vpc_id=vpc.vpc_id,
        owner_id=vpc.account_id,
        is_default=True,
        associations=[
            ec2.NetworkAclAssociation(
                network_acl_association_id=twin_id("aclassoc", subnet.subnet_id),
                network_acl_id=acl_id,
                subnet_id=subnet.subnet_id,
            )
            for subnet in subnets
            if subnet.vpc_id == vpc.vpc_id
        ],
        entries=[
            ec2.NetworkAclEntry(
                cidr_block="0.0.0.0/0", egress=egress, protocol="-1", rule_action=action, rule_number=number
            )
            for egress in (True, False)
            for number, action in ((100, "allow"), (_LAST, "deny"))
        ],
        tags=shown(vpc.network_acl_tags),
    )
