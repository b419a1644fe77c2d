"""What answers say of buckets whose requesters pay. Nobody is charged here: clients look for the word.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/RequesterPaysBuckets.html
"""

from __future__ import annotations

from typing import Any, Final

from mallee.common.v1.caller_pb2 import Caller
from services.walrus import access, ownership
from services.walrus.store import Store

_CHARGED: Final = "requester"


async def tell(store: Store, answer: Any, request: Any, caller: Caller | None) -> None:
    """That the requester paid, if the request said that it would and the bucket is another's that asks for it.

    For answers to requests that were let in.
    """
    if request.request_payer != _CHARGED or caller is None:
        return
    bucket = await store.index.find_bucket(request.bucket)
    if bucket is not None and ownership.requester_pays(bucket) and not access.is_owner(bucket, caller):
        answer.request_charged = _CHARGED
