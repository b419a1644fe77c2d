"""How far a token travels on the real network: to the guest, and beyond it only as far as its hop limit says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from common import netns
from common.ids import VpcId
from common.pki import DOCUMENT_SIGNER, create_self_signed, load_self_signed
from mallee.nc.v1 import instance_pb2
from services.nc.identity_document import DocumentSigner
from services.nc.metadata import MetadataServer
from services.nc.metadata_tree import Subject
from services.nc.net import names
from tests.contract.netlab import Guest, Lab
from tests.contract.network_fixtures import lab, opened, whole_lab
from tests.contract.traffic import dial

__all__ = ["lab", "whole_lab"]

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

_END = b"Host: x\r\nConnection: close\r\n\r\n"
PUT = b"PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n" + _END
GET = b"GET /latest/meta-data/instance-id HTTP/1.1\r\n" + _END


@dataclass
class Answering:
    """A guest, and what its metadata options say at the moment."""

    guest: Guest
    spec: instance_pb2.InstanceSpec


@pytest_asyncio.fixture(loop_scope="module")
async def answering(lab: Lab, tmp_path: Path) -> AsyncIterator[Answering]:
    vpc = VpcId.new()
    [guest] = await opened(lab, vpc, 0)
    create_self_signed(tmp_path, DOCUMENT_SIGNER)
    it = Answering(guest, instance_pb2.InstanceSpec(instance_id="i-0123456789abcdef0"))
    server = MetadataServer(
        lab.network(guest),
        lambda vpc_id, address: Subject(it.spec) if (vpc_id, address) == (vpc, guest.private) else None,
        signer=DocumentSigner(*load_self_signed(tmp_path, DOCUMENT_SIGNER)),
        token_key=b"k" * 32,
    )
    await server.serve(vpc)
    yield it
    await server.close()


@pytest.fixture
def container(answering: Answering) -> Iterator[str]:
    """A namespace behind the guest, which routes and masquerades for it as container engines do."""
    guest, inner = answering.guest.namespace, f"{answering.guest.namespace}-c"
    netns.ensure_namespace(inner)
    netns.links([f"link add c0 type veth peer name eth0 netns {inner}"], namespace=guest)
    netns.links(["addr add 172.17.0.1/16 dev c0", "link set c0 up"], namespace=guest)
    netns.links(
        ["addr add 172.17.0.2/16 dev eth0", "link set eth0 up", "route add default via 172.17.0.1"], namespace=inner
    )
    netns.settings({"ipv4/ip_forward": "1"}, namespace=guest)
    netns.rules(
        'table ip nat { chain post { type nat hook postrouting priority 100; oifname "eth0" masquerade; }; }',
        namespace=guest,
    )
    yield inner
    netns.delete_namespace(inner)


async def says(namespace: str, request: bytes, *, within_s: float) -> bytes:
    """The answer that comes to a process there; empty: none does."""

    def ask() -> bytes:
        said = b""
        with dial(namespace, names.METADATA, 80) as connection:
            connection.settimeout(within_s)
            connection.sendall(request)
            try:
                while piece := connection.recv(4096):
                    said += piece
            except TimeoutError:
                pass
        return said

    return await asyncio.to_thread(ask)


async def test_a_container_behind_the_guest_gets_a_token_only_where_two_hops_are_allowed(
    answering: Answering, container: str
) -> None:
    options = answering.spec.metadata_options
    for limit, arrives in ((1, False), (2, True), (1, False)):
        options.hop_limit = limit
        assert (await says(answering.guest.namespace, PUT, within_s=5)).startswith(b"HTTP/1.1 200")
        assert (await says(container, PUT, within_s=5 if arrives else 1)).startswith(b"HTTP/1.1 200") == arrives
    assert answering.spec.instance_id.encode() in await says(container, GET, within_s=5), "what is no token goes far"
