"""IdentityService: the facade asks who an access key is and gets a derived key, never the secret."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.message import Message

from common.errors import InvalidArgument, NotFound
from mallee.clc.v1 import record_pb2, service_pb2, service_pb2_grpc
from mallee.common.v1.caller_pb2 import Caller
from services.clc.account import secrets
from services.clc.use_case import Cloud

# A facade that reads no faster than this is cut off; it drops its cache and asks again.
_BACKLOG = 1000


class IdentityService(service_pb2_grpc.IdentityServiceServicer):
    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._watchers: set[asyncio.Queue[str]] = set()
        cloud.store.listen(self._heard)

    async def GetSigningKey(
        self, request: service_pb2.GetSigningKeyRequest, context: Any
    ) -> service_pb2.GetSigningKeyResponse:
        secret, caller = self._unsealed(request.access_key_id)
        key = secrets.signing_key(secret, date=request.date, region=request.region, service=request.service)
        return service_pb2.GetSigningKeyResponse(signing_key=key, caller=caller)

    async def SignV2(self, request: service_pb2.SignV2Request, context: Any) -> service_pb2.SignV2Response:
        secret, caller = self._unsealed(request.access_key_id)
        if request.hash_name not in ("sha1", "sha256"):
            raise InvalidArgument(f"There is no HMAC of {request.hash_name} in Signature Version 2")
        signature = hmac.digest(secret.encode(), request.string_to_sign.encode(), request.hash_name)
        return service_pb2.SignV2Response(signature=signature, caller=caller)

    async def WatchAccessKeys(
        self, request: service_pb2.WatchAccessKeysRequest, context: Any
    ) -> AsyncIterator[service_pb2.WatchAccessKeysResponse]:
        queue: asyncio.Queue[str] = asyncio.Queue(_BACKLOG)
        self._watchers.add(queue)
        try:
            yield service_pb2.WatchAccessKeysResponse()
            while queue in self._watchers:
                yield service_pb2.WatchAccessKeysResponse(access_key_ids=[await queue.get()])
        finally:
            self._watchers.discard(queue)

    def _unsealed(self, access_key_id: str) -> tuple[str, Caller]:
        """The secret and whom it speaks for. Raises NotFound."""
        store = self._cloud.store
        found = store.get(record_pb2.AccessKeyRecord, access_key_id)
        account = store.get(record_pb2.AccountRecord, found.record.account_id) if found else None
        if found is None or account is None or account.record.deleting:
            raise NotFound("The access key id you provided does not exist in our records.", code="InvalidAccessKeyId")
        key = found.record
        secret = secrets.unseal(self._cloud.master_key, key.access_key_id, key.sealed_secret)
        caller = Caller(
            account_id=key.account_id,
            arn=key.arn,
            user_id=key.user_id,
            access_key_id=key.access_key_id,
            canonical_user_id=account.record.canonical_user_id,
        )
        return secret, caller

    def _heard(self, kind: type[Message], latest: Message, new: Message | None) -> None:
        match latest:
            case record_pb2.AccessKeyRecord():
                changed = [latest.access_key_id]
            case record_pb2.AccountRecord() if new is None or latest.deleting:
                keys = self._cloud.store.owned(record_pb2.AccessKeyRecord, latest.account_id)
                changed = [key.record.access_key_id for key in keys]
            case _:
                return
        for queue in list(self._watchers):
            for access_key_id in changed:
                try:
                    queue.put_nowait(access_key_id)
                except asyncio.QueueFull:
                    self._watchers.discard(queue)
                    break
