"""A new account: its first access key, and the default VPC with a subnet in every zone and its default group."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from typing import Final

from common.errors import AlreadyExists, InvalidArgument
from common.ids import AccountId, DhcpOptionsId, SecurityGroupId, SecurityGroupRuleId, SubnetId, VpcId
from mallee.clc.v1 import record_pb2
from services.clc.account import operators, secrets
from services.clc.clock import timestamp
from services.clc.store import Changes, Store, until_committed
from services.clc.use_case import Cloud

# An account is called by its name or its id, so no name looks like an id.
_NAME: Final = re.compile(r"(?![0-9]{12}\Z)[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
# Subnets of a default VPC are /20 each, as AWS makes them.
_SUBNET_BITS: Final = 20


async def create_account(cloud: Cloud, name: str) -> tuple[record_pb2.AccountRecord, str, str]:
    """The account, its access key id and its secret."""
    if not _NAME.match(name):
        raise InvalidArgument(
            f"{name!r} is no account name: letters, digits, '.', '_' and '-', at most 63; not 12 digits, as an id has"
        )

    async def attempt() -> tuple[record_pb2.AccountRecord, str, str]:
        await operators.ensure_claimed(cloud.store)
        if cloud.store.holder(f"account-name/{name}"):
            raise AlreadyExists(
                f"there is an account {name!r} already: choose another name", code="EntityAlreadyExists"
            )
        return await _create(cloud, name)

    return await until_committed(attempt)


async def _create(cloud: Cloud, name: str) -> tuple[record_pb2.AccountRecord, str, str]:
    account_id = AccountId.new()
    key_id, secret = secrets.new_access_key_id(), secrets.new_secret()
    created = timestamp(cloud.clock())
    account = record_pb2.AccountRecord(
        account_id=account_id,
        name=name,
        canonical_user_id=hashlib.sha256(f"mallee canonical user {account_id}".encode()).hexdigest(),
        created=created,
        first_access_key_id=key_id,
    )
    changes = Changes()
    changes.create(account)
    if operators.operator_id(cloud.store) is None:
        changes.claim(operators.CLAIM, account_id)
    changes.claim(f"account-name/{name}", account_id)
    changes.create(
        record_pb2.AccessKeyRecord(
            access_key_id=key_id,
            account_id=account_id,
            sealed_secret=secrets.seal(cloud.master_key, key_id, secret),
            created=created,
            arn=f"arn:aws:iam::{account_id}:root",
            user_id=account_id,
        )
    )
    add_default_vpc(changes, cloud, account_id)
    await cloud.store.commit(changes)
    return account, key_id, secret


def add_default_vpc(changes: Changes, cloud: Cloud, account_id: str) -> None:
    vpc_id, group_id = VpcId.new(), SecurityGroupId.new()
    vpc = record_pb2.VpcRecord(
        vpc_id=vpc_id,
        account_id=account_id,
        cidr=cloud.config.network.default_vpc_cidr,
        is_default=True,
        vni=free_vni(cloud.store),
        dhcp_options_id=DhcpOptionsId.new(),
        default_group_id=group_id,
    )
    changes.create(vpc)
    changes.claim(f"vni/{vpc.vni}", vpc_id)
    changes.claim(f"default-vpc/{account_id}", vpc_id)
    for subnet in missing_default_subnets(cloud, vpc, []):
        changes.create(subnet)
    group = record_pb2.SecurityGroupRecord(
        group_id=group_id,
        account_id=account_id,
        vpc_id=vpc_id,
        name="default",
        description="default VPC security group",
        rules=[
            record_pb2.SecurityGroupRuleRecord(
                rule_id=SecurityGroupRuleId.new(),
                protocol="-1",
                from_port=-1,
                to_port=-1,
                group_id=group_id,
                group_account_id=account_id,
            ),
            everything_out(),
        ],
    )
    changes.create(group)
    changes.claim(f"group-name/{vpc_id}/default", group_id)


def everything_out() -> record_pb2.SecurityGroupRuleRecord:
    """The egress rule that every new group has."""
    return record_pb2.SecurityGroupRuleRecord(
        rule_id=SecurityGroupRuleId.new(), egress=True, protocol="-1", from_port=-1, to_port=-1, cidr_ipv4="0.0.0.0/0"
    )


def missing_default_subnets(
    cloud: Cloud, vpc: record_pb2.VpcRecord, present: list[record_pb2.SubnetRecord]
) -> list[record_pb2.SubnetRecord]:
    """One for each configured zone that has none yet, in the first /20s that are free."""
    network = ipaddress.IPv4Network(vpc.cidr)
    taken = {subnet.cidr for subnet in present}
    free = (c for c in network.subnets(new_prefix=max(_SUBNET_BITS, network.prefixlen + 2)) if str(c) not in taken)
    zones = {subnet.zone for subnet in present if subnet.default_for_az}
    return [
        record_pb2.SubnetRecord(
            subnet_id=SubnetId.new(),
            account_id=vpc.account_id,
            vpc_id=vpc.vpc_id,
            cidr=str(cidr),
            zone=zone.name,
            default_for_az=True,
            map_public_ip_on_launch=True,
        )
        for zone, cidr in zip((z for z in cloud.config.zones if z.name not in zones), free, strict=False)
    ]


def free_vni(store: Store) -> int:
    """VXLAN ids below 4096 are left to others on the underlay."""
    taken = {int(name) for name in store.claims("vni/")}
    return next(vni for vni in range(4096, 1 << 24) if vni not in taken)
