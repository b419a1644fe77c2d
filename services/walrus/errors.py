"""Walrus' refusals in S3's words: code, message and the elements that S3 shows beside them.

Codes and statuses: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

from __future__ import annotations

from email.utils import formatdate

from common.errors import (
    AlreadyExists,
    CloudError,
    Denied,
    InvalidArgument,
    NoCapacity,
    NotFound,
    Unavailable,
    WrongState,
)


def shown(key: bytes) -> str:
    return key.decode("utf-8", "replace")


def no_such_bucket(name: str) -> NotFound:
    return NotFound("The specified bucket does not exist", code="NoSuchBucket", details={"BucketName": name})


def no_such_key(key: bytes) -> NotFound:
    return NotFound("The specified key does not exist.", code="NoSuchKey", details={"Key": shown(key)})


def no_such_version(key: bytes, version_id: str) -> NotFound:
    return NotFound(
        "The specified version does not exist.",
        code="NoSuchVersion",
        details={"Key": shown(key), "VersionId": version_id or "null"},
    )


def deleted_key(key: bytes, version_id: str) -> NotFound:
    """Its newest version is a delete marker."""
    shown_id = version_id or "null"
    return NotFound(
        "The specified key does not exist.",
        code="NoSuchKey",
        details={"Key": shown(key), "x-amz-delete-marker": "true", "x-amz-version-id": shown_id},
    )


def is_marker(version_id: str, modified_ms: int) -> WrongState:
    """Of a version that was named and is a delete marker."""
    return WrongState(
        "The specified method is not allowed against this resource.",
        code="MethodNotAllowed",
        details={
            "ResourceType": "DeleteMarker",
            "Allow": "DELETE",
            "Last-Modified": formatdate(modified_ms // 1000, usegmt=True),
            "x-amz-delete-marker": "true",
            "x-amz-version-id": version_id or "null",
        },
    )


def locked() -> Denied:
    return Denied("Access Denied because object protected by object lock.", code="AccessDenied")


def no_such_upload(upload_id: str) -> NotFound:
    return NotFound(
        "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or "
        "completed.",
        code="NoSuchUpload",
        details={"UploadId": upload_id},
    )


def bucket_not_empty(name: str) -> WrongState:
    return WrongState(
        "The bucket you tried to delete is not empty", code="BucketNotEmpty", details={"BucketName": name}
    )


def bucket_has_versions(name: str) -> WrongState:
    return WrongState(
        "The bucket you tried to delete is not empty. You must delete all versions in the bucket.",
        code="BucketNotEmpty",
        details={"BucketName": name},
    )


def bucket_taken(name: str) -> AlreadyExists:
    return AlreadyExists(
        "The requested bucket name is not available. The bucket namespace is shared by all users of the system. "
        "Please select a different name and try again.",
        code="BucketAlreadyExists",
        details={"BucketName": name},
    )


def precondition_failed(condition: str) -> WrongState:
    return WrongState(
        "At least one of the pre-conditions you specified did not hold",
        code="PreconditionFailed",
        details={"Condition": condition},
    )


def conditional_conflict(key: bytes, condition: str) -> WrongState:
    return WrongState(
        "The conditional request cannot succeed due to a conflicting operation against this resource.",
        code="ConditionalRequestConflict",
        details={"Condition": condition, "Key": shown(key)},
    )


def access_denied() -> Denied:
    return Denied("Access Denied", code="AccessDenied")


def invalid_argument(message: str, *, name: str, value: str) -> InvalidArgument:
    return InvalidArgument(message, code="InvalidArgument", details={"ArgumentName": name, "ArgumentValue": value})


def not_a_count(name: str, value: int) -> InvalidArgument:
    message = f"Argument {name} must be an integer between 0 and 2147483647"
    return invalid_argument(message, name=name, value=str(value))


def invalid_request(message: str) -> InvalidArgument:
    return InvalidArgument(message, code="InvalidRequest")


def not_configured(bucket: str, code: str, message: str) -> NotFound:
    """What the owner of a bucket may configure and has not."""
    return NotFound(message, code=code, details={"BucketName": bucket})


def malformed_xml() -> InvalidArgument:
    return InvalidArgument(
        "The XML you provided was not well-formed or did not validate against our published schema", code="MalformedXML"
    )


def invalid_part(upload_id: str, number: int, etag: str) -> InvalidArgument:
    return InvalidArgument(
        "One or more of the specified parts could not be found. The part may not have been uploaded, or the "
        "specified entity tag may not match the part's entity tag.",
        code="InvalidPart",
        details={"UploadId": upload_id, "PartNumber": str(number), "ETag": etag},
    )


def quota_exceeded(scope: str, most: str) -> Denied:
    """S3 has no quotas; the code and status are those of other stores that speak S3."""
    return Denied(over_quota(scope, most), code="QuotaExceeded")


def over_quota(scope: str, most: str) -> str:
    return f"The quota of the {scope} is exceeded: it may hold {most}."


def out_of_space(free_bytes: int, reserve_bytes: int) -> NoCapacity:
    """S3 has no code for a full disk of its own; 507 InsufficientCapacity is what clients of such stores know."""
    return NoCapacity(
        f"The object store is full: {max(free_bytes, 0) >> 20} MiB free, {reserve_bytes >> 20} MiB of them are kept in "
        "reserve. Delete objects, or give the cloud's file system more space.",
        code="InsufficientCapacity",
    )


def store_failed(cause: str) -> Unavailable:
    return Unavailable(f"The object store could not write: {cause}. Please try again.", code="ServiceUnavailable")


def damaged(key: bytes, cause: str) -> CloudError:
    """The index and the blobs do not agree: an error for the operator, opaque to nobody, never wrong bytes."""
    return CloudError(f"The object {shown(key)} is damaged: {cause}", code="InternalError")


def damaged_row(what: str) -> CloudError:
    return CloudError(f"What the index says of {what} is damaged.", code="InternalError")
