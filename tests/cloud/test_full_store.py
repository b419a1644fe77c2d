"""An etcd that takes no writes: the cloud says so and goes on reading, and `mallee up` makes room in it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from common.etcd.client import Etcd
from common.etcd.space import make_room
from common.pki import Identity
from deploy.names import ADMIN
from etcdrpc import rpc_pb2
from tests.cloud.refusal import refused
from tests.cloud_fixture import RunningCloud
from tests.eventually import until


@pytest.fixture
def full_cloud(fake_cloud: RunningCloud) -> Iterator[RunningCloud]:
    """Its etcd has raised the alarm that one at the end of its quota raises."""
    asyncio.run(_raise_alarm(fake_cloud))
    yield fake_cloud
    asyncio.run(_make_room(fake_cloud))


def test_a_full_store_is_told_to_clients_and_emptied_by_the_operator(full_cloud: RunningCloud) -> None:
    ec2: Any = full_cloud.client("ec2")
    for _ in range(2):
        with refused("Unavailable", 503):
            ec2.create_security_group(GroupName="full", Description="full")
        assert ec2.describe_security_groups()["SecurityGroups"]
    # Also for a CLC that begins while it is so: it cannot even say that it is there.
    full_cloud.kill("clc-1")
    full_cloud.up()
    made = until(lambda: _create(ec2), what="groups are made again")
    ec2.delete_security_group(GroupId=made)


def _create(ec2: Any) -> str:
    with contextlib.suppress(ec2.exceptions.ClientError):
        return str(ec2.create_security_group(GroupName="full", Description="full")["GroupId"])
    return ""


async def _raise_alarm(cloud: RunningCloud) -> None:
    async with _admin(cloud) as etcd:
        member = (await etcd.read(lambda e: e.maintenance.Status, rpc_pb2.StatusRequest())).header.member_id
        alarm = rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.ACTIVATE, memberID=member, alarm=rpc_pb2.NOSPACE)
        await etcd.write(lambda e: e.maintenance.Alarm, alarm)


async def _make_room(cloud: RunningCloud) -> None:
    async with _admin(cloud) as etcd:
        assert not await make_room(etcd), "`mallee up` has"


def _admin(cloud: RunningCloud) -> Etcd:
    return Etcd(cloud.config.etcd.endpoints, Identity.load(cloud.config.pki_path, ADMIN))
