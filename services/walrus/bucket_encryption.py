"""The encryption that a bucket gives to what is stored in it without saying."""

from __future__ import annotations

from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import encryption_pb2 as pb
from services.walrus import configs, encryption, errors
from services.walrus.store import Store


async def put_encryption(
    store: Store, request: pb.PutBucketEncryptionRequest, caller: Caller | None
) -> pb.PutBucketEncryptionResponse:
    bucket = await store.bucket_for(request, caller)
    wanted = request.server_side_encryption_configuration
    if len(wanted.rules) != 1 or not wanted.rules[0].apply_server_side_encryption_by_default.sse_algorithm:
        raise errors.malformed_xml()
    default = wanted.rules[0].apply_server_side_encryption_by_default
    if default.sse_algorithm not in (encryption.AES256, *encryption.KMS):
        raise errors.malformed_xml()
    encryption.check_method(default.sse_algorithm)
    if default.kms_master_key_id:
        raise errors.invalid_argument(
            "a KMSMasterKeyID is not applicable if the default sse algorithm is not aws:kms or aws:kms:dsse",
            name="ApplyServerSideEncryptionByDefault",
            value=default.kms_master_key_id,
        )
    await configs.put(store, bucket, wanted)
    return pb.PutBucketEncryptionResponse()


async def get_encryption(
    store: Store, request: pb.GetBucketEncryptionRequest, caller: Caller | None
) -> pb.GetBucketEncryptionOutput:
    bucket = await store.bucket_for(request, caller)
    found = configs.find(bucket, pb.ServerSideEncryptionConfiguration)
    if found is None:
        raise errors.not_configured(
            bucket.name,
            "ServerSideEncryptionConfigurationNotFoundError",
            "The server side encryption configuration was not found",
        )
    return pb.GetBucketEncryptionOutput(server_side_encryption_configuration=found)


async def delete_encryption(
    store: Store, request: pb.DeleteBucketEncryptionRequest, caller: Caller | None
) -> pb.DeleteBucketEncryptionResponse:
    """What was stored stays as it is."""
    bucket = await store.bucket_for(request, caller)
    await configs.delete(store, bucket, pb.ServerSideEncryptionConfiguration)
    return pb.DeleteBucketEncryptionResponse()
