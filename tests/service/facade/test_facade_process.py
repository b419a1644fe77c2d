"""The facade as a process: it finds the real Walrus and a CLC by etcd, shows metrics, and survives their restarts."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from common import pki
from common.etcd.client import Etcd
from common.etcd.membership import Membership
from common.keyring import OBJECT_KEYS, new_line
from common.pki import Identity
from common.rpc.server import RpcServer
from ec2_facade.limits import MIB
from mallee.clc.v1 import service_pb2_grpc
from mallee.common.v1.caller_pb2 import Member
from mallee.sts.v1 import caller_pb2
from tests.etcd_fixture import EtcdServer
from tests.eventually import eventually
from tests.ports import free_port_base
from tests.service.facade.conftest import in_thread
from tests.service.facade.signing_client import Wire
from tests.service.facade.stand_in import ACCOUNT, StandInIdentities, StandInService
from tests.unit.facade.signing import ACCESS_KEY, REGION, SECRET

ROOT = Path(__file__).parents[3]
_MEMBERS = (("etcd-1", "etcd"), ("clc-1", "clc"), ("walrus-1", "walrus"), ("facade-1", "facade"))


class Cloud:
    """Processes of one small cloud; what is killed may be started again."""

    def __init__(self, home: Path) -> None:
        self.home = home
        # Below the range that outgoing connections take theirs from: a store may be killed and come back to its port.
        base = free_port_base()
        self.port, self.walrus_port, self.clc_port = base, base + 1, base + 2
        self.metrics_port, self.walrus_metrics = base + 1000, base + 1001
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def write_config(self, etcd: EtcdServer) -> None:
        (self.home / "mallee.toml").write_text(
            f'cloud_id = "abcd"\nhome = "{self.home}"\n'
            f'[etcd]\nendpoints = ["{etcd.address}"]\n'
            f"[facade]\nport = {self.port}\nmetrics_port = {self.metrics_port}\n"
            f"[walrus]\nport = {self.walrus_port}\nmetrics_port = {self.walrus_metrics}\nreserve_bytes = 0\n"
        )

    def start(self, module: str, member: str) -> None:
        command = [sys.executable, "-m", module, "--config", str(self.home / "mallee.toml"), "--member", member]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}"}
        with (self.home / f"{member}.log").open("ab") as log:
            self.processes[member] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command], cwd=ROOT, env=environment, stdout=log, stderr=log
            )

    def end(self, member: str, number: signal.Signals = signal.SIGKILL) -> int:
        process = self.processes.pop(member)
        process.send_signal(number)
        return process.wait(20)

    def client(self, service: str) -> Any:
        return boto3.client(
            service,  # type: ignore[call-overload]
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET,
            region_name=REGION,
            config=Config(retries={"total_max_attempts": 1}),
        )

    def most_memory(self, member: str) -> int:
        """The most that was ever resident, in bytes."""
        status = Path(f"/proc/{self.processes[member].pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) << 10

    def is_ready(self, member: str) -> bool:
        log = (self.home / f"{member}.log").read_text()
        assert self.processes[member].poll() is None, log
        return '"ready"' in log


@contextmanager
def etcd_with_tls(folder: Path, certificates: Path) -> Iterator[EtcdServer]:
    server = EtcdServer("etcd-1", folder, tls=certificates)
    server.start()
    try:
        server.wait_healthy()
        yield server
    finally:
        server.kill()


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    certificates = tmp_path / "pki"
    pki.create_authority(certificates)
    for member, role in _MEMBERS:
        pki.issue(certificates, member, role, ips=["127.0.0.1"])
    pki.create_self_signed(certificates, pki.BUNDLE_OPENER)
    (certificates / "ticket.key").write_bytes(b"k" * 32)
    (certificates / OBJECT_KEYS).write_bytes(new_line())
    made = Cloud(tmp_path)
    async with AsyncExitStack() as stack:
        etcd_server = stack.enter_context(etcd_with_tls(tmp_path, certificates))
        made.write_config(etcd_server)
        await _stand_in_clc(stack, made, Identity.load(certificates, "clc-1"), etcd_server)
        made.start("services.walrus.main", "walrus-1")
        made.start("ec2_facade.main", "facade-1")
        try:
            for member in ("walrus-1", "facade-1"):
                await eventually(lambda member=member: made.is_ready(member), within_s=60)  # type: ignore[misc]
            yield made
        finally:
            for member in list(made.processes):
                made.end(member)


async def _stand_in_clc(stack: AsyncExitStack, cloud: Cloud, identity: Identity, etcd_server: EtcdServer) -> None:
    sts = StandInService("sts")
    sts.answers["GetCallerIdentity"] = lambda request: caller_pb2.GetCallerIdentityResponse(account=ACCOUNT)
    address = f"127.0.0.1:{cloud.clc_port}"
    server = RpcServer(identity, addresses=[address])
    server.add(service_pb2_grpc.add_IdentityServiceServicer_to_server, StandInIdentities())
    server.add_generic(*sts.handlers())
    await server.start()
    stack.push_async_callback(server.stop, 0)
    etcd = await stack.enter_async_context(Etcd([etcd_server.address], identity))
    membership = await stack.enter_async_context(Membership(etcd))
    await membership.register(Member(id="clc-1", role="clc", address=address, boot_id="1"))


async def test_the_whole_path_of_s3_to_a_real_store(cloud: Cloud) -> None:
    client = cloud.client("s3")
    assert (await in_thread(cloud.client("sts").get_caller_identity))["Account"] == ACCOUNT
    await patiently(client.create_bucket, Bucket="bucket")
    body = os.urandom(20 * MIB)
    await in_thread(client.upload_fileobj, io.BytesIO(body), "bucket", "a//b/../ü?")
    got = await in_thread(client.get_object, Bucket="bucket", Key="a//b/../ü?")
    assert await in_thread(got["Body"].read) == body
    ranged = await in_thread(client.get_object, Bucket="bucket", Key="a//b/../ü?", Range="bytes=1048570-1048585")
    assert await in_thread(ranged["Body"].read) == body[1048570:1048586]
    listed = await in_thread(client.list_objects_v2, Bucket="bucket", Prefix="a/")
    assert [item["Key"] for item in listed["Contents"]] == ["a//b/../ü?"]
    with pytest.raises(client.exceptions.NoSuchBucket):
        await in_thread(client.put_object, Bucket="nobucket", Key="k", Body=b"x" * (4 * MIB))
    answer = await in_thread(client.delete_objects, Bucket="bucket", Delete={"Objects": [{"Key": "a//b/../ü?"}]})
    assert [item["Key"] for item in answer["Deleted"]] == ["a//b/../ü?"]
    await in_thread(client.delete_bucket, Bucket="bucket")
    await _shows_metrics(cloud)


async def test_a_large_object_is_never_held_whole(cloud: Cloud) -> None:
    client = cloud.client("s3")
    await patiently(client.create_bucket, Bucket="bucket")
    size = 256 * MIB
    await in_thread(client.put_object, Bucket="bucket", Key="small", Body=os.urandom(4 * MIB))
    before = cloud.most_memory("facade-1")
    await in_thread(client.put_object, Bucket="bucket", Key="large", Body=b"\0" * size)
    got = await in_thread(client.get_object, Bucket="bucket", Key="large")
    assert await in_thread(lambda: sum(len(chunk) for chunk in got["Body"].iter_chunks(MIB))) == size
    assert cloud.most_memory("facade-1") - before < 64 * MIB


@pytest.mark.parametrize("signed", [True, False])
async def test_a_trailing_checksum_is_checked_by_the_store(cloud: Cloud, signed: bool) -> None:
    client = cloud.client("s3")
    await patiently(client.create_bucket, Bucket="bucket")
    body = os.urandom(300_000)
    wire = Wire.trailing(f"http://127.0.0.1:{cloud.port}/bucket/k", body, signed=signed)
    assert (await in_thread(wire.send, cloud.port))[0] == 200
    wrong = Wire.trailing(f"http://127.0.0.1:{cloud.port}/bucket/k", body, signed=signed, checksum_of=b"other")
    status, text = await in_thread(wrong.send, cloud.port)
    assert (status, b"<Code>BadDigest</Code>" in text) == (400, True)
    got = await in_thread(client.get_object, Bucket="bucket", Key="k")
    assert await in_thread(got["Body"].read) == body


async def test_a_store_that_was_killed_is_found_again(cloud: Cloud) -> None:
    client = cloud.client("s3")
    await patiently(client.create_bucket, Bucket="bucket")
    await in_thread(client.put_object, Bucket="bucket", Key="k", Body=b"x")
    cloud.end("walrus-1")
    cloud.start("services.walrus.main", "walrus-1")

    got = await patiently(client.get_object, Bucket="bucket", Key="k")
    assert await in_thread(got["Body"].read) == b"x"


async def test_sigterm_ends_it_in_order(cloud: Cloud) -> None:
    assert await in_thread(cloud.end, "facade-1", signal.SIGTERM) == 0


async def patiently(call: Callable[..., Any], **arguments: Any) -> Any:
    """As clients do: again while the service says that it is not there now."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await in_thread(call, **arguments)
            except ClientError as error:
                if error.response["Error"]["Code"] != "ServiceUnavailable":
                    raise
            await asyncio.sleep(0.1)


async def _shows_metrics(cloud: Cloud) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{cloud.metrics_port}/metrics") as answer,
    ):
        text = await answer.text()
    assert 'mallee_http_requests_total{action="DeleteBucket",code="OK",service="s3"} 1.0' in text
    assert 'mallee_http_requests_total{action="GetCallerIdentity",code="OK",service="sts"} 1.0' in text
    assert "mallee_http_in_flight 0.0" in text
    assert "mallee_http_seconds_bucket" in text
