"""Real guests: libvirt and QEMU, one connection, pushed events. Owns the domains named `m<cloud id>-…`.

libvirt-python blocks, so every call runs in a bounded thread pool, at most one per domain at a time. libvirt's event
loop has a thread of its own; what it tells is handed to asyncio. Only a node with real guests imports this module.
https://libvirt.org/html/libvirt-libvirt-domain.html
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import pwd
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import libvirt

from common.errors import CloudError, NotFound, Unavailable, WrongState
from common.ids import InstanceId
from services.nc.drivers.base import AttachedDisk, Disk, DiskUse, Domain, Power, PowerChange
from services.nc.drivers.domain_xml import Engine, domain_name, domain_xml, instance_of
from services.nc.drivers.feed import PowerFeed
from services.nc.drivers.libvirt_backup import copy_root
from services.nc.drivers.libvirt_calls import (
    GONE_CODES,
    cloud_error,
    drop_logs,
    gone_is_fine,
    press_a_key,
    press_power,
    screen_of,
    start_event_thread,
    stop,
    undefine,
)
from services.nc.drivers.libvirt_disks import LibvirtDisks, bring_up_to_date
from services.nc.drivers.power import power_of_event, power_of_state

THREADS: Final = 8
# A silent engine is given up after about this long: interval times count.
KEEPALIVE_INTERVAL_S: Final = 4
KEEPALIVE_COUNT: Final = 3
RECONNECT_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0)

T = TypeVar("T")


class LibvirtHypervisor:
    """Implements Hypervisor over `qemu+unix:///system?socket=…`."""

    def __init__(
        self,
        *,
        uri: str,
        cloud_id: str,
        kind: str,
        log_folder: Path | None = None,
        qemu_user: str = "libvirt-qemu",
        keepalive_interval_s: int = KEEPALIVE_INTERVAL_S,
    ) -> None:
        user = pwd.getpwnam(qemu_user)
        self.kind = kind
        self._uri = uri
        self._log_folder = log_folder
        self._engine = Engine(cloud_id=cloud_id, kind=kind, uid=user.pw_uid, gid=user.pw_gid)
        self._keepalive_interval_s = keepalive_interval_s
        self._feed = PowerFeed()
        self._pool = ThreadPoolExecutor(THREADS, "libvirt")
        # Apart from the pool: an open against a stopped libvirtd hangs, and must not hold the others up.
        self._connector = ThreadPoolExecutor(1, "libvirt-connect")
        self._locks: defaultdict[InstanceId, threading.Lock] = defaultdict(threading.Lock)
        self._connection: libvirt.virConnect | None = None
        self._lost = asyncio.Event()
        self._attempt: object = None
        self._told: set[InstanceId] = set()
        # QEMU was told to end by somebody else than its guest (a signal when the host goes down).
        self._ended_by_host: set[InstanceId] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._disks = LibvirtDisks(self._find, self._get, self._call, functools.partial(instance_of, cloud_id))

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        start_event_thread()
        await self._connect()
        self._spawn(self._stay_connected())

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(libvirt.libvirtError):
                await self._loop.run_in_executor(self._connector, connection.close)
        self._pool.shutdown(wait=False)
        self._connector.shutdown(wait=False)

    async def prepare(self, domain: Domain) -> None:
        xml = domain_xml(domain, self._engine)
        self._ended_by_host.discard(domain.instance_id)

        def bring_up(connection: libvirt.virConnect) -> None:
            known = self._find(connection, domain.instance_id)
            if known is not None and known.isActive():
                return
            defined = connection.defineXML(xml)
            try:
                defined.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
                bring_up_to_date(defined, domain.disks)
            except (libvirt.libvirtError, CloudError):
                with contextlib.suppress(libvirt.libvirtError):
                    stop(defined)
                    undefine(defined)
                raise

        await self._call(domain.instance_id, bring_up)

    async def resume(self, instance_id: InstanceId) -> None:
        def start(connection: libvirt.virConnect) -> None:
            domain = self._get(connection, instance_id)
            if domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
                domain.resume()

        await self._call(instance_id, start)

    async def shut_down(self, instance_id: InstanceId) -> None:
        await self._call(instance_id, functools.partial(self._press_power, instance_id))

    async def power_off(self, instance_id: InstanceId, *, grace_s: float) -> None:
        def pull_the_plug(connection: libvirt.virConnect) -> None:
            if (domain := self._find(connection, instance_id)) is not None:
                stop(domain)

        off = asyncio.ensure_future(self._feed.wait_for(instance_id, *_OFF, timeout_s=grace_s))
        try:
            if await self._call(instance_id, functools.partial(self._press_power, instance_id)):
                await off
                await self._call(instance_id, pull_the_plug)
        finally:
            off.cancel()

    async def remove(self, instance_id: InstanceId) -> None:
        def forget(connection: libvirt.virConnect) -> None:
            domain = self._find(connection, instance_id)
            if domain is not None:
                with gone_is_fine():
                    stop(domain)
                    undefine(domain)
            if self._log_folder is not None:
                drop_logs(self._log_folder, domain_name(self._engine.cloud_id, instance_id))

        await self._call(instance_id, forget)
        self._ended_by_host.discard(instance_id)
        self._locks.pop(instance_id, None)

    async def reboot(self, instance_id: InstanceId, *, grace_s: float) -> None:
        def ask(connection: libvirt.virConnect) -> None:
            domain = self._get(connection, instance_id)
            if power_of_state(*domain.state()) is not Power.RUNNING:
                raise WrongState(f"{instance_id} does not run")
            domain.reboot(libvirt.VIR_DOMAIN_REBOOT_ACPI_POWER_BTN)

        rebooted = self._feed.wait_for(instance_id, Power.RUNNING, *_OFF, timeout_s=grace_s)
        task = self._spawn(self._reset_unless(rebooted, instance_id))
        with contextlib.ExitStack() as unless_asked:
            unless_asked.callback(task.cancel)
            await self._call(instance_id, ask)
            unless_asked.pop_all()

    async def copy_root(self, instance_id: InstanceId, target: Path) -> None:
        await copy_root(self._call, self._get, instance_id, target)

    async def screenshot(self, instance_id: InstanceId, *, wake_up: bool) -> bytes:
        def look(connection: libvirt.virConnect) -> bytes:
            domain = self._get(connection, instance_id)
            if power_of_state(*domain.state()) is not Power.RUNNING:
                raise WrongState(f"{instance_id} does not run", code="IncorrectInstanceState")
            if wake_up:
                press_a_key(domain)
            return screen_of(connection, domain)

        return await self._call(instance_id, look)

    async def observe(self) -> Mapping[InstanceId, Power]:
        def look(connection: libvirt.virConnect) -> dict[InstanceId, Power]:
            found = {}
            for domain in connection.listAllDomains():
                instance_id = instance_of(self._engine.cloud_id, domain.name())
                if instance_id is not None:
                    with gone_is_fine():
                        found[instance_id] = self._power(instance_id, domain)
            return found

        return await self._call(None, look)

    async def power_of(self, instance_id: InstanceId) -> Power | None:
        def look(connection: libvirt.virConnect) -> Power | None:
            domain = self._find(connection, instance_id)
            if domain is None:
                return None
            with gone_is_fine():
                return self._power(instance_id, domain)
            return None

        return await self._call(None, look)

    def changes(self) -> AsyncIterator[PowerChange]:
        return self._feed.subscribe()

    async def attach_disk(self, instance_id: InstanceId, disk: Disk) -> None:
        await self._disks.attach(instance_id, disk)

    async def detach_disk(self, instance_id: InstanceId, volume_id: str, *, forced: bool = False) -> None:
        await self._disks.detach(instance_id, volume_id, forced=forced)

    async def refresh_disk(self, instance_id: InstanceId, disk: Disk) -> None:
        await self._disks.refresh(instance_id, disk)

    async def disks_of(self, instance_id: InstanceId) -> Sequence[AttachedDisk]:
        return await self._disks.of(instance_id)

    async def disk_uses(self) -> Sequence[DiskUse]:
        return await self._disks.uses()

    def disk_changes(self) -> AsyncIterator[InstanceId]:
        return self._disks.changes()

    def _press_power(self, instance_id: InstanceId, connection: libvirt.virConnect) -> bool:
        domain = self._find(connection, instance_id)
        return domain is not None and press_power(domain)

    def _power(self, instance_id: InstanceId, domain: libvirt.virDomain) -> Power:
        power = power_of_state(*domain.state())
        if power is Power.OFF_BY_GUEST and instance_id in self._ended_by_host:
            return Power.OFF_UNKNOWN
        return power

    def _find(self, connection: libvirt.virConnect, instance_id: InstanceId) -> libvirt.virDomain | None:
        try:
            return connection.lookupByName(domain_name(self._engine.cloud_id, instance_id))
        except libvirt.libvirtError as error:
            if error.get_error_code() in GONE_CODES:
                return None
            raise

    def _get(self, connection: libvirt.virConnect, instance_id: InstanceId) -> libvirt.virDomain:
        domain = self._find(connection, instance_id)
        if domain is None:
            raise NotFound(f"{instance_id} is not on this host", code="InvalidInstanceID.NotFound")
        return domain

    async def _call(self, instance_id: InstanceId | None, ask: Callable[[libvirt.virConnect], T]) -> T:
        """Runs `ask` in the pool. Cancelling lets go of the answer; the domain stays locked until libvirt is done."""
        connection = self._connection
        if connection is None:
            raise Unavailable("libvirtd does not answer")
        lock = contextlib.nullcontext() if instance_id is None else self._locks[instance_id]

        def run() -> T:
            with lock:
                return ask(connection)

        try:
            return await self._loop.run_in_executor(self._pool, run)
        except libvirt.libvirtError as error:
            # Asked of the connection: what a lost one says has many codes, the one for bugs among them.
            if not await self._alive(connection):
                self._lost.set()
                raise Unavailable(f"libvirtd does not answer: {error}") from error
            raise cloud_error(error) from error

    async def _alive(self, connection: libvirt.virConnect) -> bool:
        """Looks at the socket alone."""
        try:
            return bool(await self._loop.run_in_executor(self._pool, connection.isAlive))
        except libvirt.libvirtError:
            return False

    async def _connect(self) -> None:
        attempt = object()

        def dial() -> libvirt.virConnect:
            connection = libvirt.open(self._uri)
            # Looks QEMU over now, seconds the first time, rather than when the first guest starts.
            connection.getDomainCapabilities(None, "x86_64", "pc", self.kind)
            connection.setKeepAlive(self._keepalive_interval_s, KEEPALIVE_COUNT)
            connection.registerCloseCallback(self._on_close, attempt)
            connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_lifecycle, None)
            connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, self._on_reboot, None)
            connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, self._on_removed, None)
            return connection

        try:
            self._connection = await self._loop.run_in_executor(self._connector, dial)
        except libvirt.libvirtError as error:
            raise Unavailable(f"libvirtd does not answer: {error}") from error
        self._attempt = attempt
        self._lost.clear()

    async def _stay_connected(self) -> None:
        while True:
            await self._lost.wait()
            self._connection = None
            for attempt in range(1 << 62):
                try:
                    await self._connect()
                    await self._tell_all()
                    break
                except CloudError:
                    await asyncio.sleep(RECONNECT_S[min(attempt, len(RECONNECT_S) - 1)])

    async def _tell_all(self) -> None:
        """What happened while nobody listened: each domain, and each that is no more."""
        found = await self.observe()
        for instance_id in self._told - set(found):
            self._tell(instance_id, None)
        for instance_id, power in found.items():
            self._tell(instance_id, power)

    def _tell(self, instance_id: InstanceId, power: Power | None) -> None:
        if power is None:
            self._told.discard(instance_id)
        else:
            self._told.add(instance_id)
        self._feed.publish(PowerChange(instance_id=instance_id, power=power))

    async def _reset_unless(self, rebooted: Any, instance_id: InstanceId) -> None:
        def reset(connection: libvirt.virConnect) -> None:
            domain = self._find(connection, instance_id)
            if domain is not None and domain.isActive():
                domain.reset()

        if not await rebooted:
            with contextlib.suppress(CloudError):
                await self._call(instance_id, reset)

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # From here on: libvirt's event thread.

    def _on_close(self, connection: libvirt.virConnect, reason: int, attempt: object) -> None:
        self._post(functools.partial(self._closed, attempt))

    def _on_reboot(self, connection: libvirt.virConnect, domain: libvirt.virDomain, opaque: object) -> None:
        self._post_of(domain, self._tell, Power.RUNNING)

    def _on_removed(
        self, connection: libvirt.virConnect, domain: libvirt.virDomain, alias: str, opaque: object
    ) -> None:
        self._post_of(domain, self._disks.told_removed)

    def _on_lifecycle(
        self, connection: libvirt.virConnect, domain: libvirt.virDomain, event: int, detail: int, opaque: object
    ) -> None:
        self._post_of(domain, self._lifecycle, event, detail)

    def _post_of(self, domain: libvirt.virDomain, callback: Callable[..., None], *arguments: object) -> None:
        instance_id = instance_of(self._engine.cloud_id, domain.name())
        if instance_id is not None:
            self._post(functools.partial(callback, instance_id, *arguments))

    def _post(self, callback: Callable[[], None]) -> None:
        # The loop may be closed already when the process ends.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)

    def _closed(self, attempt: object) -> None:
        # The end of an older connection says nothing about this one.
        if attempt is self._attempt:
            self._lost.set()

    def _lifecycle(self, instance_id: InstanceId, event: int, detail: int) -> None:
        if event == libvirt.VIR_DOMAIN_EVENT_SHUTDOWN and detail == libvirt.VIR_DOMAIN_EVENT_SHUTDOWN_HOST:
            self._ended_by_host.add(instance_id)
        if event == libvirt.VIR_DOMAIN_EVENT_UNDEFINED:
            self._tell(instance_id, None)
            return
        power = power_of_event(event, detail)
        if power is Power.OFF_BY_GUEST and instance_id in self._ended_by_host:
            power = Power.OFF_UNKNOWN
        if power is not None:
            self._tell(instance_id, power)


_OFF: Final = (Power.OFF_BY_GUEST, Power.OFF_BY_HOST, Power.OFF_UNKNOWN, Power.CRASHED, None)
