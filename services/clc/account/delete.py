"""The end of an account: marked first, then all it owns goes, step by step, and its record last."""

from __future__ import annotations

from typing import Final

from google.protobuf.message import Message

from common.errors import WrongState
from mallee.clc.v1 import record_pb2
from services.clc.account.operators import operator_id
from services.clc.clock import gmt
from services.clc.image.record import gone_claim
from services.clc.instance import rules
from services.clc.instance.limit import vcpus_claim
from services.clc.instance.terminate import shut_down
from services.clc.snapshot.clear import clear_snapshots
from services.clc.store import Changes, Stored, until_committed
from services.clc.use_case import Cloud
from services.clc.volume.new import volumes_claim
from services.clc.vpc.addresses import claims_of_address

# Looked at again while its instances go.
_AGAIN_S: Final = 2.0
# Records in one transaction, well below etcd's limit.
_BATCH: Final = 500


async def delete_account(cloud: Cloud, account: Stored[record_pb2.AccountRecord], *, force: bool) -> None:
    """Marks it: from here on its keys open nothing.

    Raises WrongState if it still has something and not `force`, and for the operator's account.
    """
    account_id = account.record.account_id
    if account_id == operator_id(cloud.store):
        raise WrongState(f"account {account.record.name} is the operator's: it goes with the cloud (mallee destroy)")
    if not force:
        if any(_alive(cloud, account_id)):
            raise WrongState(f"account {account.record.name} has instances: terminate them, or use --force")
        if any(cloud.store.owned(record_pb2.VolumeRecord, account_id)):
            raise WrongState(f"account {account.record.name} has volumes: delete them, or use --force")
        if any(cloud.store.owned(record_pb2.SnapshotRecord, account_id)):
            raise WrongState(f"account {account.record.name} has snapshots: delete them, or use --force")
        if await cloud.images.has_data(account_id):
            raise WrongState(f"account {account.record.name} has buckets: delete them, or use --force")

    async def attempt() -> None:
        now = cloud.store.get(record_pb2.AccountRecord, account_id)
        if now is None or now.record.deleting:
            return
        draft = now.draft()
        draft.deleting = True
        changes = Changes()
        changes.update(now, draft)
        await cloud.store.commit(changes)

    await until_committed(attempt)


async def finish_deletion(cloud: Cloud, account_id: str) -> float | None:
    """One pass over an account that is marked; seconds until the next, or None when nothing of it is left."""
    store = cloud.store
    account = store.get(record_pb2.AccountRecord, account_id)
    if account is None or not account.record.deleting:
        return None
    if alive := _alive(cloud, account_id):
        changes = Changes()
        for instance in alive:
            if rules.SHUTTING_DOWN in rules.NEXT[instance.record.state]:
                draft = instance.draft()
                transition = f"Account deleted ({gmt(cloud.clock())})"
                shut_down(draft, *rules.USER_INITIATED, transition=transition)
                changes.update(instance, draft)
        if changes:
            await store.commit(changes)
        return _AGAIN_S
    if await _delete_volumes(cloud, account_id) or await clear_snapshots(cloud, account_id):
        return _AGAIN_S
    for image in list(store.owned(record_pb2.ImageRecord, account_id)):
        await cloud.images.unpin("ami-" + image.record.image_id.rpartition("-")[2])
    await cloud.images.delete_account_data(account_id)
    await _delete_records(cloud, account)
    return None


def _alive(cloud: Cloud, account_id: str) -> list[Stored[record_pb2.InstanceRecord]]:
    return [
        instance
        for instance in cloud.store.owned(record_pb2.InstanceRecord, account_id)
        if instance.record.state != rules.TERMINATED
    ]


async def _delete_volumes(cloud: Cloud, account_id: str) -> int:
    """Those that are still there, on their way out. Those of instances are let go with them first."""
    volumes = list(cloud.store.owned(record_pb2.VolumeRecord, account_id))
    changes = Changes()
    for volume in volumes[:_BATCH]:
        if volume.record.state != record_pb2.VOLUME_STATE_DELETING and not volume.record.HasField("attachment"):
            draft = volume.draft()
            draft.state = record_pb2.VOLUME_STATE_DELETING
            changes.update(volume, draft)
    if changes:
        await cloud.store.commit(changes)
    return len(volumes)


async def _delete_records(cloud: Cloud, account: Stored[record_pb2.AccountRecord]) -> None:
    """The account's own record last, so that a crash leaves it to be found again."""
    store, account_id = cloud.store, account.record.account_id
    kinds: tuple[type[Message], ...] = (
        record_pb2.BundleTaskRecord,
        record_pb2.InstanceRecord,
        record_pb2.ReservationRecord,
        record_pb2.AddressRecord,
        record_pb2.ClientTokenRecord,
        record_pb2.ImageRecord,
        record_pb2.KeyPairRecord,
        record_pb2.SecurityGroupRecord,
        record_pb2.SubnetRecord,
        record_pb2.VpcRecord,
        record_pb2.AccessKeyRecord,
    )
    for kind in kinds:
        records = list(store.owned(kind, account_id))
        for start in range(0, len(records), _BATCH):
            changes = Changes()
            for stored in records[start : start + _BATCH]:
                changes.delete(stored)
                for claim in _claims_of(stored.record):
                    changes.release(claim)
            await store.commit(changes)
    changes = Changes()
    changes.delete(account)
    for claim in (f"account-name/{account.record.name}", volumes_claim(account_id), vcpus_claim(account_id)):
        changes.release(claim)
    for image_id in store.claims(gone_claim(account_id, "")):
        changes.release(gone_claim(account_id, image_id))
    await store.commit(changes)


def _claims_of(record: Message) -> list[str]:
    match record:
        case record_pb2.ImageRecord():
            return [f"image-name/{record.account_id}/{record.name}"]
        case record_pb2.KeyPairRecord():
            return [f"key-name/{record.account_id}/{record.name}"]
        case record_pb2.AddressRecord():
            return claims_of_address(record)
        case record_pb2.SecurityGroupRecord():
            return [f"group-name/{record.vpc_id}/{record.name}", f"group-use/{record.group_id}"]
        case record_pb2.VpcRecord():
            claims = [f"vni/{record.vni}"]
            return [*claims, f"default-vpc/{record.account_id}"] if record.is_default else claims
        case _:
            return []
