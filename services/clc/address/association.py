"""Which instance an elastic address belongs to: said in both their records, which change together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from common.errors import NoCapacity
from common.ids import AddressAssociationId
from mallee.clc.v1 import record_pb2
from services.clc.instance import rules
from services.clc.store import Changes, Store, Stored
from services.clc.vpc.addresses import AddressBook, public_claim

Address = Stored[record_pb2.AddressRecord]
Instance = Stored[record_pb2.InstanceRecord]


@contextlib.contextmanager
def hold_instead(store: Store, addresses: AddressBook, address: Address) -> Iterator[str]:
    """An address of the pool for the instance that is about to lose this one; empty if none is due, or none is free.

    (EC2 User Guide, "Amazon EC2 instance IP addressing", "Public IPv4 addresses".)
    """
    holder = _holder(store, address)
    with contextlib.ExitStack() as held:
        instead = ""
        if holder and holder.record.pooled_address_due and holder.record.state in (rules.PENDING, rules.RUNNING):
            with contextlib.suppress(NoCapacity):
                (instead,) = held.enter_context(addresses.hold_public(1))
        yield instead


def join(store: Store, changes: Changes, address: Address, instance: Instance, *, instead: str) -> str:
    """The instance gets the address; what each had before is let go. The id of the new association.

    Who has the address now gets `instead`.
    """
    leave(store, changes, address, instead=instead)
    draft = instance.draft()
    if draft.interface.public_ipv4 and not draft.allocation_id:
        changes.release(public_claim(draft.interface.public_ipv4))
        draft.pooled_address_due = True
    take_off(store, changes, draft)
    owned = address.draft()
    owned.instance_id = draft.instance_id
    owned.association_id = draft.association_id = AddressAssociationId.new()
    draft.allocation_id = owned.allocation_id
    draft.interface.public_ipv4 = owned.public_ipv4
    changes.update(instance, draft)
    changes.update(address, owned)
    return owned.association_id


def leave(store: Store, changes: Changes, address: Address, *, instead: str) -> None:
    """The instance that has the address, if any, has `instead` then. The address's record is the caller's to write."""
    instance = _holder(store, address)
    if instance is None:
        return
    draft = instance.draft()
    _clear(draft)
    if instead:
        changes.claim(public_claim(instead), draft.instance_id)
        draft.interface.public_ipv4 = instead
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


def _holder(store: Store, address: Address) -> Instance | None:
    instance = store.get(record_pb2.InstanceRecord, address.record.instance_id)
    if instance is None or instance.record.allocation_id != address.record.allocation_id:
        return None
    return instance


def _clear(draft: record_pb2.InstanceRecord) -> None:
    draft.allocation_id = draft.association_id = ""
    draft.interface.public_ipv4 = ""
