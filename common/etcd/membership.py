"""Who is alive: every process writes itself under /mallee/members/<role>/<id>, bound to a lease that it keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, Self

from common.background import Background
from common.errors import Unavailable
from common.etcd.client import Etcd
from common.etcd.lease import Lease
from common.etcd.replica import Change, Replica
from common.etcd.types import EtcdError
from common.log import get_logger
from mallee.common.v1.caller_pb2 import Member

PREFIX: Final = "/mallee/members/"
# Long enough that a stalled, busy host does not look dead; short enough that a dead one is noticed.
TTL_S: Final = 10
_RETRY_S: Final = 0.5

_log = get_logger(__name__)


def member_key(role: str, member_id: str) -> str:
    return f"{PREFIX}{role}/{member_id}"


class Membership:
    """Use as an async context: entered, it knows all members and follows them.

    A member is in `members` from its registration until its lease ended or it left; a restarted one with the same id
    takes its predecessor's place (told apart by boot_id).
    """

    def __init__(self, etcd: Etcd, *, ttl_s: int = TTL_S) -> None:
        self._etcd = etcd
        self._ttl_s = ttl_s
        self._replica = Replica(etcd, PREFIX)
        self._members: dict[str, Member] = {}
        self._subscribers: list[Callable[[], None]] = []
        self._changed = asyncio.Event()
        self._stack = AsyncExitStack()
        self._tasks: Background

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._replica)
            self._tasks = await stack.enter_async_context(Background())
            self._replica.subscribe(self._apply)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Takes a registered member out at once, rather than when its lease ends."""
        await self._stack.__aexit__(kind, error, trace)

    async def register(self, member: Member) -> None:
        """Returns when it is written; from then on it is kept there, also after an outage of etcd."""
        registered = asyncio.Event()
        self._tasks.start(self._stay_registered(member, registered), name=f"membership of {member.id}")
        await registered.wait()

    def members(self, role: str, zone: str | None = None) -> list[Member]:
        """Those alive now, by id."""
        found = (m for m in self._members.values() if m.role == role and zone in (None, m.zone))
        return sorted(found, key=lambda member: member.id)

    def get(self, role: str, member_id: str) -> Member | None:
        return self._members.get(member_key(role, member_id))

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Called after each change. It must neither block nor raise."""
        self._subscribers.append(changed)

    def unsubscribe(self, changed: Callable[[], None]) -> None:
        self._subscribers.remove(changed)

    @property
    def changed(self) -> asyncio.Event:
        """Set at the next change; ask for it before looking, then wait."""
        return self._changed

    def _apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.new is None:
                self._members.pop(change.key, None)
            else:
                self._members[change.key] = Member.FromString(change.new.value)
        self._changed.set()
        self._changed = asyncio.Event()
        for changed in list(self._subscribers):
            changed()

    async def _stay_registered(self, member: Member, registered: asyncio.Event) -> None:
        key, value = member_key(member.role, member.id), member.SerializeToString()
        while True:
            try:
                lease = await Lease.grant(self._etcd, self._ttl_s)
                # A put that got lost is repeated: the key is ours alone.
                await self._etcd.put(key, value, lease=lease.id)
            except Unavailable:
                await asyncio.sleep(_RETRY_S)
                continue
            except EtcdError as error:
                if error.status != "NOT_FOUND":
                    raise
                continue  # The lease ended before the key was written.
            registered.set()
            try:
                await lease.keep()
            except asyncio.CancelledError:
                await asyncio.shield(lease.revoke())
                raise
            _log.warning("membership was lost, registering again", member_id=member.id)
