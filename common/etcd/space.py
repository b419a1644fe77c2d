"""The space that etcd takes: every change stays in its history until that is compacted, and a member whose file is as
large as its quota takes no more writes (the alarm NOSPACE) until its file is written anew and the alarm is taken off.

https://etcd.io/docs/v3.4/op-guide/maintenance/
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from common.errors import Unavailable
from common.etcd.client import Etcd
from common.etcd.types import Compacted
from common.log import get_logger
from etcdrpc import rpc_pb2

QUOTA_BYTES: Final = 4 << 30
# Far below the quota: a file that is larger is no problem, as long as its free pages are used again.
_LARGE_FILE: Final = QUOTA_BYTES // 4
# Of the latest changes; watchers that are further behind list afresh.
_KEPT_REVISIONS: Final = 1000
_PERIOD_S: Final = 10.0

_log = get_logger(__name__)


async def keep_small(etcd: Etcd) -> None:
    """Without end. Any number of members may do it at a time."""
    while True:
        try:
            await forget_history(etcd)
        except Unavailable as error:
            _log.info("no word from the store", error=error.message)
        await asyncio.sleep(_PERIOD_S)


async def forget_history(etcd: Etcd, *, above_bytes: int = _LARGE_FILE, kept_revisions: int = _KEPT_REVISIONS) -> bool:
    """All but the latest changes, where the file is larger than that. False: there was no need."""
    status = await etcd.read(lambda e: e.maintenance.Status, rpc_pb2.StatusRequest())
    if status.dbSize <= above_bytes:
        return False
    await _compact(etcd, status.header.revision - kept_revisions)
    return True


async def make_room(etcd: Etcd) -> bool:
    """After the alarm NOSPACE, as etcd's admin, on one member: it takes no other request meanwhile. False: none stood.

    `etcd` is given the time that writing a whole file anew takes.
    """
    ask = rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.GET, alarm=rpc_pb2.NOSPACE)
    alarms = (await etcd.read(lambda e: e.maintenance.Alarm, ask)).alarms
    if not alarms:
        return False
    await _compact(etcd, await etcd.revision())
    await etcd.write(lambda e: e.maintenance.Defragment, rpc_pb2.DefragmentRequest())
    for alarm in alarms:
        off = rpc_pb2.AlarmRequest(
            action=rpc_pb2.AlarmRequest.DEACTIVATE, memberID=alarm.memberID, alarm=rpc_pb2.NOSPACE
        )
        await etcd.write(lambda e: e.maintenance.Alarm, off)
    return True


async def _compact(etcd: Etcd, revision: int) -> None:
    """`physical`: its pages are free when it returns."""
    if revision <= 0:
        return
    # By somebody else it may be, or by etcd itself.
    with contextlib.suppress(Compacted):
        await etcd.write(lambda e: e.kv.Compact, rpc_pb2.CompactionRequest(revision=revision, physical=True))
