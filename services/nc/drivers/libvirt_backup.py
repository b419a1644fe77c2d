"""A running domain's root disk as it is at one moment: libvirt's push backup, which QEMU does while the guest goes on.

https://libvirt.org/formatbackup.html
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import libvirt

from common.errors import CloudError, WrongState
from common.ids import InstanceId

_ROOT: Final = "vda"
# An event is lost when libvirtd is restarted meanwhile: then the job is looked at.
_LOOK_S: Final = 5.0

Call = Callable[[InstanceId | None, Callable[[libvirt.virConnect], Any]], Awaitable[Any]]
Get = Callable[[libvirt.virConnect, InstanceId], libvirt.virDomain]


async def copy_root(call: Call, get: Get, instance_id: InstanceId, target: Path) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    outcome: dict[str, bool] = {}

    def heard(connection: object, domain: object, stats: dict[str, Any], opaque: object) -> None:
        outcome["success"] = bool(stats.get("success", True))
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(ended.set)

    def begin(connection: libvirt.virConnect) -> tuple[libvirt.virConnect, int]:
        domain = get(connection, instance_id)
        if not domain.isActive():
            raise WrongState(f"{instance_id} does not run")
        event = libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED
        number = connection.domainEventRegisterAny(domain, event, heard, None)
        try:
            domain.backupBegin(_backup_xml(target), None, libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL)
        except libvirt.libvirtError:
            connection.domainEventDeregisterAny(number)
            raise
        return connection, number

    def works_on(connection: libvirt.virConnect) -> bool:
        return bool(get(connection, instance_id).jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE)

    def abort(connection: libvirt.virConnect) -> None:
        with contextlib.suppress(libvirt.libvirtError):
            get(connection, instance_id).abortJob()

    registered = await call(instance_id, begin)
    try:
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await ended.wait()
            if not ended.is_set() and not await call(instance_id, works_on):
                break
    finally:
        with contextlib.suppress(libvirt.libvirtError):
            registered[0].domainEventDeregisterAny(registered[1])
        if not ended.is_set():
            # Given up, or over unheard: then there is nothing to abort.
            await asyncio.shield(call(instance_id, abort))
    if not outcome.get("success", False):
        raise CloudError(f"The disk of {instance_id} could not be copied; try again.")


def _backup_xml(target: Path) -> str:
    root = ElementTree.Element("domainbackup", mode="push")
    # A disk that is not named takes no part.
    disk = ElementTree.SubElement(ElementTree.SubElement(root, "disks"), "disk", name=_ROOT, type="file")
    ElementTree.SubElement(disk, "driver", type="raw")
    ElementTree.SubElement(disk, "target", file=str(target))
    return ElementTree.tostring(root, encoding="unicode")
