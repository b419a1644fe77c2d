"""The RPC floor, over real TLS: who gets in, what crosses the wire, what a client sees of a bug."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import REGISTRY

from common import log, pki
from common.errors import CloudError, Denied, NotFound, Unauthenticated, Unavailable, Unsupported
from common.pki import Identity
from common.rpc import context as rpc_context
from common.rpc.channel import cloud_errors, connect
from common.rpc.server import RpcServer
from mallee.common.v1.caller_pb2 import Caller
from tests.eventually import eventually
from tests.service.rpc_stage import ACCESS, SERVICE, Parrot, Stage, method, told


async def test_a_role_in_the_table_is_answered(stage: Stage) -> None:
    answer = await method(await stage.channel("facade-1"), "Say")(StringValue(value="hello"))
    assert answer.value == "hello"


@pytest.mark.parametrize(("member", "name"), [("nc-a-1", "Say"), ("facade-1", "OnlyForClc"), ("admin", "Say")])
async def test_a_role_that_is_not_in_the_table_is_refused(stage: Stage, member: str, name: str) -> None:
    with pytest.raises(Denied):
        await method(await stage.channel(member), name)(StringValue())


async def test_a_method_entry_replaces_its_services_entry(stage: Stage) -> None:
    await method(await stage.channel("clc-1"), "OnlyForClc")(StringValue())


async def test_an_unknown_method_is_refused(stage: Stage) -> None:
    with pytest.raises(Unsupported, match="no such method"):
        await method(await stage.channel("facade-1"), "Missing")(StringValue())


async def test_what_a_handler_aborts_by_hand_is_counted_by_its_status(stage: Stage) -> None:
    with pytest.raises(CloudError, match="said by hand"):
        await method(await stage.channel("facade-1"), "Abort")(StringValue())
    # Its status is on its way before the handler has ended.
    await eventually(lambda: sample("mallee_rpc_requests_total", method=f"/{SERVICE}/Abort", code="DATA_LOSS") == 1)


async def test_a_peer_that_was_restarted_is_found_again_soon(stage: Stage, certificates: Path) -> None:
    channel = await stage.channel("facade-1")
    say = method(channel, "Say")
    await say(StringValue())
    await stage.server.stop()
    with pytest.raises(Unavailable):
        await say(StringValue())
    address = f"127.0.0.1:{stage.server.ports[0]}"
    async with RpcServer(Identity.load(certificates, "clc-1"), addresses=[address], access=ACCESS).add_generic(
        stage.parrot.handlers()
    ):
        assert (await say(StringValue(value="again"), wait_for_ready=True, timeout=3)).value == "again"


async def test_a_service_that_the_table_does_not_know_keeps_the_server_from_starting(certificates: Path) -> None:
    server = RpcServer(Identity.load(certificates, "clc-1")).add_generic(Parrot().handlers())
    with pytest.raises(ValueError, match=SERVICE):
        await server.start()


async def test_a_port_that_is_taken_is_an_os_error(stage: Stage, certificates: Path) -> None:
    address = f"127.0.0.1:{stage.server.ports[0]}"
    with pytest.raises(OSError, match="cannot listen"):
        await RpcServer(Identity.load(certificates, "clc-1"), addresses=[address]).start()


async def test_a_server_with_another_members_certificate_is_not_spoken_to(stage: Stage) -> None:
    with pytest.raises(Unavailable):
        await method(await stage.channel("facade-1", peer="clc-2"), "Say")(StringValue())


async def test_a_certificate_of_another_authority_does_not_get_in(stage: Stage, tmp_path: Path) -> None:
    pki.create_authority(tmp_path)
    pki.issue(tmp_path, "facade-1", "facade")
    stranger = Identity.load(tmp_path, "facade-1")
    async with connect(f"127.0.0.1:{stage.server.ports[0]}", stranger, "clc-1") as channel:
        with pytest.raises(Unavailable):
            await method(channel, "Say")(StringValue())


async def test_a_certificate_without_a_known_role_is_refused(stage: Stage, certificates: Path) -> None:
    pki.issue(certificates, "passer-by", "tourist")
    with pytest.raises(Unauthenticated):
        await method(await stage.channel("passer-by"), "Say")(StringValue())


async def test_a_cloud_error_arrives_whole(stage: Stage) -> None:
    with pytest.raises(NotFound) as caught:
        await method(await stage.channel("facade-1"), "Refuse")(StringValue(value="ami-1"))
    assert caught.value.code == "InvalidAMIID.NotFound"
    assert caught.value.message == "no such image"
    assert caught.value.details == {"ImageId": "ami-1"}


async def test_an_error_that_names_thousands_of_ids_arrives_whole(stage: Stage) -> None:
    with pytest.raises(NotFound, match="i-00000000000001387"):
        await method(await stage.channel("facade-1"), "RefuseAtLength")(StringValue())


async def test_a_bug_is_opaque_to_the_client_and_whole_in_the_log(stage: Stage) -> None:
    out = io.StringIO()
    log.configure(role="clc", member="clc-1", stream=out)
    with pytest.raises(CloudError) as caught, rpc_context.bind(request_id="the-request"):
        await method(await stage.channel("facade-1"), "Fail")(StringValue())
    assert type(caught.value) is CloudError
    assert caught.value.code == "InternalError"
    assert "secret" not in str(caught.value)
    assert caught.value.details == {"RequestId": "the-request"}
    (line,) = [json.loads(line) for line in out.getvalue().splitlines() if "a bug" in line]
    assert line["request_id"] == "the-request"
    assert line["member"] == "clc-1"
    assert "KeyError: 'secret'" in line["exception"]


async def test_the_client_deadline_ends_the_call_and_the_handler(stage: Stage) -> None:
    with pytest.raises(Unavailable, match="DEADLINE_EXCEEDED"):
        await method(await stage.channel("facade-1"), "Wait")(StringValue(), timeout=0.1)
    await asyncio.wait_for(stage.parrot.cancelled.wait(), 5)


async def test_a_call_whose_channel_is_closed_is_unavailable_to_who_was_not_cancelled(stage: Stage) -> None:
    channel = await stage.channel("facade-1")
    waiting = asyncio.ensure_future(method(channel, "Wait")(StringValue()))
    await stage.parrot.began.wait()
    await channel.close()
    with pytest.raises(Unavailable):
        await waiting


async def test_a_call_of_a_task_that_is_cancelled_is_cancelled(stage: Stage) -> None:
    waiting = asyncio.ensure_future(method(await stage.channel("facade-1"), "Wait")(StringValue()))
    await stage.parrot.began.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_every_unary_call_has_a_deadline(stage: Stage) -> None:
    answer = await told(await stage.channel("facade-1"))
    assert 0 < answer["left_s"] <= 10


async def test_a_client_that_sets_no_deadline_is_given_one(stage: Stage, certificates: Path) -> None:
    options = (("grpc.ssl_target_name_override", "clc-1"),)
    credentials = Identity.load(certificates, "facade-1").channel_credentials()
    async with grpc.aio.secure_channel(f"127.0.0.1:{stage.server.ports[0]}", credentials, options) as plain:
        call: Callable[..., Any] = plain.unary_unary(
            f"/{SERVICE}/TellContext", response_deserializer=StringValue.FromString
        )
        answer = json.loads((await call(b"")).value)
    assert 0 < answer["left_s"] <= 30


async def test_onward_calls_get_less_time_and_the_same_request_id(stage: Stage) -> None:
    stage.parrot.onward = await stage.channel("cc-a")
    with rpc_context.bind(request_id="r-7"):
        answer = await told(await stage.channel("facade-1"), "AskOnward", timeout=2.0)
    assert answer["request_id"] == "r-7"
    assert answer["peer"] == "cc-a"
    assert answer["left_s"] <= 2.0 - 2 * rpc_context.KEPT_BACK_S


async def test_a_call_without_time_left_is_not_sent(stage: Stage) -> None:
    with rpc_context.bind(timeout_s=0.01), pytest.raises(Unavailable, match="no time"):
        await method(await stage.channel("facade-1"), "Say")(StringValue())


async def test_a_call_outside_a_request_gets_a_fresh_request_id(stage: Stage) -> None:
    channel = await stage.channel("facade-1")
    first, second = await told(channel), await told(channel)
    assert first["request_id"] != second["request_id"]


async def test_the_facade_speaks_for_its_caller(stage: Stage) -> None:
    with rpc_context.bind(caller=Caller(account_id="123456789012")):
        speaking = await told(await stage.channel("facade-1", speak_for_callers=True))
        silent = await told(await stage.channel("facade-1"))
    assert speaking["account"] == "123456789012"
    assert silent["account"] is None


async def test_another_role_may_not_speak_for_a_caller(stage: Stage) -> None:
    with rpc_context.bind(caller=Caller(account_id="123456789012")), pytest.raises(Denied, match="speak for"):
        await told(await stage.channel("cc-a", speak_for_callers=True))


async def test_every_member_may_ask_for_health(stage: Stage) -> None:
    stub = health_pb2_grpc.HealthStub(await stage.channel("nc-a-1"))
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=SERVICE))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_is_for_the_operator(stage: Stage) -> None:
    ask = [reflection_pb2.ServerReflectionRequest(list_services="")]
    stub = reflection_pb2_grpc.ServerReflectionStub(await stage.channel("admin"))
    answers = [answer async for answer in stub.ServerReflectionInfo(iter(ask))]
    assert SERVICE in {service.name for service in answers[0].list_services_response.service}
    refused = reflection_pb2_grpc.ServerReflectionStub(await stage.channel("facade-1"))
    with pytest.raises(Denied), cloud_errors():
        await refused.ServerReflectionInfo(iter(ask)).read()


async def test_requests_are_counted_by_method_and_code(stage: Stage) -> None:
    channel = await stage.channel("facade-1")
    labels = {"method": f"/{SERVICE}/Refuse", "code": "InvalidAMIID.NotFound"}
    before = sample("mallee_rpc_requests_total", **labels)
    with pytest.raises(NotFound):
        await method(channel, "Refuse")(StringValue())
    # The answer is on its way before the handler has ended.
    await eventually(lambda: sample("mallee_rpc_requests_total", **labels) == before + 1)
    await eventually(lambda: sample("mallee_rpc_seconds_count", **labels) == before + 1)
    await eventually(lambda: sample("mallee_rpc_in_flight", method=f"/{SERVICE}/Refuse") == 0)


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_a_stopping_server_answers_what_it_began(stage: Stage) -> None:
    channel = await stage.channel("facade-1")
    waiting = asyncio.ensure_future(method(channel, "Wait")(StringValue()))
    await stage.parrot.began.wait()
    assert sample("mallee_rpc_in_flight", method=f"/{SERVICE}/Wait") == 1
    stopping = asyncio.ensure_future(stage.server.stop(5))
    await asyncio.sleep(0)
    stage.parrot.waits.set()
    await waiting
    await stopping
    with pytest.raises(Unavailable):
        await method(channel, "Say")(StringValue())
