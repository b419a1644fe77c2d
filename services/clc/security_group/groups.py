"""CreateSecurityGroup and DeleteSecurityGroup; finding a group."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from common.errors import AlreadyExists, InvalidArgument, NoCapacity, NotFound, WrongState
from common.ids import SecurityGroupId
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import security_group_pb2 as ec2
from services.clc.account.create import everything_out
from services.clc.instance import rules as instance_rules
from services.clc.lookup import SECURITY_GROUP, VPC, own
from services.clc.store import Changes, Store, Stored, until_committed
from services.clc.tag import rules as tags
from services.clc.tag.view import shown
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

# Of one network interface. (VPC User Guide, "Amazon VPC quotas".)
MAX_GROUPS: Final = 5
_VALID: Final = (
    "Valid names and descriptions are strings less than 256 characters from the following set: a-zA-Z0-9."
    " _-:/()#,@[]+=&;{}!$*"
)
_TEXT: Final = re.compile(r"[a-zA-Z0-9 ._\-:/()#,@\[\]+=&;{}!$*]{1,255}\Z")


@use_case("ec2.CreateSecurityGroup")
async def create_security_group(
    cloud: Cloud, call: Call, request: ec2.CreateSecurityGroupRequest
) -> ec2.CreateSecurityGroupResult:
    name = request.group_name.rstrip(" ")
    _check_texts(name, request.description)
    given_tags = tags.from_specifications(request.tag_specifications, allowed=["security-group"])["security-group"]

    async def attempt() -> ec2.CreateSecurityGroupResult:
        store = cloud.store
        vpc = (
            own(store, VPC, call.account_id, request.vpc_id) if request.vpc_id else default_vpc(store, call.account_id)
        )
        _check_room(cloud, call)
        claim = group_name_claim(vpc.record.vpc_id, name)
        if store.holder(claim):
            raise AlreadyExists(
                f"The security group '{name}' already exists for VPC '{vpc.record.vpc_id}'",
                code="InvalidGroup.Duplicate",
            )
        end_dry_run(request)
        group = record_pb2.SecurityGroupRecord(
            group_id=SecurityGroupId.new(),
            account_id=call.account_id,
            vpc_id=vpc.record.vpc_id,
            name=name,
            description=request.description,
            rules=[everything_out()],
            tags=given_tags,
        )
        changes = Changes()
        changes.require(vpc)
        changes.create(group)
        changes.claim(claim, group.group_id)
        await store.commit(changes)
        return ec2.CreateSecurityGroupResult(
            group_id=group.group_id, tags=shown(group.tags), security_group_arn=arn_of(cloud, group)
        )

    return await until_committed(attempt)


@use_case("ec2.DeleteSecurityGroup")
async def delete_security_group(
    cloud: Cloud, call: Call, request: ec2.DeleteSecurityGroupRequest
) -> ec2.DeleteSecurityGroupResult:
    async def attempt() -> ec2.DeleteSecurityGroupResult:
        store = cloud.store
        group = find_group(store, call.account_id, group_id=request.group_id, name=request.group_name)
        use = group_use(group.record.group_id)
        # Read before looking for users: whoever comes after bumps it, and the commit below fails.
        seen = store.bumped(use)
        _check_unused(store, group.record)
        end_dry_run(request)
        changes = Changes()
        changes.unchanged(use, seen)
        changes.delete(group)
        changes.release(use)
        changes.release(group_name_claim(group.record.vpc_id, group.record.name))
        await store.commit(changes)
        return ec2.DeleteSecurityGroupResult(return_value=True, group_id=group.record.group_id)

    return await until_committed(attempt)


def default_vpc(store: Store, account_id: str) -> Stored[record_pb2.VpcRecord]:
    vpc = store.get(record_pb2.VpcRecord, store.holder(f"default-vpc/{account_id}") or "")
    if vpc is None:
        raise NotFound("No default VPC for this user", code="VPCIdNotSpecified")
    return vpc


def find_group(
    store: Store, account_id: str, *, group_id: str = "", name: str = ""
) -> Stored[record_pb2.SecurityGroupRecord]:
    """By id, or by name in the default VPC. Raises NotFound (InvalidGroup.NotFound)."""
    if group_id and name:
        raise InvalidArgument(
            "The parameter groupName cannot be used with the parameter groupId", code="InvalidParameterCombination"
        )
    if group_id:
        return own(store, SECURITY_GROUP, account_id, group_id)
    if not name:
        raise InvalidArgument("The request must contain the parameter groupName or groupId", code="MissingParameter")
    vpc_id = default_vpc(store, account_id).record.vpc_id
    group = store.get(record_pb2.SecurityGroupRecord, store.holder(group_name_claim(vpc_id, name)) or "")
    if group is None:
        raise NotFound(
            f"The security group '{name}' does not exist in default VPC '{vpc_id}'", code="InvalidGroup.NotFound"
        )
    return group


def check_together(found: Sequence[Stored[record_pb2.SecurityGroupRecord]], vpc_id: str) -> None:
    """They may stand on one network interface of the VPC."""
    for group in found:
        if group.record.vpc_id != vpc_id:
            raise InvalidArgument(
                f"Security group {group.record.group_id} and subnet belong to different networks.",
                code="InvalidParameter",
            )
    if len({group.key for group in found}) > MAX_GROUPS:
        raise NoCapacity(
            f"The maximum number of security groups per interface ({MAX_GROUPS}) has been reached.",
            code="SecurityGroupsPerInterfaceLimitExceeded",
        )


def group_name_claim(vpc_id: str, name: str) -> str:
    return f"group-name/{vpc_id}/{name}"


def group_use(group_id: str) -> str:
    """Bumped whenever an instance or another group's rule begins to name the group."""
    return f"group-use/{group_id}"


def name_groups(changes: Changes, groups: Iterable[Stored[record_pb2.SecurityGroupRecord]]) -> None:
    """An instance or a rule begins to name them: they must still be there, and whoever deletes one looks again."""
    for group in groups:
        changes.require(group)
        changes.bump(group_use(group.record.group_id))


def _check_room(cloud: Cloud, call: Call) -> None:
    present = sum(1 for _ in cloud.store.owned(record_pb2.SecurityGroupRecord, call.account_id))
    if present >= cloud.config.clc.security_groups_per_account:
        raise NoCapacity("The maximum number of security groups has been reached.", code="SecurityGroupLimitExceeded")


def _check_unused(store: Store, group: record_pb2.SecurityGroupRecord) -> None:
    if group.name == "default":
        raise WrongState(
            f'the specified group: "{group.group_id}" name: "default" cannot be deleted by a user', code="CannotDelete"
        )
    used = any(
        group.group_id in stored.record.interface.security_group_ids and stored.record.state in instance_rules.HOLDING
        for stored in store.owned(record_pb2.InstanceRecord, group.account_id)
    ) or any(
        rule.group_id == group.group_id
        for other in store.owned(record_pb2.SecurityGroupRecord, group.account_id)
        if other.record.group_id != group.group_id
        for rule in other.record.rules
    )
    if used:
        raise WrongState(f"resource {group.group_id} has a dependent object", code="DependencyViolation")


def _check_texts(name: str, description: str) -> None:
    for parameter, value in (("GroupName", name), ("GroupDescription", description)):
        if not value:
            raise InvalidArgument(f"The request must contain the parameter {parameter}", code="MissingParameter")
        if not _TEXT.match(value):
            raise InvalidArgument(f"Value ({value}) for parameter {parameter} is invalid. {_VALID}")
    if name.startswith("sg-"):
        raise InvalidArgument(
            f"Value ({name}) for parameter GroupName is invalid. Group names may not be in the format sg-*"
        )
    if name.lower() == "default":
        raise InvalidArgument("Cannot use reserved security group name: default", code="InvalidGroup.Reserved")


def arn_of(cloud: Cloud, group: record_pb2.SecurityGroupRecord) -> str:
    return f"arn:aws:ec2:{cloud.config.region}:{group.account_id}:security-group/{group.group_id}"
