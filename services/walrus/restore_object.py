"""RestoreObject: archives of this cloud can be read at any time, so there is nothing to wait for."""

from __future__ import annotations

from typing import Final

from common.errors import WrongState
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import restore_pb2 as pb
from services.walrus import errors, reading
from services.walrus import object as object_rules
from services.walrus.store import Store

_ARCHIVES: Final = ("GLACIER", "DEEP_ARCHIVE")
_TIERS: Final = frozenset({"", "Standard", "Bulk", "Expedited"})


async def restore_object(
    store: Store, request: pb.RestoreObjectRequest, caller: Caller | None
) -> pb.RestoreObjectOutput:
    bucket = await store.bucket_for(request, caller)
    found = await reading.find(store, bucket, object_rules.checked_key(request.key), request, caller)
    wanted = request.restore_request
    if wanted.days < 1 or {wanted.tier, wanted.glacier_job_parameters.tier} - _TIERS:
        raise errors.malformed_xml()
    storage_class = found.attributes.headers.get("StorageClass", "STANDARD")
    if storage_class not in _ARCHIVES:
        raise WrongState(
            "Restore is not allowed for the object's current storage class",
            code="InvalidObjectState",
            details={"StorageClass": storage_class},
        )
    return pb.RestoreObjectOutput()
