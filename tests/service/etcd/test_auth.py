"""etcd's own users: a member reads who is there, and writes what is its own and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from common.etcd.auth import EtcdUser, ensure_auth
from common.etcd.client import Etcd
from common.etcd.election import Election
from common.etcd.membership import Membership, member_key
from common.etcd.types import EtcdError, Txn
from common.pki import Identity
from mallee.common.v1.caller_pb2 import Member
from tests.etcd_fixture import EtcdServer

USERS = (
    EtcdUser(member_id="clc-1", role="clc"),
    EtcdUser(member_id="cc-us-east-1a", role="cc", zone="us-east-1a"),
    EtcdUser(member_id="sc-us-east-1a", role="sc", zone="us-east-1a"),
    EtcdUser(member_id="nc-us-east-1a-1", role="nc"),
    EtcdUser(member_id="walrus-1", role="walrus"),
)


@pytest.fixture
async def clients(cluster: list[EtcdServer], pki_folder: Path) -> AsyncIterator[dict[str, Etcd]]:
    addresses = [server.address for server in cluster]
    async with AsyncExitStack() as stack:
        made = {
            name: await stack.enter_async_context(Etcd(addresses, Identity.load(pki_folder, name)))
            for name in ("admin", *(user.member_id for user in USERS))
        }
        await ensure_auth(made["admin"], USERS[:2])
        await ensure_auth(made["admin"], USERS)
        await ensure_auth(made["admin"], USERS)
        yield made


ALLOWED = [
    ("admin", "/mallee/anything"),
    ("clc-1", "/mallee/clc/instance/i-1"),
    ("cc-us-east-1a", "/mallee/cc/us-east-1a/placement/i-1"),
    ("sc-us-east-1a", "/mallee/sc/us-east-1a/volume/vol-1"),
    *((user.member_id, member_key(user.role, user.member_id)) for user in USERS),
]
REFUSED = [
    ("clc-1", "/mallee/cc/us-east-1a/placement/i-1"),
    ("cc-us-east-1a", "/mallee/cc/us-east-1b/placement/i-1"),
    ("cc-us-east-1a", "/mallee/clc/instance/i-1"),
    ("cc-us-east-1a", "/mallee/election/clc/x"),
    ("sc-us-east-1a", "/mallee/sc/us-east-1b/volume/vol-1"),
    ("sc-us-east-1a", "/mallee/cc/us-east-1a/placement/i-1"),
    ("sc-us-east-1a", "/mallee/election/cc/us-east-1a/x"),
    ("cc-us-east-1a", "/mallee/sc/us-east-1a/volume/vol-1"),
    ("nc-us-east-1a-1", "/mallee/sc/us-east-1a/volume/vol-1"),
    ("nc-us-east-1a-1", "/mallee/cc/us-east-1a/placement/i-1"),
    ("nc-us-east-1a-1", "/mallee/election/cc/us-east-1a/x"),
    ("nc-us-east-1a-1", "/mallee/members/nc/nc-us-east-1a-2"),
    ("nc-us-east-1a-1", "/mallee/members/nc/nc-us-east-1a-1x"),
    ("walrus-1", "/mallee/clc/account/1"),
]


async def test_each_writes_its_own_and_nothing_else(clients: dict[str, Etcd]) -> None:
    for name, key in ALLOWED:
        revision = await clients[name].put(key, b"")
        assert (await clients[name].txn(Txn().if_mod_revision(key, revision).put(key, b"1"))).succeeded
    for name, key in REFUSED:
        with pytest.raises(EtcdError, match="permission denied"):
            await clients[name].put(key, b"")
        with pytest.raises(EtcdError, match="permission denied"):
            await clients[name].txn(Txn().put(key, b""))
    for name in ("nc-us-east-1a-1", "walrus-1", "cc-us-east-1a"):
        with pytest.raises(EtcdError, match="permission denied"):
            await clients[name].range("/mallee/clc/")
        with pytest.raises(EtcdError):
            async for _ in clients[name].watch("/mallee/clc/", 1):
                pass


async def test_members_register_and_leaders_are_elected_under_it(clients: dict[str, Etcd]) -> None:
    node = clients["nc-us-east-1a-1"]
    async with Membership(node) as membership:
        await membership.register(Member(id="nc-us-east-1a-1", role="nc", zone="us-east-1a"))
        async with Membership(clients["walrus-1"]) as other:
            assert [member.id for member in other.members("nc")] == ["nc-us-east-1a-1"]
    async with Election(clients["cc-us-east-1a"], "cc/us-east-1a", "cc-us-east-1a").leadership() as leadership:
        key = "/mallee/cc/us-east-1a/placement/i-1"
        assert (await clients["cc-us-east-1a"].txn(leadership.guard(Txn()).put(key, b""))).succeeded


async def test_who_is_no_longer_a_member_is_no_user(clients: dict[str, Etcd]) -> None:
    await ensure_auth(clients["admin"], USERS[:3])
    with pytest.raises(EtcdError):
        await clients["walrus-1"].put(member_key("walrus", "walrus-1"), b"")
