"""The network plan of a VPC, from the records alone. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from mallee.clc.v1 import record_pb2
from mallee.nc.v1 import network_pb2
from services.clc.instance import metadata_options


def plan_of(
    vpc: record_pb2.VpcRecord,
    *,
    revision: int,
    subnets: Iterable[record_pb2.SubnetRecord],
    groups: Iterable[record_pb2.SecurityGroupRecord],
    instances: Iterable[record_pb2.InstanceRecord],
) -> network_pb2.VpcPlan:
    """`instances` are the live ones of this VPC; everything comes out sorted, so that equal states give equal plans."""
    return network_pb2.VpcPlan(
        vpc_id=vpc.vpc_id,
        revision=revision,
        vni=vpc.vni,
        cidr=vpc.cidr,
        subnets=[
            network_pb2.PlanSubnet(subnet_id=s.subnet_id, cidr=s.cidr, zone=s.zone)
            for s in sorted(subnets, key=lambda s: s.subnet_id)
        ],
        interfaces=[_interface(i) for i in sorted(instances, key=lambda i: i.instance_id)],
        groups=[_group(g) for g in sorted(groups, key=lambda g: g.group_id)],
    )


def _interface(instance: record_pb2.InstanceRecord) -> network_pb2.PlanInterface:
    interface = instance.interface
    return network_pb2.PlanInterface(
        interface_id=interface.interface_id,
        instance_id=instance.instance_id,
        mac=interface.mac,
        private_ipv4=interface.private_ipv4,
        public_ipv4=interface.public_ipv4,
        node_address=instance.node_address,
        subnet_id=interface.subnet_id,
        group_ids=sorted(interface.security_group_ids),
        metadata=metadata_options.told(instance),
    )


def _group(group: record_pb2.SecurityGroupRecord) -> network_pb2.PlanGroup:
    return network_pb2.PlanGroup(
        group_id=group.group_id,
        name=group.name,
        ingress=[_rule(r) for r in group.rules if not r.egress and not r.cidr_ipv6],
        egress=[_rule(r) for r in group.rules if r.egress and not r.cidr_ipv6],
    )


def _rule(rule: record_pb2.SecurityGroupRuleRecord) -> network_pb2.PlanRule:
    shown = network_pb2.PlanRule(protocol=rule.protocol, from_port=rule.from_port, to_port=rule.to_port)
    if rule.group_id:
        shown.group_id = rule.group_id
    else:
        shown.cidr_ipv4 = rule.cidr_ipv4
    return shown
