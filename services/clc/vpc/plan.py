"""The network plan of a VPC, from the records alone. Its parts are made once per revision of the record they are of."""

from __future__ import annotations

from collections.abc import Iterable

from mallee.clc.v1 import record_pb2
from mallee.nc.v1 import network_pb2
from services.clc.derived import PerRevision
from services.clc.instance import metadata_options
from services.clc.store import Stored


class PlanMaker:
    def __init__(self) -> None:
        self._interfaces = PerRevision(_interface)
        self._groups = PerRevision(_group)

    def plan_of(
        self,
        vpc: record_pb2.VpcRecord,
        *,
        subnets: Iterable[record_pb2.SubnetRecord],
        groups: Iterable[Stored[record_pb2.SecurityGroupRecord]],
        instances: Iterable[Stored[record_pb2.InstanceRecord]],
    ) -> network_pb2.VpcPlan:
        """The plan, its revision not set. `instances` are the live ones of this VPC; everything comes out sorted, so
        that equal states give equal plans. A group that none of them is in means nothing to a node, as a peer neither.
        """
        interfaces = [self._interfaces.of(i) for i in sorted(instances, key=lambda i: i.key)]
        used = {group_id for interface in interfaces for group_id in interface.group_ids}
        return network_pb2.VpcPlan(
            vpc_id=vpc.vpc_id,
            vni=vpc.vni,
            cidr=vpc.cidr,
            subnets=[
                network_pb2.PlanSubnet(subnet_id=s.subnet_id, cidr=s.cidr, zone=s.zone)
                for s in sorted(subnets, key=lambda s: s.subnet_id)
            ],
            interfaces=interfaces,
            groups=[
                self._groups.of(g)
                for g in sorted((g for g in groups if g.record.group_id in used), key=lambda g: g.key)
            ],
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
