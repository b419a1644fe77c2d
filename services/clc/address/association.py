"""Which instance an elastic address belongs to: said in both their records, which change together."""

from __future__ import annotations

from common.ids import AddressAssociationId
from mallee.clc.v1 import record_pb2
from services.clc.store import Changes, Store, Stored
from services.clc.vpc.addresses import public_claim

Address = Stored[record_pb2.AddressRecord]
Instance = Stored[record_pb2.InstanceRecord]


def join(store: Store, changes: Changes, address: Address, instance: Instance) -> str:
    """The instance gets the address; what each had before is let go. The id of the new association."""
    leave(store, changes, address)
    draft = instance.draft()
    if draft.interface.public_ipv4 and not draft.allocation_id:
        changes.release(public_claim(draft.interface.public_ipv4))
    take_off(store, changes, draft)
    owned = address.draft()
    owned.instance_id = draft.instance_id
    owned.association_id = draft.association_id = AddressAssociationId.new()
    draft.allocation_id = owned.allocation_id
    draft.interface.public_ipv4 = owned.public_ipv4
    changes.update(instance, draft)
    changes.update(address, owned)
    return owned.association_id


def leave(store: Store, changes: Changes, address: Address) -> None:
    """The instance that has the address, if any, has none then. The address's own record is the caller's to write."""
    instance = store.get(record_pb2.InstanceRecord, address.record.instance_id)
    if instance is None or instance.record.allocation_id != address.record.allocation_id:
        return
    draft = instance.draft()
    _clear(draft)
    changes.update(instance, draft)


def take_off(store: Store, changes: Changes, draft: record_pb2.InstanceRecord) -> None:
    """The elastic address of an instance, if any, is free again. The instance's own record is the caller's to write."""
    if not draft.allocation_id:
        return
    address = store.get(record_pb2.AddressRecord, draft.allocation_id)
    if address is not None:
        free = address.draft()
        free.instance_id = free.association_id = ""
        changes.update(address, free)
    _clear(draft)


def _clear(draft: record_pb2.InstanceRecord) -> None:
    draft.allocation_id = draft.association_id = ""
    draft.interface.public_ipv4 = ""
