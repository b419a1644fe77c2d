"""Requests of EC2's actions, made for tests on a stage where what they name is there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import image_pb2, instance_pb2, key_pair_pb2, security_group_pb2, tag_pb2, vpc_pb2
from mallee.ec2.v1.filter_pb2 import Filter
from services.clc.store import Changes
from tests.service.clc.stage import Stage

Make = Callable[[Stage], Awaitable[Any]]


def tagged(kind: str) -> list[tag_pb2.TagSpecification]:
    return [tag_pb2.TagSpecification(resource_type=kind, tags=[tag_pb2.Tag(key="Name", value="x")])]


async def image(stage: Stage, key: str = "machine") -> str:
    request = image_pb2.RegisterImageRequest(name=f"image {key}", image_location=f"bucket/{key}")
    answer = await stage.run("RegisterImage", request)
    return str(answer.image_id)


async def group(stage: Stage) -> str:
    request = security_group_pb2.CreateSecurityGroupRequest(group_name="web", description="web")
    return str((await stage.run("CreateSecurityGroup", request)).group_id)


async def vpc(stage: Stage) -> str:
    return str((await stage.run("DescribeVpcs", vpc_pb2.DescribeVpcsRequest())).vpcs[0].vpc_id)


async def running(stage: Stage) -> str:
    request = instance_pb2.RunInstancesRequest(image_id=await image(stage), min_count=1, max_count=1)
    reservation = await stage.run("RunInstances", request)
    return str(reservation.instances[0].instance_id)


async def interface(stage: Stage) -> str:
    return stage.instance(await running(stage)).interface.interface_id


def reads(request: Any, **more: Any) -> Make:
    """A Describe request, with a filter of the action's own and a page."""

    async def make(stage: Stage) -> Any:
        await image(stage)
        await stage.run("CreateKeyPair", key_pair_pb2.CreateKeyPairRequest(key_name="seen", key_type="ed25519"))
        made = type(request)()
        made.CopyFrom(request)
        if "max_results" in made.DESCRIPTOR.fields_by_name:
            made.max_results = 5
        for name, value in more.items():
            made.filters.append(Filter(name=name.replace("_", "-"), values=[value]))
        return made

    return make


def constantly(request: Any) -> Make:
    async def make(stage: Stage) -> Any:
        copy = type(request)()
        copy.CopyFrom(request)
        return copy

    return make


async def with_ids(stage: Stage, request: Any, field: str, value: str) -> Any:
    target = getattr(request, field)
    if isinstance(target, str):
        setattr(request, field, value)
    else:
        target.append(value)
    return request


def of(make: Callable[[Stage], Awaitable[str]], request: Any, field: str) -> Make:
    async def made(stage: Stage) -> Any:
        copy = type(request)()
        copy.CopyFrom(request)
        return await with_ids(stage, copy, field, await make(stage))

    return made


async def boot(stage: Stage, instance_id: str) -> None:
    """As if its node had said that it runs."""
    stored = stage.cloud.store.get(record_pb2.InstanceRecord, instance_id)
    assert stored is not None
    draft = stored.draft()
    draft.state = record_pb2.INSTANCE_STATE_RUNNING
    changes = Changes()
    changes.update(stored, draft)
    await stage.cloud.store.commit(changes)
