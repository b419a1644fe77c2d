"""The network plan: what of the records it tells, and that an unchanged record is not looked at twice."""

from __future__ import annotations

from mallee.clc.v1 import record_pb2
from services.clc.derived import PerRevision
from services.clc.store import Stored, key_of
from services.clc.vpc.plan import PlanMaker

VPC = record_pb2.VpcRecord(vpc_id="vpc-1", vni=4096, cidr="10.0.0.0/16")


def instance(name: str, *groups: str, node: str = "", revision: int = 1) -> Stored[record_pb2.InstanceRecord]:
    record = record_pb2.InstanceRecord(instance_id=name, node_address=node)
    record.interface.interface_id = name.replace("i-", "eni-")
    record.interface.security_group_ids.extend(groups)
    return Stored(key_of(record), record, revision, 1)


def group(name: str) -> Stored[record_pb2.SecurityGroupRecord]:
    record = record_pb2.SecurityGroupRecord(group_id=name, name=name)
    return Stored(key_of(record), record, 1, 1)


def test_equal_states_give_equal_plans_in_whatever_order_they_are_told() -> None:
    instances, groups = [instance("i-2", "sg-b"), instance("i-1", "sg-a")], [group("sg-b"), group("sg-a")]
    plan = PlanMaker().plan_of(VPC, subnets=[], groups=groups, instances=instances)
    assert plan == PlanMaker().plan_of(VPC, subnets=[], groups=groups[::-1], instances=instances[::-1])
    assert [interface.instance_id for interface in plan.interfaces] == ["i-1", "i-2"]
    assert [its.group_id for its in plan.groups] == ["sg-a", "sg-b"]


def test_a_group_that_nobody_is_in_is_not_told() -> None:
    groups = [group("sg-used"), group("sg-idle")]
    plan = PlanMaker().plan_of(VPC, subnets=[], groups=groups, instances=[instance("i-1", "sg-used")])
    assert [its.group_id for its in plan.groups] == ["sg-used"]


def test_a_new_revision_of_a_record_is_told_anew() -> None:
    maker = PlanMaker()
    for revision, node in ((1, ""), (2, "10.9.0.1"), (3, "10.9.0.2")):
        plan = maker.plan_of(VPC, subnets=[], groups=[], instances=[instance("i-1", node=node, revision=revision)])
        assert [interface.node_address for interface in plan.interfaces] == [node]


def test_what_is_made_of_a_record_is_made_once_per_revision() -> None:
    made: list[str] = []

    def make(record: record_pb2.InstanceRecord) -> int:
        made.append(record.instance_id)
        return len(made)

    names = PerRevision(make, most=2)
    assert [names.of(instance("i-1")), names.of(instance("i-1")), names.of(instance("i-1", revision=2))] == [1, 1, 2]
    # The one made first goes first when there are too many.
    assert [names.of(instance("i-2")), names.of(instance("i-3")), names.of(instance("i-1", revision=2))] == [3, 4, 5]
    assert made == ["i-1", "i-1", "i-2", "i-3", "i-1"]
