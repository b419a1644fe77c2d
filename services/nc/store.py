"""What the node remembers, on its own disk: a record per instance, the highest epoch it obeyed, and who is gone.

All of it is in memory as well; a write returns when it is on disk, and only then is it seen. One process at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from typing import Final

from common.errors import Stale
from common.ids import InstanceId
from mallee.nc.v1 import instance_pb2, record_pb2
from services.nc.console import keep
from services.nc.gone import GoneJournal
from services.nc.instance import observation_of, observation_of_gone
from services.nc.paths import NodePaths, sync_folder, write_durably
from services.nc.usage import Usage

RECORD: Final = "record.pb"
VERSION: Final = 1

Change = Callable[[record_pb2.InstanceRecord | None], record_pb2.InstanceRecord | None]


class LockedElsewhere(OSError):
    """Another process works on this node's folder."""


class InstanceStore:
    def __init__(self, paths: NodePaths, *, now_s: Callable[[], float]) -> None:
        self._paths = paths
        self._records: dict[InstanceId, record_pb2.InstanceRecord] = {}
        self.usage = Usage()
        self._gone = GoneJournal(paths.gone, now_s=now_s, forgotten=self._forget_console)
        self._locks: defaultdict[InstanceId, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._epoch = 0
        self._epoch_lock = asyncio.Lock()
        # What stands of each plan of disks, as last told: (revision, disks).
        self._disks: dict[InstanceId, tuple[int, Sequence[instance_pb2.DiskObservation]]] = {}
        self._listeners: set[_Listener] = set()
        self._lock_file: int | None = None

    def open(self) -> None:
        """Reads everything. Raises LockedElsewhere if another process has it open."""
        self._paths.make()
        self._lock_file = os.open(self._paths.lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockedElsewhere(f"{self._paths.lock} is held: another node controller works here") from error
        with contextlib.suppress(FileNotFoundError):
            self._epoch = int(self._paths.epoch.read_text())
        self._gone.open()
        for path in self._paths.consoles.iterdir():
            if not self._gone.generation(InstanceId(path.stem)):
                path.unlink()
        for folder in self._paths.instances.iterdir():
            if InstanceId.matches(folder.name) and (folder / RECORD).exists():
                record = record_pb2.InstanceRecord.FromString((folder / RECORD).read_bytes())
                self._records[InstanceId(folder.name)] = record
                self.usage.change(None, record)

    def close(self) -> None:
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def get(self, instance_id: InstanceId) -> record_pb2.InstanceRecord | None:
        """Not to be changed by the caller."""
        return self._records.get(instance_id)

    def all(self) -> Mapping[InstanceId, record_pb2.InstanceRecord]:
        return self._records

    def observation(self, record: record_pb2.InstanceRecord) -> instance_pb2.InstanceObservation:
        """What others are told of it. Of its disks: nothing as long as nobody has looked."""
        seen = observation_of(record)
        seen.disks_revision, disks = self._disks.get(InstanceId(record.spec.instance_id), (0, ()))
        seen.disks.extend(disks)
        return seen

    def tell_disks(self, instance_id: InstanceId, revision: int, disks: Sequence[instance_pb2.DiskObservation]) -> None:
        record = self._records.get(instance_id)
        if record is not None and self._disks.get(instance_id) != (revision, disks):
            self._disks[instance_id] = revision, disks
            self._publish(self.observation(record))

    def gone_generation(self, instance_id: InstanceId) -> int:
        """0: it never was here, or long ago."""
        return self._gone.generation(instance_id)

    def folders_without_record(self) -> Iterable[InstanceId]:
        """What a removal left that was cut short after its record went."""
        for folder in self._paths.instances.iterdir():
            if InstanceId.matches(folder.name) and InstanceId(folder.name) not in self._records:
                yield InstanceId(folder.name)

    async def update(self, instance_id: InstanceId, change: Change) -> record_pb2.InstanceRecord | None:
        """Replaces the record by what `change` makes of a copy of it (None: it leaves it as it is)."""
        async with self._locks[instance_id]:
            old = self._records.get(instance_id)
            copy = None
            if old is not None:
                copy = record_pb2.InstanceRecord()
                copy.CopyFrom(old)
            new = change(copy)
            if new is None or new == old:
                return old
            new.version = VERSION
            await asyncio.to_thread(self._write, instance_id, new)
            self._records[instance_id] = new
            self.usage.change(old, new)
            if old is None or observation_of(old) != observation_of(new):
                self._publish(self.observation(new))
            return new

    async def remove(self, instance_id: InstanceId) -> None:
        """The folder with all that is in it, the record last. Unknown: what is left of a folder."""
        async with self._locks[instance_id]:
            record = self._records.get(instance_id)
            generation = record.spec.generation if record is not None else 0
            await asyncio.to_thread(self._erase, instance_id, generation)
            if record is not None:
                del self._records[instance_id]
                self._disks.pop(instance_id, None)
                self.usage.change(record, None)
                self._gone.add(instance_id, generation)
                self._publish(observation_of_gone(instance_id, generation))

    async def obey(self, epoch: int) -> None:
        """Raises Stale if a newer CC leader has given orders; remembers this one before it returns."""
        if epoch < self._epoch:
            raise Stale(f"epoch {epoch} is over: this node obeys {self._epoch}")
        if epoch == self._epoch:
            return
        async with self._epoch_lock:
            if epoch > self._epoch:
                await asyncio.to_thread(write_durably, self._paths.epoch, str(epoch).encode())
                self._epoch = max(self._epoch, epoch)
        if epoch < self._epoch:
            raise Stale(f"epoch {epoch} is over: this node obeys {self._epoch}")

    async def watch(self) -> AsyncGenerator[instance_pb2.InstanceObservation | None, None]:
        """First everything that is here or is gone since lately, then None, then each change.

        A slow reader is told the last word per instance: what waits for it is bounded by the number of instances.
        """
        listener = _Listener()
        self._listeners.add(listener)
        try:
            for instance_id, generation in self._gone:
                yield observation_of_gone(instance_id, generation)
            for record in list(self._records.values()):
                yield self.observation(record)
            yield None
            while True:
                yield await listener.next()
        finally:
            self._listeners.discard(listener)

    def _publish(self, observation: instance_pb2.InstanceObservation) -> None:
        for listener in self._listeners:
            listener.tell(observation)

    def _write(self, instance_id: InstanceId, record: record_pb2.InstanceRecord) -> None:
        folder = self._paths.instance(instance_id)
        if not folder.exists():
            folder.mkdir(mode=0o711)
            folder.chmod(0o711)
            sync_folder(self._paths.instances)
        write_durably(folder / RECORD, record.SerializeToString())

    def _erase(self, instance_id: InstanceId, generation: int) -> None:
        folder = self._paths.instance(instance_id)
        if not folder.exists():
            return
        if generation:
            self._gone.write(instance_id, generation)
            keep(self._paths.console(instance_id), self._paths.last_console(instance_id))
        for entry in folder.iterdir():
            if entry.name != RECORD:
                entry.unlink()
        (folder / RECORD).unlink(missing_ok=True)
        shutil.rmtree(folder)
        sync_folder(self._paths.instances)

    def _forget_console(self, instance_id: InstanceId) -> None:
        self._paths.last_console(instance_id).unlink(missing_ok=True)


class _Listener:
    def __init__(self) -> None:
        self._pending: dict[str, instance_pb2.InstanceObservation] = {}
        self._told = asyncio.Event()

    def tell(self, observation: instance_pb2.InstanceObservation) -> None:
        self._pending.pop(observation.instance_id, None)
        self._pending[observation.instance_id] = observation
        self._told.set()

    async def next(self) -> instance_pb2.InstanceObservation:
        while not self._pending:
            self._told.clear()
            await self._told.wait()
        return self._pending.pop(next(iter(self._pending)))
