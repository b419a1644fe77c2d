"""Client tokens: the same request is answered the same again, another one under the same token is refused.

A token lives as long as what it made: whoever deletes that record calls `forget`.
(EC2 API reference, "Ensure idempotency".)
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from common.errors import InvalidArgument
from mallee.clc.v1 import record_pb2
from services.clc.clock import timestamp
from services.clc.store import Changes, Store, token_id
from services.clc.use_case import Call, Cloud

_MOST: Final = 64


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
    used = store.get(record_pb2.ClientTokenRecord, token_id(account_id, action, token)) if token else None
    if used is not None:
        changes.delete(used)


def _digest(request: Any) -> bytes:
    return hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
