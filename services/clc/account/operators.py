"""Which account is the operator's: the first that the cloud had, by a claim that outlives every change of the others.

Clouds that were made before there was the claim have none until an account is asked for, which `mallee up` does each
time: their oldest account is it.
"""

from __future__ import annotations

from typing import Final

from mallee.clc.v1 import record_pb2
from services.clc.store import Changes, Store, Stored, sorted_by_creation

# Held by the account's id, and never released: the account cannot be deleted.
CLAIM: Final = "operator"


def operator_id(store: Store) -> str | None:
    """Id of the operator's account; None if there is no account yet."""
    if holder := store.holder(CLAIM):
        return holder
    oldest = _oldest(store)
    return oldest.record.account_id if oldest else None


async def ensure_claimed(store: Store) -> None:
    """By the oldest account, if nobody claims it. Raises Conflict."""
    oldest = _oldest(store)
    if oldest is None or store.holder(CLAIM):
        return
    changes = Changes()
    changes.require(oldest)
    changes.claim(CLAIM, oldest.record.account_id)
    await store.commit(changes)


def _oldest(store: Store) -> Stored[record_pb2.AccountRecord] | None:
    accounts = (account for account in store.all(record_pb2.AccountRecord) if not account.record.deleting)
    return next(iter(sorted_by_creation(accounts)), None)
