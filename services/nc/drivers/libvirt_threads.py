"""The threads of a domain that serve its volumes, one each: made, kept near the volume's storage daemon, taken away.

Of a domain's own threads the disk's XML tells which one it has, so what a node controller left behind is found there.
https://libvirt.org/formatdomain.html#iothreads-allocation
"""

from __future__ import annotations

import contextlib
import functools
import os

import libvirt

from common.cores import core_of
from common.log import get_logger
from services.nc.drivers.base import Disk, ExportSource
from services.nc.drivers.disk_xml import DefinedDisk, idle_threads_in, thread_of_slot, threads_in

_log = get_logger(__name__)


def ensure_thread(domain: libvirt.virDomain, slot: int) -> None:
    """One that stands may be of a disk that was here before."""
    if (number := thread_of_slot(slot)) not in threads_in(domain.XMLDesc()):
        domain.addIOThread(number, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def settle_thread(domain: libvirt.virDomain, defined: DefinedDisk, disk: Disk) -> None:
    """On the core of the volume's storage daemon, if that is a process of this host; else wherever there is room. A
    disk that was attached without a thread has none."""
    if defined.thread is None:
        return
    usable = os.sched_getaffinity(0)
    near = isinstance(disk.source, ExportSource) and disk.source.socket is not None
    wanted = {core_of(disk.volume_id, usable)} if near else usable
    try:
        cores = tuple(core in wanted for core in range(max(usable) + 1))
        domain.pinIOThread(defined.thread, cores, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    except libvirt.libvirtError as error:
        _say_once(str(error))


def drop_idle_threads(domain: libvirt.virDomain, xml: str) -> None:
    """Only if QEMU has nothing open any more of a disk that is gone: it may still be the thread's to close."""
    for number in idle_threads_in(xml):
        # The next look asks again.
        with contextlib.suppress(libvirt.libvirtError):
            domain.delIOThread(number, libvirt.VIR_DOMAIN_AFFECT_LIVE)


@functools.cache
def _say_once(words: str) -> None:
    """It works without, slower."""
    _log.warning("the threads of volumes cannot be kept on one core", error=words)
