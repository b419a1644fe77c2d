"""Client tokens: the same request is answered the same again, another one under the same token is refused.

A token lives as long as what it made: whoever deletes that record calls `forget`, or `outlive` where a request that
comes late must not make another one.
(EC2 API reference, "Ensure idempotency".)
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from common.errors import InvalidArgument
from mallee.clc.v1 import record_pb2
from services.clc.clock import timestamp
from services.clc.store import Changes, Store, Stored, token_id
from services.clc.use_case import Call, Cloud

_MOST: Final = 64
# How long a token is known after what it made is gone, and how often that is looked at.
_REMEMBERED_S: Final = 24 * 3600.0
_SWEEP_S: Final = 600.0
_BATCH: Final = 100


def earlier(cloud: Cloud, call: Call, action: str, request: Any) -> str | None:
    """Id of what the token has made already. Raises InvalidArgument (IdempotentParameterMismatch)."""
    token = request.client_token
    if not token:
        return None
    if len(token) > _MOST or not token.isascii():
        raise InvalidArgument(f"Value for parameter clientToken is invalid: at most {_MOST} ASCII characters.")
    used = cloud.store.get(record_pb2.ClientTokenRecord, token_id(call.account_id, action, token))
    if used is None:
        return None
    if used.record.request_digest != _digest(request):
        raise InvalidArgument(
            "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
            code="IdempotentParameterMismatch",
        )
    return used.record.result_id


def remember(changes: Changes, call: Call, action: str, request: Any, result_id: str) -> None:
    """In the transaction that makes it."""
    if request.client_token:
        changes.create(
            record_pb2.ClientTokenRecord(
                account_id=call.account_id,
                action=action,
                token=request.client_token,
                request_digest=_digest(request),
                result_id=result_id,
                created=timestamp(call.now),
            )
        )


def forget(store: Store, changes: Changes, *, account_id: str, action: str, token: str) -> None:
    """In the transaction that deletes what it made."""
    if (used := token_of(store, account_id, action, token)) is not None:
        changes.delete(used)


def outlive(changes: Changes, used: Stored[record_pb2.ClientTokenRecord], *, last_shown: bytes, now: float) -> None:
    """In the transaction that deletes what it made: the token says still what that was, for a day."""
    draft = used.draft()
    draft.last_shown = last_shown
    draft.gone.CopyFrom(timestamp(now))
    changes.update(used, draft)


def token_of(store: Store, account_id: str, action: str, token: str) -> Stored[record_pb2.ClientTokenRecord] | None:
    return store.get(record_pb2.ClientTokenRecord, token_id(account_id, action, token)) if token else None


async def sweep(cloud: Cloud) -> float:
    """Forgets tokens whose day is over; seconds until the next look."""
    oldest = cloud.clock() - _REMEMBERED_S
    over = [
        used
        for used in cloud.store.all(record_pb2.ClientTokenRecord)
        if used.record.HasField("gone") and used.record.gone.seconds < oldest
    ]
    for start in range(0, len(over), _BATCH):
        changes = Changes()
        for used in over[start : start + _BATCH]:
            changes.delete(used)
        await cloud.store.commit(changes)
    return _SWEEP_S


def _digest(request: Any) -> bytes:
    return hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
