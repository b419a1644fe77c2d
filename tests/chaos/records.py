"""What a cloud has written down, read past its API through `etcd3`, and whether it agrees with itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Set
from dataclasses import dataclass
from typing import Any, TypeVar

from common.config import CloudConfig
from common.etcd.sync import connected
from common.pki import Identity
from mallee.cc.v1 import record_pb2 as cc
from mallee.clc.v1 import record_pb2 as clc

T = TypeVar("T", bound=Hashable)

RUNNING, TERMINATED = clc.INSTANCE_STATE_RUNNING, clc.INSTANCE_STATE_TERMINATED


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    instances: list[clc.InstanceRecord]
    reservations: list[clc.ReservationRecord]
    addresses: list[clc.AddressRecord]
    groups: dict[str, clc.SecurityGroupRecord]
    tokens: list[clc.ClientTokenRecord]
    volumes: list[clc.VolumeRecord]
    # Those that the storage controllers keep.
    stored_volumes: set[str]
    # Instance → node, by the cluster controllers.
    placements: dict[str, str]
    # Names under /mallee/clc/claim/ → holder.
    claims: dict[str, str]

    @property
    def holding(self) -> list[clc.InstanceRecord]:
        return [instance for instance in self.instances if instance.state != TERMINATED]

    def on(self, node: str) -> list[clc.InstanceRecord]:
        return [instance for instance in self.holding if instance.node == node]


def read(config: CloudConfig) -> Records:
    identity = Identity.load(config.pki_path, "admin")
    with connected(config.etcd.endpoints[0], identity) as etcd:

        def under(prefix: str) -> dict[str, bytes]:
            return {meta.key.decode()[len(prefix) :]: value for value, meta in etcd.get_prefix(prefix)}

        def records(folder: str, kind: Any) -> list[Any]:
            return [kind.FromString(value) for value in under(f"/mallee/clc/{folder}/").values()]

        return Records(
            instances=records("instance", clc.InstanceRecord),
            reservations=records("reservation", clc.ReservationRecord),
            addresses=records("address", clc.AddressRecord),
            groups={group.group_id: group for group in records("security-group", clc.SecurityGroupRecord)},
            tokens=records("token", clc.ClientTokenRecord),
            volumes=records("volume", clc.VolumeRecord),
            stored_volumes={
                volume_id for zone in config.zones for volume_id in under(f"/mallee/sc/{zone.name}/volume/")
            },
            placements={
                place.instance_id: place.node
                for zone in config.zones
                for value in under(f"/mallee/cc/{zone.name}/placement/").values()
                for place in [cc.PlacementRecord.FromString(value)]
            },
            claims={name: value.decode() for name, value in under("/mallee/clc/claim/").items()},
        )


def faults(records: Records) -> list[str]:
    """One line for each place where the records do not say the same."""
    found = [f"{i.instance_id} is in state {i.state}" for i in records.holding if i.state != RUNNING]
    wanted = {(i.node, i.instance_id) for i in records.holding}
    found += difference("placements", wanted, {(node, i) for i, node in records.placements.items()})
    known = {i.instance_id for i in records.instances}
    reserved = {i for reservation in records.reservations for i in reservation.instance_ids}
    found += [f"{i} is in no reservation" for i in known - reserved]
    made = {reservation.reservation_id for reservation in records.reservations}
    made |= {volume.volume_id for volume in records.volumes}
    # The token of a volume that went is kept for a day.
    kept = [token for token in records.tokens if not token.HasField("gone")]
    found += [f"token {token.token} leads to nothing" for token in kept if token.result_id not in made]
    return found + _addresses(records) + _volumes(records)


def _volumes(records: Records) -> list[str]:
    """Each is kept by a storage controller, and on an instance that is there, under a device of its own."""
    found = difference("storage", {volume.volume_id for volume in records.volumes}, records.stored_volumes)
    attached = [volume for volume in records.volumes if volume.HasField("attachment")]
    there = {instance.instance_id for instance in records.holding}
    found += [
        f"{v.volume_id} is on {v.attachment.instance_id}" for v in attached if v.attachment.instance_id not in there
    ]
    held = {f"device/{v.attachment.instance_id}/{chr(ord('a') + v.attachment.slot)}": v.volume_id for v in attached}
    claimed = {name: holder for name, holder in records.claims.items() if name.startswith("device/")}
    return found + difference("devices", set(held.items()), set(claimed.items()))


def _addresses(records: Records) -> list[str]:
    """None is held twice, or by nobody."""
    private = [(i.interface.subnet_id, i.interface.private_ipv4) for i in records.holding]
    own = [(i.interface.public_ipv4,) for i in records.holding if i.interface.public_ipv4 and not i.allocation_id]
    elastic = [(address.public_ipv4,) for address in records.addresses]
    found = []
    for kind, held in (("private", private), ("public", own + elastic)):
        found += [f"{kind} {address} is held {n} times" for address, n in Counter(held).items() if n > 1]
        claimed = {tuple(name.split("/")[1:]) for name in records.claims if name.startswith(f"{kind}/")}
        found += difference(f"{kind} claims", set(held), claimed)
    by_records = {(a.allocation_id, a.instance_id, a.public_ipv4) for a in records.addresses if a.instance_id}
    by_instances = {
        (i.allocation_id, i.instance_id, i.interface.public_ipv4) for i in records.instances if i.allocation_id
    }
    return found + difference("associations", by_records, by_instances)


def difference(where: str, wanted: Set[T], real: Set[T]) -> list[str]:
    return [f"{where}: {it} is missing" for it in wanted - real] + [f"{where}: {it} is left" for it in real - wanted]
