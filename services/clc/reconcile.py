"""The leader's loops: instances, network plans, images, accounts; each nudged by the records and the zones."""

from __future__ import annotations

import asyncio
from typing import Final

from google.protobuf.message import Message

from common.errors import CloudError
from common.etcd.election import Leadership
from common.log import get_logger
from common.reconcile import Reconciler
from mallee.cc.v1 import service_pb2 as cc
from mallee.clc.v1 import record_pb2
from mallee.nc.v1 import instance_pb2 as nc
from services.clc.account.create import missing_default_subnets
from services.clc.account.delete import finish_deletion
from services.clc.bundle_task.reconcile import BundleTaskReconciler
from services.clc.clusters import Cluster
from services.clc.idempotency import sweep
from services.clc.image.reconcile import ImageReconciler
from services.clc.instance.reconcile import InstanceReconciler
from services.clc.snapshot.work import SnapshotWork
from services.clc.store import Changes
from services.clc.use_case import Cloud
from services.clc.volume.work import VolumeWork
from services.clc.vpc.reconcile import NetworkReconciler

_RETRY_S: Final = 0.5
# Passes over reservations, most of which wait: for others to go with, or for a node that is slow.
_RESERVATIONS: Final = 512
# Passes over VPCs, most of which rest.
_PLANS: Final = 256
_log = get_logger(__name__)


class Leader:
    """One term of the leading CLC."""

    def __init__(self, cloud: Cloud, ticket_key: bytes) -> None:
        self._cloud = cloud
        self._instances = InstanceReconciler(cloud, ticket_key)
        self._networks = NetworkReconciler(cloud)
        self._volumes = VolumeWork(cloud, self._instances.observed, self._nudge_instance)
        self._bundles = BundleTaskReconciler(cloud, ticket_key)
        images = ImageReconciler(cloud)
        self._reservations = Reconciler("instances", self._instances.step, concurrency=_RESERVATIONS)
        self._vpcs = Reconciler("network-plans", self._networks.step, concurrency=_PLANS)
        self._images = Reconciler("images", images.step)
        self._snapshots = SnapshotWork(cloud, self._images.nudge)
        self._sweep = Reconciler("image-sweep", images.sweep)
        self._tokens = Reconciler("client-tokens", lambda _: sweep(cloud))
        self._accounts = Reconciler("accounts", lambda account_id: finish_deletion(cloud, account_id))
        self._orphans = Reconciler("orphans", self._remove_orphan)
        self._orphan_zones: dict[str, tuple[str, int]] = {}

    async def lead(self, leadership: Leadership) -> None:
        """Until the term is lost."""
        await self._catch_up()
        self._cloud.store.listen(self._heard)
        try:
            await self._add_subnets_of_new_zones()
            async with self._volumes.listening(), self._snapshots.listening(), asyncio.TaskGroup() as tasks:
                for loop in (
                    self._reservations,
                    self._vpcs,
                    self._images,
                    self._sweep,
                    self._tokens,
                    self._accounts,
                    self._orphans,
                    self._bundles,
                    *self._volumes.loops,
                    *self._snapshots.loops,
                ):
                    tasks.create_task(loop.run())
                tasks.create_task(self._instances.run())
                self._sweep.nudge()
                self._tokens.nudge()
                for cluster in self._cloud.clusters:
                    tasks.create_task(self._follow(cluster))
                for kind in (
                    record_pb2.InstanceRecord,
                    record_pb2.ReservationRecord,
                    record_pb2.VpcRecord,
                    record_pb2.ImageRecord,
                    record_pb2.AccountRecord,
                    record_pb2.BundleTaskRecord,
                ):
                    for stored in self._cloud.store.all(kind):
                        self._heard(kind, stored.record, stored.record)
        finally:
            self._cloud.store.unlisten(self._heard)

    async def _catch_up(self) -> None:
        """What the last leader ordered, this replica knows from here on: what stands without a record is nobody's.

        A commit returns when this replica has seen it, and with it all that came before.
        """
        changes = Changes()
        changes.bump("leader")
        await self._cloud.store.commit(changes)

    def _heard(self, kind: type[Message], latest: Message, new: Message | None) -> None:
        """A record changed: whoever works on it looks again."""
        self._volumes.heard(latest)
        self._snapshots.heard(latest)
        match latest:
            case record_pb2.InstanceRecord():
                self._networks.heard(latest, new)  # type: ignore[arg-type]
                self._reservations.nudge(latest.reservation_id)
                self._vpcs.nudge(latest.interface.vpc_id)
            case record_pb2.BundleTaskRecord():
                self._bundles.heard(latest)
            case record_pb2.ReservationRecord():
                self._reservations.nudge(latest.reservation_id)
            case record_pb2.VpcRecord() | record_pb2.SubnetRecord() | record_pb2.SecurityGroupRecord():
                self._vpcs.nudge(latest.vpc_id)
            case record_pb2.ImageRecord():
                self._images.nudge(latest.image_id)
            case record_pb2.AccountRecord() if latest.deleting:
                self._accounts.nudge(latest.account_id)
            case _:
                pass

    def _nudge_instance(self, instance_id: str) -> None:
        if (instance := self._cloud.store.get(record_pb2.InstanceRecord, instance_id)) is not None:
            self._reservations.nudge(instance.record.reservation_id)

    def _nudge_images_of(self, instance_id: str) -> None:
        """It is at rest for them."""
        for image in self._cloud.store.all(record_pb2.ImageRecord):
            if image.record.point and image.record.source_instance_id == instance_id:
                self._images.nudge(image.record.image_id)

    async def _follow(self, cluster: Cluster) -> None:
        """What the zone's instances do. Without end."""
        while True:
            try:
                await self._read(cluster)
            except CloudError as error:
                _log.info("no word from the zone", zone=cluster.zone, error=error.message)
            await asyncio.sleep(_RETRY_S)

    async def _read(self, cluster: Cluster) -> None:
        told: set[str] | None = set()
        async for observation in cluster.observations():
            if observation is None:
                self._all_told(cluster.zone, told or set())
                told = None
                continue
            if told is not None:
                told.add(observation.instance_id)
            self._observed(cluster.zone, observation)

    def _observed(self, zone: str, observation: nc.InstanceObservation) -> None:
        instance = self._cloud.store.get(record_pb2.InstanceRecord, observation.instance_id)
        if instance is not None:
            self._instances.observed[observation.instance_id] = observation
            self._reservations.nudge(instance.record.reservation_id)
            self._volumes.heard_node(observation)
            if observation.at_rest:
                self._nudge_images_of(observation.instance_id)
        elif observation.state != nc.VM_STATE_GONE:
            self._orphan_zones[observation.instance_id] = (zone, observation.generation)
            self._orphans.nudge(observation.instance_id)

    def _all_told(self, zone: str, told: set[str]) -> None:
        """The CC's connection is new: what it did not tell of is silence, and it may not know the plans."""
        self._networks.forget_zone(zone)
        for stored in self._cloud.store.all(record_pb2.InstanceRecord):
            record = stored.record
            if record.zone == zone:
                if record.instance_id not in told:
                    self._instances.observed.pop(record.instance_id, None)
                self._reservations.nudge(record.reservation_id)
                self._vpcs.nudge(record.interface.vpc_id)

    async def _remove_orphan(self, instance_id: str) -> float | None:
        """A VM that no record owns."""
        if instance_id not in self._orphan_zones:
            return None
        zone, generation = self._orphan_zones[instance_id]
        if self._cloud.store.get(record_pb2.InstanceRecord, instance_id) is not None:
            return None
        order = cc.InstanceGeneration(instance_id=instance_id, generation=generation)
        answer = await self._cloud.clusters.stub(zone).TerminateInstances(
            cc.TerminateInstancesRequest(instances=[order])
        )
        if instance_id not in answer.gone:
            return 5.0
        _log.warning("removed a VM that no record owns", instance=instance_id, zone=zone)
        self._orphan_zones.pop(instance_id, None)
        return None

    async def _add_subnets_of_new_zones(self) -> None:
        store = self._cloud.store
        for vpc in list(store.all(record_pb2.VpcRecord)):
            present = [
                s.record
                for s in store.owned(record_pb2.SubnetRecord, vpc.record.account_id)
                if s.record.vpc_id == vpc.record.vpc_id
            ]
            missing = missing_default_subnets(self._cloud, vpc.record, present) if vpc.record.is_default else []
            if missing:
                changes = Changes()
                changes.require(vpc)
                for subnet in missing:
                    changes.create(subnet)
                await store.commit(changes)
