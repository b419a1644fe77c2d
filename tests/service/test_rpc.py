"""The RPC floor, over real TLS: who gets in, what crosses the wire, what a client sees of a bug."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from common import log, metrics, pki
from common.errors import CloudError, Denied, NotFound, Unauthenticated, Unavailable, Unsupported
from common.pki import Identity
from common.rpc import context as rpc_context
from common.rpc.access import ROLES, Access
from common.rpc.channel import CloudChannel, cloud_errors, connect
from common.rpc.server import RpcServer
from mallee.common.v1.caller_pb2 import Caller

SERVICE = "test.v1.Parrot"
ACCESS = Access(
    services={
        f"/{SERVICE}": frozenset({"facade", "cc"}),
        "/grpc.health.v1.Health": ROLES,
        "/grpc.reflection.v1alpha.ServerReflection": frozenset({"admin"}),
    },
    methods={f"/{SERVICE}/OnlyForClc": frozenset({"clc"})},
)
CODEC: dict[str, Any] = {
    "request_deserializer": StringValue.FromString,
    "response_serializer": StringValue.SerializeToString,
}


class Parrot:
    """One method per way an RPC can go."""

    def __init__(self) -> None:
        self.waits = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.onward: CloudChannel | None = None

    async def say(self, request: StringValue, context: Any) -> StringValue:
        return StringValue(value=request.value)

    async def tell_context(self, request: StringValue, context: Any) -> StringValue:
        caller, peer = rpc_context.current_caller(), rpc_context.current_peer()
        assert peer is not None
        told = {
            "request_id": rpc_context.current_request_id(),
            "account": caller.account_id if caller else None,
            "peer": peer.member_id,
            "left_s": rpc_context.remaining_s(),
        }
        return StringValue(value=json.dumps(told))

    async def ask_onward(self, request: StringValue, context: Any) -> StringValue:
        assert self.onward is not None
        answer: StringValue = await method(self.onward, "TellContext")(request)
        return answer

    async def refuse(self, request: StringValue, context: Any) -> StringValue:
        raise NotFound("no such image", code="InvalidAMIID.NotFound", details={"ImageId": request.value})

    async def refuse_at_length(self, request: StringValue, context: Any) -> StringValue:
        raise NotFound("no such instances: " + ", ".join(f"i-{n:017x}" for n in range(5000)))

    async def fail(self, request: StringValue, context: Any) -> StringValue:
        return StringValue(value={}["secret"])

    async def wait(self, request: StringValue, context: Any) -> StringValue:
        try:
            await self.waits.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return StringValue()

    async def count(self, request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        for number in range(int(request.value)):
            yield StringValue(value=str(number))
        raise NotFound("no more numbers", code="NoSuchKey")

    async def write_and_fail(self, request: StringValue, context: Any) -> None:
        await context.write(StringValue(value="one"))
        raise ValueError("a bug in a stream")

    async def join(self, requests: AsyncIterator[StringValue], context: Any) -> StringValue:
        joined = "".join([request.value async for request in requests])
        if not joined:
            raise Unsupported("nothing came")
        return StringValue(value=joined)

    async def echo(self, requests: AsyncIterator[StringValue], context: Any) -> AsyncIterator[StringValue]:
        async for request in requests:
            yield request

    def handlers(self) -> grpc.GenericRpcHandler:
        unary, many = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Say": unary(self.say, **CODEC),
                "OnlyForClc": unary(self.say, **CODEC),
                "TellContext": unary(self.tell_context, **CODEC),
                "AskOnward": unary(self.ask_onward, **CODEC),
                "Refuse": unary(self.refuse, **CODEC),
                "RefuseAtLength": unary(self.refuse_at_length, **CODEC),
                "Fail": unary(self.fail, **CODEC),
                "Wait": unary(self.wait, **CODEC),
                "Count": many(self.count, **CODEC),
                "WriteAndFail": many(self.write_and_fail, **CODEC),
                "Join": grpc.stream_unary_rpc_method_handler(self.join, **CODEC),
                "Echo": grpc.stream_stream_rpc_method_handler(self.echo, **CODEC),
            },
        )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    pki.create_authority(folder)
    for member, role in (
        ("clc-1", "clc"),
        ("facade-1", "facade"),
        ("cc-a", "cc"),
        ("nc-a-1", "nc"),
        ("admin", "admin"),
    ):
        pki.issue(folder, member, role, ips=["127.0.0.1"])
    return folder


class Stage:
    """A running server and channels to it by member."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.parrot = Parrot()
        self.server = RpcServer(Identity.load(folder, "clc-1"), access=ACCESS).add_generic(self.parrot.handlers())

    async def channel(self, member: str, *, peer: str = "clc-1", speak_for_callers: bool = False) -> CloudChannel:
        address = f"127.0.0.1:{self.server.ports[0]}"
        identity = Identity.load(self._folder, member)
        return await self._stack.enter_async_context(
            connect(address, identity, peer, speak_for_callers=speak_for_callers)
        )


@pytest.fixture
async def stage(certificates: Path) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        made = Stage(certificates, stack)
        await stack.enter_async_context(made.server)
        yield made


def method(channel: CloudChannel, name: str, kind: str = "unary_unary") -> Callable[..., Any]:
    made: Callable[..., Any] = getattr(channel, kind)(
        f"/{SERVICE}/{name}",
        request_serializer=StringValue.SerializeToString,
        response_deserializer=StringValue.FromString,
    )
    return made


async def told(channel: CloudChannel, name: str = "TellContext", **kwargs: Any) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads((await method(channel, name)(StringValue(), **kwargs)).value)
    return answer


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
    with pytest.raises(Denied):
        await stage_call(await stage.channel("facade-1"), "/other.v1.Service/Method")
    with pytest.raises(Unsupported):
        await stage_call(await stage.channel("facade-1"), f"/{SERVICE}/Missing")


async def stage_call(channel: CloudChannel, path: str) -> None:
    call = channel.unary_unary(
        path, request_serializer=StringValue.SerializeToString, response_deserializer=StringValue.FromString
    )
    await call(StringValue())


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


async def test_every_unary_call_has_a_deadline(stage: Stage) -> None:
    answer = await told(await stage.channel("facade-1"))
    assert 0 < answer["left_s"] <= 10


async def test_a_client_that_sets_no_deadline_is_given_one(stage: Stage, certificates: Path) -> None:
    options = (("grpc.ssl_target_name_override", "clc-1"),)
    credentials = Identity.load(certificates, "facade-1").channel_credentials()
    async with grpc.aio.secure_channel(f"127.0.0.1:{stage.server.ports[0]}", credentials, options) as plain:
        call = plain.unary_unary(f"/{SERVICE}/TellContext", response_deserializer=StringValue.FromString)
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


async def test_a_stream_ends_by_its_cloud_error(stage: Stage) -> None:
    seen = []
    with pytest.raises(NotFound) as caught, cloud_errors():
        async for answer in method(await stage.channel("facade-1"), "Count", "unary_stream")(StringValue(value="3")):
            seen.append(answer.value)
    assert seen == ["0", "1", "2"]
    assert caught.value.code == "NoSuchKey"


async def test_a_bug_in_a_stream_is_opaque(stage: Stage) -> None:
    call = method(await stage.channel("facade-1"), "WriteAndFail", "unary_stream")(StringValue())
    with pytest.raises(CloudError) as caught, cloud_errors():
        async for _ in call:
            pass
    assert caught.value.code == "InternalError"


async def test_a_stream_of_a_role_that_is_not_in_the_table_is_refused(stage: Stage) -> None:
    with pytest.raises(Denied), cloud_errors():
        async for _ in method(await stage.channel("nc-a-1"), "Count", "unary_stream")(StringValue(value="3")):
            pass


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
        async for _ in refused.ServerReflectionInfo(iter(ask)):
            pass


async def test_requests_are_counted_by_method_and_code(stage: Stage) -> None:
    channel = await stage.channel("facade-1")
    refused = metrics.RPC_REQUESTS.labels(f"/{SERVICE}/Refuse", "InvalidAMIID.NotFound")
    before = refused._value.get()
    with pytest.raises(NotFound):
        await method(channel, "Refuse")(StringValue())
    assert refused._value.get() == before + 1
    assert metrics.RPC_IN_FLIGHT.labels(f"/{SERVICE}/Refuse")._value.get() == 0


async def test_a_stopping_server_answers_what_it_began(stage: Stage) -> None:
    channel = await stage.channel("facade-1")
    waiting = asyncio.ensure_future(method(channel, "Wait")(StringValue()))
    in_flight = metrics.RPC_IN_FLIGHT.labels(f"/{SERVICE}/Wait")
    while in_flight._value.get() == 0:
        await asyncio.sleep(0)
    stopping = asyncio.ensure_future(stage.server.stop(5))
    await asyncio.sleep(0)
    stage.parrot.waits.set()
    await waiting
    await stopping
    with pytest.raises(Unavailable):
        await method(channel, "Say")(StringValue())
