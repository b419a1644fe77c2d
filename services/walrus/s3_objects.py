"""The gRPC handlers of mallee.s3.v1 about objects and uploads: each is one use case."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from common.rpc.context import current_caller
from common.rpc.uploads import accepting
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import (
    acl_pb2,
    copy_pb2,
    listing_pb2,
    multipart_pb2,
    object_attributes_pb2,
    object_lock_pb2,
    object_pb2,
    object_tagging_pb2,
    restore_pb2,
    service_pb2_grpc,
)
from services.walrus import (
    acls,
    copy,
    delete,
    get,
    listing,
    multipart,
    object_attributes,
    object_lock,
    object_tagging,
    payment,
    put,
    restore_object,
)
from services.walrus.store import Store

Answer = TypeVar("Answer")


class ObjectHandlers(service_pb2_grpc.S3ServiceServicer):
    def __init__(self, store: Store) -> None:
        self._store = store

    async def _charged(
        self, use_case: Callable[[Store, Any, Caller | None], Awaitable[Answer]], request: Any
    ) -> Answer:
        """One whose answer says who paid."""
        caller = current_caller()
        answer = await use_case(self._store, request, caller)
        await payment.tell(self._store, answer, request, caller)
        return answer

    async def PutObject(
        self, request_iterator: AsyncIterator[object_pb2.PutObjectStream], context: Any
    ) -> object_pb2.PutObjectOutput:
        return await put.put_object(self._store, accepting(aiter(request_iterator), context), current_caller())

    async def GetObject(
        self, request: object_pb2.GetObjectRequest, context: Any
    ) -> AsyncIterator[object_pb2.GetObjectStream]:
        async with get.opened_object(self._store, request, current_caller()) as (header, chunks):
            yield object_pb2.GetObjectStream(header=header)
            async for chunk in chunks:
                yield object_pb2.GetObjectStream(chunk=chunk)

    async def HeadObject(self, request: object_pb2.HeadObjectRequest, context: Any) -> object_pb2.HeadObjectOutput:
        return await self._charged(get.head_object, request)

    async def DeleteObject(
        self, request: object_pb2.DeleteObjectRequest, context: Any
    ) -> object_pb2.DeleteObjectOutput:
        return await self._charged(delete.delete_object, request)

    async def DeleteObjects(
        self, request: object_pb2.DeleteObjectsRequest, context: Any
    ) -> object_pb2.DeleteObjectsOutput:
        return await self._charged(delete.delete_objects, request)

    async def ListObjects(self, request: listing_pb2.ListObjectsRequest, context: Any) -> listing_pb2.ListObjectsOutput:
        return await self._charged(listing.list_objects, request)

    async def ListObjectsV2(
        self, request: listing_pb2.ListObjectsV2Request, context: Any
    ) -> listing_pb2.ListObjectsV2Output:
        return await self._charged(listing.list_objects_v2, request)

    async def ListObjectVersions(
        self, request: listing_pb2.ListObjectVersionsRequest, context: Any
    ) -> listing_pb2.ListObjectVersionsOutput:
        return await self._charged(listing.list_object_versions, request)

    async def CreateMultipartUpload(
        self, request: multipart_pb2.CreateMultipartUploadRequest, context: Any
    ) -> multipart_pb2.CreateMultipartUploadOutput:
        return await self._charged(multipart.create_upload, request)

    async def UploadPart(
        self, request_iterator: AsyncIterator[multipart_pb2.UploadPartStream], context: Any
    ) -> multipart_pb2.UploadPartOutput:
        return await multipart.upload_part(self._store, accepting(aiter(request_iterator), context), current_caller())

    async def CompleteMultipartUpload(
        self, request: multipart_pb2.CompleteMultipartUploadRequest, context: Any
    ) -> multipart_pb2.CompleteMultipartUploadOutput:
        return await self._charged(multipart.complete_upload, request)

    async def AbortMultipartUpload(
        self, request: multipart_pb2.AbortMultipartUploadRequest, context: Any
    ) -> multipart_pb2.AbortMultipartUploadOutput:
        return await self._charged(multipart.abort_upload, request)

    async def ListParts(self, request: multipart_pb2.ListPartsRequest, context: Any) -> multipart_pb2.ListPartsOutput:
        return await self._charged(multipart.list_parts, request)

    async def ListMultipartUploads(
        self, request: multipart_pb2.ListMultipartUploadsRequest, context: Any
    ) -> multipart_pb2.ListMultipartUploadsOutput:
        return await self._charged(listing.list_multipart_uploads, request)

    async def CopyObject(self, request: copy_pb2.CopyObjectRequest, context: Any) -> copy_pb2.CopyObjectOutput:
        return await self._charged(copy.copy_object, request)

    async def UploadPartCopy(
        self, request: copy_pb2.UploadPartCopyRequest, context: Any
    ) -> copy_pb2.UploadPartCopyOutput:
        return await self._charged(copy.copy_part, request)

    async def GetObjectAttributes(
        self, request: object_attributes_pb2.GetObjectAttributesRequest, context: Any
    ) -> object_attributes_pb2.GetObjectAttributesOutput:
        return await self._charged(object_attributes.get_attributes, request)

    async def RestoreObject(
        self, request: restore_pb2.RestoreObjectRequest, context: Any
    ) -> restore_pb2.RestoreObjectOutput:
        return await self._charged(restore_object.restore_object, request)

    async def PutObjectTagging(
        self, request: object_tagging_pb2.PutObjectTaggingRequest, context: Any
    ) -> object_tagging_pb2.PutObjectTaggingOutput:
        return await object_tagging.put_tagging(self._store, request, current_caller())

    async def GetObjectTagging(
        self, request: object_tagging_pb2.GetObjectTaggingRequest, context: Any
    ) -> object_tagging_pb2.GetObjectTaggingOutput:
        return await object_tagging.get_tagging(self._store, request, current_caller())

    async def DeleteObjectTagging(
        self, request: object_tagging_pb2.DeleteObjectTaggingRequest, context: Any
    ) -> object_tagging_pb2.DeleteObjectTaggingOutput:
        return await object_tagging.delete_tagging(self._store, request, current_caller())

    async def PutObjectRetention(
        self, request: object_lock_pb2.PutObjectRetentionRequest, context: Any
    ) -> object_lock_pb2.PutObjectRetentionOutput:
        return await self._charged(object_lock.put_retention, request)

    async def GetObjectRetention(
        self, request: object_lock_pb2.GetObjectRetentionRequest, context: Any
    ) -> object_lock_pb2.GetObjectRetentionOutput:
        return await object_lock.get_retention(self._store, request, current_caller())

    async def PutObjectLegalHold(
        self, request: object_lock_pb2.PutObjectLegalHoldRequest, context: Any
    ) -> object_lock_pb2.PutObjectLegalHoldOutput:
        return await self._charged(object_lock.put_legal_hold, request)

    async def GetObjectLegalHold(
        self, request: object_lock_pb2.GetObjectLegalHoldRequest, context: Any
    ) -> object_lock_pb2.GetObjectLegalHoldOutput:
        return await object_lock.get_legal_hold(self._store, request, current_caller())

    async def PutObjectAcl(self, request: acl_pb2.PutObjectAclRequest, context: Any) -> acl_pb2.PutObjectAclOutput:
        return await self._charged(acls.put_object_acl, request)

    async def GetObjectAcl(self, request: acl_pb2.GetObjectAclRequest, context: Any) -> acl_pb2.GetObjectAclOutput:
        return await self._charged(acls.get_object_acl, request)
