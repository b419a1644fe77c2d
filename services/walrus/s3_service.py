"""The gRPC handlers of mallee.s3.v1: each is one use case."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from common.rpc.context import current_caller
from common.rpc.uploads import accepting
from mallee.s3.v1 import bucket_pb2, listing_pb2, multipart_pb2, object_pb2, service_pb2_grpc
from services.walrus import buckets, delete, get, listing, multipart, put
from services.walrus.store import Store


class S3Service(service_pb2_grpc.S3ServiceServicer):
    def __init__(self, store: Store) -> None:
        self._store = store

    async def CreateBucket(
        self, request: bucket_pb2.CreateBucketRequest, context: Any
    ) -> bucket_pb2.CreateBucketOutput:
        return await buckets.create_bucket(self._store, request, current_caller())

    async def ListBuckets(self, request: bucket_pb2.ListBucketsRequest, context: Any) -> bucket_pb2.ListBucketsOutput:
        return await buckets.list_buckets(self._store, request, current_caller())

    async def HeadBucket(self, request: bucket_pb2.HeadBucketRequest, context: Any) -> bucket_pb2.HeadBucketOutput:
        return await buckets.head_bucket(self._store, request, current_caller())

    async def DeleteBucket(
        self, request: bucket_pb2.DeleteBucketRequest, context: Any
    ) -> bucket_pb2.DeleteBucketResponse:
        return await buckets.delete_bucket(self._store, request, current_caller())

    async def GetBucketLocation(
        self, request: bucket_pb2.GetBucketLocationRequest, context: Any
    ) -> bucket_pb2.GetBucketLocationOutput:
        return await buckets.get_bucket_location(self._store, request, current_caller())

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
        return await get.head_object(self._store, request, current_caller())

    async def DeleteObject(
        self, request: object_pb2.DeleteObjectRequest, context: Any
    ) -> object_pb2.DeleteObjectOutput:
        return await delete.delete_object(self._store, request, current_caller())

    async def DeleteObjects(
        self, request: object_pb2.DeleteObjectsRequest, context: Any
    ) -> object_pb2.DeleteObjectsOutput:
        return await delete.delete_objects(self._store, request, current_caller())

    async def ListObjects(self, request: listing_pb2.ListObjectsRequest, context: Any) -> listing_pb2.ListObjectsOutput:
        return await listing.list_objects(self._store, request, current_caller())

    async def ListObjectsV2(
        self, request: listing_pb2.ListObjectsV2Request, context: Any
    ) -> listing_pb2.ListObjectsV2Output:
        return await listing.list_objects_v2(self._store, request, current_caller())

    async def CreateMultipartUpload(
        self, request: multipart_pb2.CreateMultipartUploadRequest, context: Any
    ) -> multipart_pb2.CreateMultipartUploadOutput:
        return await multipart.create_upload(self._store, request, current_caller())

    async def UploadPart(
        self, request_iterator: AsyncIterator[multipart_pb2.UploadPartStream], context: Any
    ) -> multipart_pb2.UploadPartOutput:
        return await multipart.upload_part(self._store, accepting(aiter(request_iterator), context), current_caller())

    async def CompleteMultipartUpload(
        self, request: multipart_pb2.CompleteMultipartUploadRequest, context: Any
    ) -> multipart_pb2.CompleteMultipartUploadOutput:
        return await multipart.complete_upload(self._store, request, current_caller())

    async def AbortMultipartUpload(
        self, request: multipart_pb2.AbortMultipartUploadRequest, context: Any
    ) -> multipart_pb2.AbortMultipartUploadOutput:
        return await multipart.abort_upload(self._store, request, current_caller())

    async def ListParts(self, request: multipart_pb2.ListPartsRequest, context: Any) -> multipart_pb2.ListPartsOutput:
        return await multipart.list_parts(self._store, request, current_caller())

    async def ListMultipartUploads(
        self, request: multipart_pb2.ListMultipartUploadsRequest, context: Any
    ) -> multipart_pb2.ListMultipartUploadsOutput:
        return await listing.list_multipart_uploads(self._store, request, current_caller())
