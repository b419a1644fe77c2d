"""Streams over the RPC floor: each kind ends by its answer, its CloudError or an opaque bug."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from common.errors import CloudError, Denied, NotFound, Unsupported
from common.rpc.channel import CloudChannel, cloud_errors
from tests.service.rpc_stage import Stage, method


async def test_a_stream_ends_by_its_cloud_error(stage: Stage) -> None:
    seen: list[str] = []
    with pytest.raises(NotFound) as caught:
        await read_all(await stage.channel("facade-1"), "Count", "3", into=seen)
    assert seen == ["0", "1", "2"]
    assert caught.value.code == "NoSuchKey"


async def test_a_bug_in_a_stream_is_opaque(stage: Stage) -> None:
    with pytest.raises(CloudError) as caught:
        await read_all(await stage.channel("facade-1"), "WriteAndFail")
    assert caught.value.code == "InternalError"


async def test_a_stream_of_a_role_that_is_not_in_the_table_is_refused(stage: Stage) -> None:
    with pytest.raises(Denied):
        await read_all(await stage.channel("nc-a-1"), "Count", "3")


async def test_an_upload_is_answered_or_refused(stage: Stage) -> None:
    join = method(await stage.channel("facade-1"), "Join", "stream_unary")
    with cloud_errors():
        assert (await join(StringValue(value=part) for part in "abc")).value == "abc"
    with pytest.raises(Unsupported), cloud_errors():
        await join(iter(()))


async def test_both_ways_at_once(stage: Stage) -> None:
    call = method(await stage.channel("facade-1"), "Echo", "stream_stream")()
    for word in ("a", "b"):
        await call.write(StringValue(value=word))
        assert (await call.read()).value == word
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def read_all(channel: CloudChannel, name: str, value: str = "", *, into: list[str] | None = None) -> None:
    with cloud_errors():
        async for answer in method(channel, name, "unary_stream")(StringValue(value=value)):
            if into is not None:
                into.append(answer.value)
