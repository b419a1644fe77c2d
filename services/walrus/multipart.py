"""Multipart uploads: create, upload a part, complete, abort, list parts. Parts stay the files that they were."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any, Final

from common.errors import Denied, InvalidArgument, Stale
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import multipart_pb2
from services.walrus import (
    accounts,
    conditions,
    digests,
    encryption,
    errors,
    lifecycle,
    payment,
    versioning,
    wire,
)
from services.walrus import object as object_rules
from services.walrus.body import announced, received
from services.walrus.drivers.base import Assembled, Bucket, Checksum, Object, Part, Single, Upload
from services.walrus.extras import extras_of, version_of
from services.walrus.put import header_of
from services.walrus.store import Store
from services.walrus.tell import created

_PAGE: Final = 1000
# How often parts may be replaced while their upload is completed before we give up.
_TRIES: Final = 5


async def create_upload(
    store: Store, request: multipart_pb2.CreateMultipartUploadRequest, caller: Caller | None
) -> multipart_pb2.CreateMultipartUploadOutput:
    bucket = await store.bucket_for(request, caller)
    assert caller is not None
    if caller.anonymous:
        # Nobody could end it.
        raise Denied("Anonymous users cannot initiate multipart uploads. Please authenticate.", code="AccessDenied")
    key = object_rules.checked_key(request.key)
    algorithm = request.checksum_algorithm.upper()
    if request.checksum_type and not algorithm:
        raise errors.invalid_request(
            "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header."
        )
    kind = digests.kind_for(algorithm or digests.DEFAULT, request.checksum_type.upper())
    now = store.now_ms()
    started = Upload(
        bucket_id=bucket.id,
        key=key,
        # Listings show a key's uploads in the order of their beginning.
        id=f"{now:012x}{secrets.token_hex(20)}",
        initiator_id=caller.canonical_user_id,
        initiator_name=caller.arn,
        started_ms=now,
        algorithm=algorithm or digests.DEFAULT,
        composite=kind == digests.COMPOSITE,
        algorithm_chosen=bool(algorithm),
        attributes=object_rules.checked_attributes(wire.headers_of(request), request.metadata),
    )
    encrypted = encryption.of_new(store, bucket, request)
    await accounts.check_grantees(store.accounts, request, bucket.owner_id)
    upload = extras_of(bucket, request, caller, now_ms=now, encryption=encrypted).onto(started)
    await store.index.create_upload(upload)
    answer = multipart_pb2.CreateMultipartUploadOutput(bucket=bucket.name, key=request.key, upload_id=upload.id)
    _tell_abort(store, bucket, upload, answer)
    if algorithm:
        answer.checksum_algorithm = algorithm
        answer.checksum_type = kind
    encryption.tell(answer, request, upload.encryption)
    return answer


async def upload_part(
    store: Store, messages: AsyncIterator[multipart_pb2.UploadPartStream], caller: Caller | None
) -> multipart_pb2.UploadPartOutput:
    request = (await header_of(store, messages)).header
    bucket = await store.bucket_for(request, caller)
    checked_part_number(request)
    upload = await find_upload(store, bucket, request, caller)
    encrypted = encryption.of_part(store, request, upload)
    claim = announced(request, stored_algorithm=upload.algorithm)
    if upload.algorithm_chosen and claim.algorithm and claim.algorithm != upload.algorithm:
        raise errors.invalid_request(
            f"Checksum Type mismatch occurred, expected checksum Type: {upload.algorithm.lower()}, "
            f"actual checksum Type: {claim.algorithm.lower()}"
        )
    await _check_quota(store, bucket, upload, request.part_number, claim.length or 0)
    async with received(store, messages, claim, may_inline=False, encryption=encrypted) as body:
        assert isinstance(body.content, Single)
        part = Part(
            number=request.part_number,
            size=body.size,
            etag=body.etag,
            modified_ms=store.now_ms(),
            checksum=body.checksum,
            blob=body.content.blob,
        )
        await body.settle(store, store.index.put_part(upload, part))
    store.reclaim()
    answer = multipart_pb2.UploadPartOutput(e_tag=wire.quoted(part.etag))
    wire.set_checksum(answer, body.verified or (body.checksum if upload.algorithm_chosen else None), with_kind=False)
    encryption.tell(answer, request, upload.encryption)
    await payment.tell(store, answer, request, caller)
    return answer


async def _check_quota(store: Store, bucket: Bucket, upload: Upload, number: int, size: int) -> None:
    """Spares a part that cannot be stored. What counts is the check in the index's own step."""
    try:
        await store.index.quotas.check(bucket, size=size, objects=0)
    except Denied:
        stored = await store.index.list_parts(upload.id, after=number - 1, limit=1)
        replaced = sum(part.size for part in stored if part.number == number)
        await store.index.quotas.check(bucket, size=size - replaced, objects=0)


async def complete_upload(
    store: Store, request: multipart_pb2.CompleteMultipartUploadRequest, caller: Caller | None
) -> multipart_pb2.CompleteMultipartUploadOutput:
    bucket = await store.bucket_for(request, caller)
    key = object_rules.checked_key(request.key)
    wanted = _wanted(request)
    expect = conditions.expectation(request.if_match, request.if_none_match)
    for _ in range(_TRIES):
        upload = await store.index.find_upload(bucket, key, request.upload_id)
        if upload is None:
            return await _completed_before(store, bucket, request, key, wanted)
        encryption.check_brought(store, request, upload)
        parts = await _chosen(store, upload, wanted)
        new = _assembled(store, upload, parts)
        _check_whole(request, new)
        bucket, new = await version_of(store, bucket, new, upload)
        events = created(store, bucket, "CompleteMultipartUpload", caller, new)
        try:
            since = replace(expect, since_ms=upload.started_ms)
            await store.index.complete_upload(bucket, upload, parts, new, since, events)
        except Stale:
            continue
        store.changed(events)
        answer = _completion(bucket, request, new.etag, new.checksum, new.version_id)
        if expiration := lifecycle.expiration_of(bucket, new, store.calendar):
            answer.expiration = expiration
        _tell_encryption(answer, request, new)
        return answer
    raise errors.store_failed("parts of the upload are replaced all the time")


async def abort_upload(
    store: Store, request: multipart_pb2.AbortMultipartUploadRequest, caller: Caller | None
) -> multipart_pb2.AbortMultipartUploadOutput:
    bucket = await store.bucket_for(request, caller)
    upload = await find_upload(store, bucket, request, caller)
    if request.HasField("if_match_initiated_time") and request.if_match_initiated_time != wire.timestamp(
        upload.started_ms
    ):
        raise errors.precondition_failed("x-amz-if-match-initiated-time")
    await store.index.abort_upload(upload)
    store.reclaim()
    return multipart_pb2.AbortMultipartUploadOutput()


async def list_parts(
    store: Store, request: multipart_pb2.ListPartsRequest, caller: Caller | None
) -> multipart_pb2.ListPartsOutput:
    bucket = await store.bucket_for(request, caller)
    upload = await find_upload(store, bucket, request, caller)
    encryption.check_brought(store, request, upload)
    limit = request.max_parts if request.HasField("max_parts") else _PAGE
    for name, value in (("max-parts", limit), ("part-number-marker", request.part_number_marker)):
        if value < 0:
            raise errors.not_a_count(name, value)
    limit = min(limit, _PAGE)
    found = await store.index.list_parts(upload.id, after=request.part_number_marker, limit=limit + 1)
    answer = multipart_pb2.ListPartsOutput(
        bucket=bucket.name,
        key=request.key,
        upload_id=upload.id,
        part_number_marker=request.part_number_marker,
        max_parts=limit,
        is_truncated=bool(limit) and len(found) > limit,
        initiator=multipart_pb2.Initiator(id=upload.initiator_id, display_name=upload.initiator_name),
        owner=wire.owner(bucket, upload.owner_id),
        storage_class=upload.attributes.headers.get("StorageClass", "STANDARD"),
    )
    _tell_abort(store, bucket, upload, answer)
    if upload.algorithm_chosen:
        answer.checksum_algorithm = upload.algorithm
        answer.checksum_type = wire.kind_of(upload.composite)
    for part in found[:limit]:
        one = answer.parts.add(
            part_number=part.number,
            last_modified=wire.timestamp(part.modified_ms),
            e_tag=wire.quoted(part.etag),
            size=part.size,
        )
        if upload.algorithm_chosen:
            wire.set_checksum(one, part.checksum, with_kind=False)
    answer.next_part_number_marker = answer.parts[-1].part_number if answer.parts else 0
    return answer


def _tell_abort(store: Store, bucket: Bucket, upload: Upload, answer: Any) -> None:
    if abort := lifecycle.abort_of(bucket, upload, store.calendar):
        answer.abort_date.CopyFrom(wire.timestamp(abort[0]))
        answer.abort_rule_id = abort[1]


def checked_part_number(request: Any) -> int:
    number: int = request.part_number
    if not 1 <= number <= object_rules.PART_COUNT:
        raise errors.invalid_argument(
            f"Part number must be an integer between 1 and {object_rules.PART_COUNT}, inclusive",
            name="partNumber",
            value=str(number),
        )
    return number


async def find_upload(store: Store, bucket: Bucket, request: Any, caller: Caller | None) -> Upload:
    found = await store.index.find_upload(bucket, object_rules.checked_key(request.key), request.upload_id)
    store.check_upload(bucket, request, caller, found)
    if found is None:
        raise errors.no_such_upload(request.upload_id)
    return found


def _wanted(request: multipart_pb2.CompleteMultipartUploadRequest) -> Sequence[multipart_pb2.CompletedPart]:
    wanted = request.multipart_upload.parts
    if request.HasField("multipart_upload") and not wanted:
        raise errors.invalid_request("You must specify at least one part")
    if not 1 <= len(wanted) <= object_rules.PART_COUNT or not all(part.e_tag for part in wanted):
        raise errors.malformed_xml()
    if (first := wanted[0].part_number) < 1:
        raise errors.invalid_argument("PartNumber must be >= 1", name="PartNumber", value=str(first))
    for before, part in itertools.pairwise(wanted):
        if part.part_number <= before.part_number:
            raise InvalidArgument(
                "The list of parts was not in ascending order. Parts must be ordered by part number.",
                code="InvalidPartOrder",
                details={"UploadId": request.upload_id},
            )
    return list(wanted)


async def _chosen(store: Store, upload: Upload, wanted: Sequence[multipart_pb2.CompletedPart]) -> list[Part]:
    """The stored parts that the client names, checked against what it says of them."""
    stored = {part.number: part for part in await store.index.list_parts(upload.id, limit=object_rules.PART_COUNT)}
    chosen: list[Part] = []
    for one in wanted:
        part = stored.get(one.part_number)
        etag = conditions.unquoted(one.e_tag)
        if part is None or part.etag != etag:
            raise errors.invalid_part(upload.id, one.part_number, etag)
        told = wire.checksum_sent(one)
        if told is None and upload.algorithm_chosen and upload.composite:
            algorithm = upload.algorithm.lower()
            raise errors.invalid_request(
                f"The upload was created using a {algorithm} checksum. The complete request must include the checksum "
                f"for each part. It was missing for part {one.part_number} in the request."
            )
        # One of another algorithm is what the client sent with the part, to an upload that named none.
        if told is not None and told.algorithm == part.checksum.algorithm and told.value != part.checksum.value:
            raise errors.invalid_part(upload.id, one.part_number, etag)
        chosen.append(part)
    for part in chosen[:-1]:
        if part.size < store.limits.part_bytes:
            raise InvalidArgument(
                "Your proposed upload is smaller than the minimum allowed size",
                code="EntityTooSmall",
                details={
                    "ProposedSize": str(part.size),
                    "MinSizeAllowed": str(store.limits.part_bytes),
                    "PartNumber": str(part.number),
                    "ETag": part.etag,
                },
            )
    return chosen


def _assembled(store: Store, upload: Upload, parts: Sequence[Part]) -> Object:
    size = sum(part.size for part in parts)
    object_rules.check_size(size, object_rules.OBJECT_BYTES)
    return Object(
        key=upload.key,
        size=size,
        etag=digests.etag_of_parts([part.etag for part in parts]),
        modified_ms=store.now_ms(),
        checksum=digests.checksum_of_parts(
            upload.algorithm, [(part.checksum.value, part.size) for part in parts], composite=upload.composite
        ),
        attributes=upload.attributes,
        content=Assembled(upload_id=upload.id, part_count=len(parts)),
    )


def _check_whole(request: multipart_pb2.CompleteMultipartUploadRequest, new: Object) -> None:
    """Against what the client says of the whole object."""
    checksum = new.checksum
    assert checksum is not None
    if request.HasField("mpu_object_size") and request.mpu_object_size != new.size:
        raise errors.invalid_request(
            f"The provided 'x-amz-mp-object-size' header value {request.mpu_object_size} does not match what was "
            f"computed: {new.size}"
        )
    if request.checksum_type:
        digests.check_kind(request.checksum_type.upper())
    if request.checksum_type and request.checksum_type.upper() != wire.kind_of(checksum.composite):
        raise errors.invalid_request(
            f"The upload was created using the {wire.kind_of(checksum.composite)} checksum mode. The complete request "
            "must use the same checksum mode."
        )
    told = wire.checksum_sent(request)
    if told is None:
        return
    if told.algorithm != checksum.algorithm:
        raise errors.invalid_request(
            f"Checksum Type mismatch occurred, expected checksum Type: {checksum.algorithm.lower()}, actual checksum "
            f"Type: {told.algorithm.lower()}"
        )
    if told.value.partition("-")[0] != checksum.value.partition("-")[0]:
        raise InvalidArgument(
            f"The {told.algorithm} you specified did not match the calculated checksum.",
            code="BadDigest",
            details={"ExpectedChecksum": told.value, "CalculatedChecksum": checksum.value},
        )


async def _completed_before(
    store: Store,
    bucket: Bucket,
    request: multipart_pb2.CompleteMultipartUploadRequest,
    key: bytes,
    wanted: Sequence[multipart_pb2.CompletedPart],
) -> multipart_pb2.CompleteMultipartUploadOutput:
    """A repeated request is answered as the first one was, if it names the same parts."""
    done = await store.index.find_completion(bucket, key, request.upload_id)
    etags = [conditions.unquoted(one.e_tag) for one in wanted]
    if done is None or not all(_is_md5(etag) for etag in etags) or digests.etag_of_parts(etags) != done.etag:
        raise errors.no_such_upload(request.upload_id)
    answer = _completion(bucket, request, done.etag, done.checksum, done.version_id)
    now = await store.index.find_object(bucket, key, done.version_id)
    if isinstance(now, Object) and now.etag == done.etag:
        _tell_encryption(answer, request, now)
    return answer


def _tell_encryption(
    answer: multipart_pb2.CompleteMultipartUploadOutput,
    request: multipart_pb2.CompleteMultipartUploadRequest,
    new: Object,
) -> None:
    """Not of a client's key: S3 does not either."""
    if not encryption.is_by_client(new.encryption):
        encryption.tell(answer, request, new.encryption)


def _is_md5(etag: str) -> bool:
    return len(etag) == 32 and all(digit in "0123456789abcdef" for digit in etag)


def _completion(
    bucket: Bucket,
    request: multipart_pb2.CompleteMultipartUploadRequest,
    etag: str,
    checksum: Checksum | None,
    version_id: str,
) -> multipart_pb2.CompleteMultipartUploadOutput:
    answer = multipart_pb2.CompleteMultipartUploadOutput(
        bucket=bucket.name,
        key=request.key,
        e_tag=wire.quoted(etag),
        version_id=versioning.told(bucket, version_id),
    )
    wire.set_checksum(answer, checksum)
    return answer
