"""The metadata service over real sockets. The fake network listens on 127.0.0.1, so guests have loopback addresses."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mallee.nc.v1 import instance_pb2, network_pb2, service_pb2
from services.nc.metadata import MOST_CONNECTIONS
from tests.service.nc.stage import Node, Site, make_site, running
from tests.unit.nc.specs import spec

RUNNING = instance_pb2.VM_STATE_RUNNING
OTHER_VPC = "vpc-0123456789abcdef1"
# linux/in.h: a TCP socket with it takes no packet whose TTL is below.
IP_MINTTL = 21


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


def guest(number: int, vpc: str = "vpc-0123456789abcdef0") -> instance_pb2.InstanceSpec:
    made = spec(number, vpc=vpc)
    # Two VPCs with the same addresses.
    last = 10 if vpc == OTHER_VPC else number + 9
    made.interface.private_ipv4 = f"127.31.0.{last}"
    made.interface.subnet_cidr, made.interface.vpc_cidr = "127.31.0.0/20", "127.31.0.0/16"
    return made


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path)


@pytest.fixture
async def node(site: Site) -> AsyncIterator[Node]:
    async with running(site) as started:
        plain, strict, closed, foreign = guest(1), guest(2), guest(3), guest(4, OTHER_VPC)
        strict.metadata_options.tokens_required = True
        strict.ClearField("user_data")
        strict.has_user_data = False
        closed.metadata_options.endpoint_disabled = True
        for made in (plain, strict, closed, foreign):
            await started.client.ensure(made)
            await started.client.until(made.instance_id, RUNNING)
        yield started


def port_of(node: Node, vpc: str = "vpc-0123456789abcdef0") -> int:
    return int((node.site.paths.root / "fake-network" / vpc / "metadata-port").read_text())


async def ask(
    node: Node, path: str, *, method: str = "GET", number: int = 1, vpc: str = "vpc-0123456789abcdef0", **headers: str
) -> Answer:
    """From the guest's own address."""
    port = port_of(node, vpc)
    source = guest(number, vpc).interface.private_ipv4
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    lines = [f"{method} {path} HTTP/1.1", "Host: 169.254.169.254", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    raw = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    return Answer(int(first.split()[1]), dict(line.split(": ", 1) for line in rest), body)


async def token(node: Node, number: int = 1) -> str:
    answer = await ask(
        node, "/latest/api/token", method="PUT", number=number, X_aws_ec2_metadata_token_ttl_seconds="60"
    )
    assert answer.status == 200
    assert answer.headers["X-aws-ec2-metadata-token-ttl-seconds"] == "60"
    return answer.text


async def test_every_version_that_is_listed_has_the_whole_tree(node: Node) -> None:
    versions = (await ask(node, "/")).text.splitlines()
    assert {"latest", "2021-03-23", "2018-09-24", "2016-09-02", "2009-04-04", "1.0"} <= set(versions)
    for version in versions:
        assert (await ask(node, f"/{version}/")).text.split() == ["dynamic", "meta-data", "user-data"]
        assert (await ask(node, f"/{version}/meta-data/instance-id")).text == spec(1).instance_id
        assert (await ask(node, f"/{version}/user-data")).body == spec(1).user_data


async def test_a_guest_reads_its_own_metadata_alone(node: Node) -> None:
    for number in (1, 4):
        vpc = OTHER_VPC if number == 4 else spec().interface.vpc_id
        # The same address in two VPCs.
        assert guest(number, vpc).interface.private_ipv4 == "127.31.0.10"
        told = await ask(node, "/latest/meta-data/instance-id", number=number, vpc=vpc)
        assert told.text == spec(number).instance_id
    stranger = await ask(node, "/latest/meta-data/instance-id", number=9)
    assert stranger.status == 404


async def test_folders_are_listed_and_the_unknown_is_an_xhtml_404(node: Node) -> None:
    root = await ask(node, "/")
    assert root.text.splitlines()[-1] == "latest"
    top = (await ask(node, "/latest/meta-data/")).text.splitlines()
    assert {"ami-id", "network/", "placement/", "public-keys/"} <= set(top)
    assert (await ask(node, "/latest/meta-data/public-keys/")).text == "0=laptop"
    assert (await ask(node, "/latest/meta-data/public-keys/0/")).text == "openssh-key"
    for path in ("/latest/meta-data/nothing", "/2000-01-01/meta-data/", "/latest/meta-data/spot/instance-action"):
        missing = await ask(node, path)
        assert missing.status == 404
        assert "<h1>404 - Not Found</h1>" in missing.text


async def test_user_data_is_given_byte_for_byte_or_not_at_all(node: Node) -> None:
    assert (await ask(node, "/latest/user-data")).body == spec(1).user_data
    held = await token(node, 2)
    assert (await ask(node, "/latest/user-data", number=2, X_aws_ec2_metadata_token=held)).status == 404


async def test_where_tokens_are_required_there_is_nothing_without_one(node: Node) -> None:
    assert (await ask(node, "/latest/meta-data/instance-id", number=2)).status == 401
    held = await token(node, 2)
    answer = await ask(node, "/latest/meta-data/instance-id", number=2, X_aws_ec2_metadata_token=held)
    assert answer.text == spec(2).instance_id
    stolen = await ask(node, "/latest/meta-data/instance-id", number=1, X_aws_ec2_metadata_token=held)
    assert stolen.status == 401


async def test_tokens_outlive_a_restart_of_the_node_controller(site: Site) -> None:
    async with running(site) as node:
        await node.client.ensure(guest(1))
        await node.client.until(spec(1).instance_id, RUNNING)
        held = await token(node)
    async with running(site) as node:
        answer = await ask(node, "/latest/meta-data/instance-id", X_aws_ec2_metadata_token=held)
        assert answer.text == spec(1).instance_id


@pytest.mark.parametrize("ttl", ["0", "21601", "x"])
async def test_a_token_needs_a_sensible_ttl_and_no_proxy(node: Node, ttl: str) -> None:
    path = "/latest/api/token"
    assert (await ask(node, path, method="PUT", X_aws_ec2_metadata_token_ttl_seconds=ttl)).status == 400
    assert (await ask(node, path, method="PUT")).status == 400
    forwarded = await ask(
        node, path, method="PUT", X_aws_ec2_metadata_token_ttl_seconds="60", X_Forwarded_For="10.0.0.1"
    )
    assert forwarded.status == 403


async def test_a_disabled_endpoint_and_other_methods_are_refused(node: Node) -> None:
    assert (await ask(node, "/latest/meta-data/", number=3)).status == 403
    assert (await ask(node, "/latest/meta-data/", method="POST")).status == 405
    assert (await ask(node, "/latest/meta-data/", method="HEAD")).status == 200
    assert (await ask(node, "/latest/api/token")).status == 405
    assert (await ask(node, "/latest/meta-data/", method="PUT")).status == 404


async def test_the_identity_document_is_signed_as_openssl_verifies_it(node: Node, tmp_path: Path) -> None:
    """By the certificate that lies in the cloud's folder, with the commands of AWS's user guide."""
    folder = "/latest/dynamic/instance-identity"
    assert (await ask(node, f"{folder}/")).text.split() == ["document", "pkcs7", "rsa2048", "signature"]
    document = (await ask(node, f"{folder}/document")).body
    assert json.loads(document)["instanceId"] == spec(1).instance_id
    (tmp_path / "document").write_bytes(document)
    certificate = node.site.config.pki_path / "instance-identity.pem"
    (tmp_path / "key.pem").write_bytes(await openssl(tmp_path, "x509", "-pubkey", "-noout", "-in", str(certificate)))
    (tmp_path / "signature").write_bytes(base64.b64decode((await ask(node, f"{folder}/signature")).body))
    verify = ["dgst", "-sha256", "-verify", "key.pem", "-signature", "signature", "document"]
    assert await openssl(tmp_path, *verify) == b"Verified OK\n"
    for name in ("pkcs7", "rsa2048"):
        signed = (await ask(node, f"{folder}/{name}")).text
        (tmp_path / name).write_text(f"-----BEGIN PKCS7-----\n{signed}\n-----END PKCS7-----\n")
        verify = ["smime", "-verify", "-in", name, "-inform", "PEM", "-certfile", str(certificate), "-noverify"]
        assert await openssl(tmp_path, *verify) == document
    (tmp_path / "document").write_bytes(document.replace(b"i-", b"j-"))
    assert b"Verified OK" not in await openssl(
        tmp_path, "dgst", "-sha256", "-verify", "key.pem", "-signature", "signature", "document"
    )


async def openssl(folder: Path, *arguments: str) -> bytes:
    """What it wrote."""
    started = await asyncio.create_subprocess_exec(
        "openssl", *arguments, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    said, _ = await started.communicate()
    return said


async def test_the_latest_plan_decides_at_the_next_request(node: Node) -> None:
    """Public address, groups, tags, and whether and how there are answers at all."""
    await tell(node, 5, public_ipv4="198.51.100.77", metadata=instance_pb2.InstanceMetadata(tags={"Name": "one"}))
    for path, said in (
        ("public-ipv4", "198.51.100.77"),
        ("security-groups", "renewed"),
        ("tags/instance/", "Name"),
        ("tags/instance/Name", "one"),
    ):
        assert (await ask(node, f"/latest/meta-data/{path}")).text == said
    strict = instance_pb2.InstanceMetadata(options=instance_pb2.MetadataOptions(tokens_required=True))
    await tell(node, 6, metadata=strict)
    assert (await ask(node, "/latest/meta-data/instance-id")).status == 401
    held = await token(node)
    for path in ("public-ipv4", "tags/"):
        assert (await ask(node, f"/latest/meta-data/{path}", X_aws_ec2_metadata_token=held)).status == 404
    strict.options.endpoint_disabled = True
    await tell(node, 7, metadata=strict)
    assert (await ask(node, "/latest/meta-data/", X_aws_ec2_metadata_token=held)).status == 403
    assert (await ask(node, "/latest/api/token", method="PUT", X_aws_ec2_metadata_token_ttl_seconds="60")).status == 403
    strict.options.endpoint_disabled = False
    await tell(node, 8, metadata=strict)
    answer = await ask(node, "/latest/meta-data/instance-id", X_aws_ec2_metadata_token=held)
    assert answer.text == spec(1).instance_id


async def test_a_change_outlives_a_restart_of_the_node_controller(site: Site) -> None:
    async with running(site) as node:
        await node.client.ensure(guest(1))
        await node.client.until(spec(1).instance_id, RUNNING)
        options = instance_pb2.MetadataOptions(tokens_required=True)
        await tell(node, 5, metadata=instance_pb2.InstanceMetadata(options=options))
    async with running(site) as node:
        assert (await ask(node, "/latest/meta-data/instance-id")).status == 401


async def tell(node: Node, revision: int, **more: Any) -> None:
    """The plan that the CLC would make of the first guest's VPC."""
    of = guest(1).interface
    plan = network_pb2.VpcPlan(vpc_id=of.vpc_id, revision=revision, vni=7, cidr=of.vpc_cidr)
    plan.groups.add(group_id="sg-0123456789abcdef9", name="renewed")
    plan.interfaces.add(
        interface_id=of.interface_id,
        instance_id=spec(1).instance_id,
        mac=of.mac,
        private_ipv4=of.private_ipv4,
        node_address="127.0.0.1",
        subnet_id=of.subnet_id,
        group_ids=["sg-0123456789abcdef9"],
        **more,
    )
    await node.client.stub.ApplyVpcPlan(service_pb2.ApplyVpcPlanRequest(epoch=1, plan=plan))


@pytest.mark.parametrize(("limit", "hops", "arrives"), [(1, 1, True), (1, 2, False), (3, 3, True), (3, 4, False)])
async def test_a_token_travels_as_many_hops_as_it_may(node: Node, limit: int, hops: int, arrives: bool) -> None:
    """What the receiver wants to be left of the packets' TTL stands for the hops between. Nor may a later request on
    the connection carry the lost token further."""
    options = instance_pb2.MetadataOptions(hop_limit=limit)
    await tell(node, 5, metadata=instance_pb2.InstanceMetadata(options=options))
    with socket.create_connection(
        ("127.0.0.1", port_of(node)), source_address=(guest(1).interface.private_ipv4, 0)
    ) as it:
        it.setsockopt(socket.IPPROTO_IP, IP_MINTTL, hops)
        it.sendall(
            b"PUT /latest/api/token HTTP/1.1\r\nHost: x\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n"
            b"GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        it.setblocking(False)
        said = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5 if arrives else 1):
                while piece := await asyncio.get_running_loop().sock_recv(it, 4096):
                    said += piece
        assert said.startswith(b"HTTP/1.1 200") == arrives
        assert bool(said) == arrives


async def test_rubbish_does_not_stop_it(node: Node) -> None:
    port = port_of(node)
    for rubbish in (b"\0\1\2\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET " + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port)) as plain:
            plain.sendall(rubbish)
    assert (await ask(node, "/latest/meta-data/instance-id")).text == spec(1).instance_id


async def test_it_answers_again_after_the_vpc_was_gone_for_a_while(node: Node) -> None:
    """What remains of the VPC in between is a launch that failed, with a record and nothing else."""
    await node.client.terminate(spec(4).instance_id)
    await node.client.until(spec(4).instance_id, instance_pb2.VM_STATE_GONE)
    broken = guest(5)
    broken.boot.machine.sha256 = "0" * 64
    await node.client.ensure(broken)
    await node.client.until(broken.instance_id, instance_pb2.VM_STATE_FAILED)
    for number in (1, 2, 3):
        await node.client.terminate(spec(number).instance_id)
        await node.client.until(spec(number).instance_id, instance_pb2.VM_STATE_GONE)
    await node.client.ensure(guest(6))
    await node.client.until(spec(6).instance_id, RUNNING)
    assert (await ask(node, "/latest/meta-data/instance-id", number=6)).text == spec(6).instance_id


async def test_a_guest_that_hoards_connections_costs_a_bounded_number_and_no_other_vpc(node: Node) -> None:
    port = port_of(node)
    async with contextlib.AsyncExitStack() as stack:
        readers = []
        for _ in range(MOST_CONNECTIONS + 20):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
            readers.append(reader)
        closed = [asyncio.ensure_future(reader.read()) for reader in readers]
        done, waiting = await asyncio.wait(closed, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        assert done
        assert len(waiting) >= MOST_CONNECTIONS
        told = await ask(node, "/latest/meta-data/instance-id", number=4, vpc=OTHER_VPC)
        assert told.text == spec(4).instance_id
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
