"""Membership: a process is seen while it lives, and comes back by itself."""

from __future__ import annotations

from common.etcd.client import Etcd
from common.etcd.membership import Membership, member_key
from common.etcd.sync import connected
from mallee.common.v1.caller_pb2 import Member
from tests.etcd_fixture import EtcdServer
from tests.eventually import eventually


def _member(boot_id: str = "1", address: str = "127.0.0.1:1") -> Member:
    return Member(id="nc-z-1", role="nc", zone="z", address=address, boot_id=boot_id)


async def test_a_member_is_seen_by_others_until_it_leaves(etcd: Etcd) -> None:
    async with Membership(etcd) as other:
        async with Membership(etcd) as own:
            await own.register(_member())
            await eventually(lambda: other.members("nc", "z"))
            assert other.members("nc") == [_member()]
            assert other.get("nc", "nc-z-1") == _member()
            assert other.members("nc", "another zone") == []
            assert other.members("cc") == []
        await eventually(lambda: not other.members("nc"), within_s=2)


async def test_a_dead_process_vanishes_when_its_lease_ends(etcd: Etcd, etcd_server: EtcdServer) -> None:
    lease = await etcd.lease_grant(1)
    await etcd.put(member_key("nc", "nc-z-1"), _member().SerializeToString(), lease=lease)
    async with Membership(etcd) as other:
        assert other.members("nc")
        await eventually(lambda: not other.members("nc"))
    with connected(etcd_server.address) as witness:
        assert witness.get(member_key("nc", "nc-z-1"))[0] is None


async def test_a_lost_lease_is_replaced(etcd: Etcd) -> None:
    async with Membership(etcd, ttl_s=2) as membership:
        await membership.register(_member())
        key = member_key("nc", "nc-z-1")
        first = await etcd.get(key)
        assert first is not None
        seen: list[int] = []
        membership.subscribe(lambda: seen.append(len(membership.members("nc"))))
        await etcd.lease_revoke(first.lease)
        await eventually(lambda: seen == [0, 1])
        second = await etcd.get(key)
        assert second is not None
        assert second.lease != first.lease


async def test_a_restarted_process_takes_its_predecessors_place(etcd: Etcd) -> None:
    lease = await etcd.lease_grant(30)
    await etcd.put(member_key("nc", "nc-z-1"), _member().SerializeToString(), lease=lease)
    async with Membership(etcd) as membership:
        changed = membership.changed
        await membership.register(_member(boot_id="2", address="127.0.0.1:2"))
        await changed.wait()
        assert membership.members("nc") == [_member(boot_id="2", address="127.0.0.1:2")]
        # The predecessor's lease no longer has anything to take along.
        await etcd.lease_revoke(lease)
        found = await etcd.get(member_key("nc", "nc-z-1"))
        assert found is not None


async def test_registration_outlives_a_crash_of_etcd(own_etcd_server: EtcdServer) -> None:
    async with Etcd([own_etcd_server.address], None) as etcd, Membership(etcd, ttl_s=2) as membership:
        await membership.register(_member())
        own_etcd_server.restart()
        await etcd.revision()  # A write on the broken connection would have an unknown outcome.
        await etcd.put("/mallee/members/clc/tick", Member(id="tick", role="clc").SerializeToString())
        await eventually(lambda: membership.members("clc"))
        await eventually(lambda: membership.members("nc"))
