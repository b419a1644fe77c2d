"""The leader's work on volumes: its two loops, over volumes and over the disks of instances, and what nudges them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from google.protobuf.message import Message

from common.reconcile import Reconciler
from mallee.clc.v1 import record_pb2
from mallee.nc.v1 import instance_pb2 as nc
from mallee.sc.v1 import volume_pb2 as sc
from services.clc.storage import Observation
from services.clc.use_case import Cloud
from services.clc.volume.plugging import DiskPlans
from services.clc.volume.reconcile import VolumeReconciler


class VolumeWork:
    """`observed`: what the nodes last said, by instance. `instance_waits` hears of an instance whose volume changed."""

    def __init__(
        self,
        cloud: Cloud,
        observed: Mapping[str, nc.InstanceObservation],
        instance_waits: Callable[[str], None],
    ) -> None:
        self._cloud = cloud
        self._instance_waits = instance_waits
        self._disks = Reconciler("disks", DiskPlans(cloud, observed).step)
        self._volumes = Reconciler("volumes", VolumeReconciler(cloud, observed, self._disks.nudge).step, concurrency=64)
        self.loops = (self._volumes, self._disks)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """To the zones' storage; everything is looked at once."""
        self._cloud.storage.listen(self._heard_storage)
        try:
            for stored in self._cloud.store.all(record_pb2.VolumeRecord):
                self.heard(stored.record)
            for zone in self._cloud.storage:
                for volume_id in zone.volumes:
                    self._volumes.nudge(volume_id)
            yield
        finally:
            self._cloud.storage.unlisten(self._heard_storage)

    def heard(self, latest: Message) -> None:
        """A record changed."""
        match latest:
            case record_pb2.VolumeRecord():
                self._volumes.nudge(latest.volume_id)
                if latest.HasField("attachment"):
                    self._disks.nudge(latest.attachment.instance_id)
                    self._instance_waits(latest.attachment.instance_id)
            case record_pb2.InstanceRecord():
                self._nudge_instance(latest.instance_id)
            case record_pb2.SnapshotRecord() if latest.state != record_pb2.SNAPSHOT_STATE_PENDING:
                # Its volume may wait for it to go.
                self._volumes.nudge(latest.volume_id)
            case _:
                pass

    def heard_node(self, observation: nc.InstanceObservation) -> None:
        if observation.disks:
            self._disks.nudge(observation.instance_id)
        self._nudge_instance(observation.instance_id)

    def _nudge_instance(self, instance_id: str) -> None:
        for volume in self._cloud.attached.of(instance_id):
            self._volumes.nudge(volume.record.volume_id)
            self._disks.nudge(instance_id)

    def _heard_storage(self, zone: str, observation: Observation | None) -> None:
        match observation:
            case sc.VolumeObservation():
                self._volumes.nudge(observation.volume_id)
            case None:
                for stored in self._cloud.store.all(record_pb2.VolumeRecord):
                    if stored.record.zone == zone:
                        self._volumes.nudge(stored.record.volume_id)
            case _:
                pass
