"""GetConsoleOutput, GetConsoleScreenshot, GetPasswordData: what the guest shows, asked of the instance's zone."""

from __future__ import annotations

import base64
import re
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from common.errors import NotFound, Unavailable, WrongState
from mallee.cc.v1 import service_pb2 as cc
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import instance_pb2 as ec2
from services.clc.clock import timestamp
from services.clc.instance import rules
from services.clc.lookup import INSTANCE, own
from services.clc.store import Changes, until_committed
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

# How a guest publishes it (EC2Config, EC2Launch and their kin): sealed with the public key of its key pair, in base64.
_PASSWORD: Final = re.compile(rb"<Password>\s*([A-Za-z0-9+/=\s]{1,4096}?)\s*</Password>")


@use_case("ec2.GetConsoleOutput")
async def get_console_output(
    cloud: Cloud, call: Call, request: ec2.GetConsoleOutputRequest
) -> ec2.GetConsoleOutputResult:
    instance = own(cloud.store, INSTANCE, call.account_id, request.instance_id)
    # It is always the latest: nothing is kept apart from the console itself.
    _ = request.latest
    end_dry_run(request)
    output, written = await _console(cloud, instance.record)
    return ec2.GetConsoleOutputResult(
        instance_id=instance.record.instance_id,
        timestamp=written or timestamp(call.now),
        output=base64.b64encode(output).decode(),
    )


@use_case("ec2.GetConsoleScreenshot")
async def get_console_screenshot(
    cloud: Cloud, call: Call, request: ec2.GetConsoleScreenshotRequest
) -> ec2.GetConsoleScreenshotResult:
    record = own(cloud.store, INSTANCE, call.account_id, request.instance_id).record
    if record.state != rules.RUNNING:
        raise WrongState(
            f"The instance '{record.instance_id}' is not in the 'running' state.", code="IncorrectInstanceState"
        )
    order = cc.GetConsoleScreenshotRequest(instance_id=record.instance_id, wake_up=request.wake_up)
    end_dry_run(request)
    answer = await cloud.clusters.stub(record.zone).GetConsoleScreenshot(order)
    return ec2.GetConsoleScreenshotResult(
        instance_id=record.instance_id, image_data=base64.b64encode(answer.jpeg).decode()
    )


@use_case("ec2.GetPasswordData")
async def get_password_data(cloud: Cloud, call: Call, request: ec2.GetPasswordDataRequest) -> ec2.GetPasswordDataResult:
    record = own(cloud.store, INSTANCE, call.account_id, request.instance_id).record
    end_dry_run(request)
    if not record.password_data:
        output, written = await _console(cloud, record)
        if published := _PASSWORD.findall(output):
            password = b"".join(published[-1].split()).decode()
            record = await _keep(cloud, call, record.instance_id, password, written or timestamp(call.now))
    return ec2.GetPasswordDataResult(
        instance_id=record.instance_id,
        timestamp=record.password_found if record.password_data else timestamp(call.now),
        password_data=record.password_data,
    )


async def _keep(
    cloud: Cloud, call: Call, instance_id: str, password: str, found: Timestamp
) -> record_pb2.InstanceRecord:
    async def attempt() -> record_pb2.InstanceRecord:
        instance = own(cloud.store, INSTANCE, call.account_id, instance_id)
        draft, changes = instance.draft(), Changes()
        draft.password_data = password
        draft.password_found.CopyFrom(found)
        changes.update(instance, draft)
        await cloud.store.commit(changes)
        return draft

    return await until_committed(attempt)


async def _console(cloud: Cloud, record: record_pb2.InstanceRecord) -> tuple[bytes, Timestamp | None]:
    """The end of what the guest wrote, and when it last did. Its node keeps it for as long as it is shown."""
    if record.state == rules.PENDING:
        return b"", None
    order = cc.GetConsoleOutputRequest(instance_id=record.instance_id, node=record.node)
    try:
        answer = await cloud.clusters.stub(record.zone).GetConsoleOutput(order)
    except NotFound:
        return b"", None
    except Unavailable:
        if record.state != rules.TERMINATED:
            raise
        # The node may have gone for good.
        return b"", None
    if not answer.written_at_ms:
        return answer.output, None
    written = Timestamp()
    written.FromMilliseconds(answer.written_at_ms)
    return answer.output, written
