"""Channels to the live members of a role: one per member, made and dropped as the membership says."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import grpc

from common.background import Background
from common.errors import Unavailable
from common.etcd.election import Leaders
from common.etcd.membership import Membership
from common.pki import Identity
from common.rpc.channel import CloudChannel, connect
from mallee.common.v1.caller_pb2 import Member

# A member that left answers what it has begun.
_CLOSE_GRACE_S: Final = 10.0
_FAILED: Final = grpc.ChannelConnectivity.TRANSIENT_FAILURE

Stub = TypeVar("Stub")
StubType = Callable[[grpc.aio.Channel], Stub]


class _Peer:
    def __init__(self, member: Member, channel: CloudChannel) -> None:
        self.member = member
        self.channel = channel
        self.stubs: dict[Any, Any] = {}

    def stub(self, kind: StubType[Stub]) -> Stub:
        """Made once: a stub of a large service is not cheap."""
        if kind not in self.stubs:
            self.stubs[kind] = kind(self.channel)
        made: Stub = self.stubs[kind]
        return made


class Peers:
    """Use as an async context.

        clc = await ctx.stack.enter_async_context(Peers(membership, ctx.identity, "clc"))
        await clc.stub(Ec2ServiceStub).RunInstances(request)      # the next one in turn

    With `leaders`, `leader_stub` is the one that leads the election <role>[/<zone>]. All raise Unavailable when there
    is none: calls are not retried here.
    """

    def __init__(
        self,
        membership: Membership,
        identity: Identity,
        role: str,
        zone: str | None = None,
        *,
        leaders: Leaders | None = None,
        speak_for_callers: bool = False,
        wait_for_ready: bool = False,
    ) -> None:
        self._membership = membership
        self._identity = identity
        self._role = role
        self._zone = zone
        self._leaders = leaders
        self._connect = {"speak_for_callers": speak_for_callers, "wait_for_ready": wait_for_ready}
        self._peers: dict[str, _Peer] = {}
        self._turn = itertools.count()
        self._stack = AsyncExitStack()
        self._closing: Background

    async def __aenter__(self) -> Self:
        self._closing = await self._stack.enter_async_context(Background())
        self._membership.subscribe(self._follow)
        self._follow()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._membership.unsubscribe(self._follow)
        for peer in self._peers.values():
            await peer.channel.close()
        await self._stack.__aexit__(kind, error, trace)

    @property
    def members(self) -> list[Member]:
        return [peer.member for peer in self._peers.values()]

    def channel(self, member_id: str | None = None) -> CloudChannel:
        """To that member, or to the next in turn."""
        return self._pick(member_id).channel

    def stub(self, kind: StubType[Stub], member_id: str | None = None) -> Stub:
        return self._pick(member_id).stub(kind)

    def leader_stub(self, kind: StubType[Stub]) -> Stub:
        return self._pick(self._leader()).stub(kind)

    def _leader(self) -> str:
        name = f"{self._role}/{self._zone}" if self._zone else self._role
        if self._leaders is None:
            raise ValueError("made without `leaders`")
        if (leader := self._leaders.leader(name)) is None:
            raise Unavailable(f"nobody leads {name} now")
        return leader

    def _pick(self, member_id: str | None) -> _Peer:
        if member_id is not None:
            if (peer := self._peers.get(member_id)) is None:
                raise Unavailable(f"{member_id} is not there now")
            return peer
        if not self._peers:
            raise Unavailable(f"no {self._role}{' in ' + self._zone if self._zone else ''} is there now")
        peers = list(self._peers.values())
        if len(peers) == 1:
            return peers[0]
        turn = next(self._turn) % len(peers)
        # One that died is a member until its lease ends: it is passed over as soon as its connection failed.
        in_turn = peers[turn:] + peers[:turn]
        return next((peer for peer in in_turn if peer.channel.get_state() is not _FAILED), in_turn[0])

    def _follow(self) -> None:
        alive = {member.id: member for member in self._membership.members(self._role, self._zone)}
        for member_id, peer in list(self._peers.items()):
            now = alive.get(member_id)
            if now is None or now.address != peer.member.address:
                del self._peers[member_id]
                self._closing.start(peer.channel.close(_CLOSE_GRACE_S))
            else:
                peer.member = now
        for member_id, member in alive.items():
            if member_id not in self._peers:
                channel = connect(member.address, self._identity, member_id, **self._connect)
                self._peers[member_id] = _Peer(member, channel)
