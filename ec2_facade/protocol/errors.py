"""Errors as each protocol writes them: body, and the status that AWS gives the code.

Statuses: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html and
https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

from __future__ import annotations

import binascii
import hashlib
from typing import Final

from common.errors import (
    AlreadyExists,
    CloudError,
    Denied,
    InvalidArgument,
    NoCapacity,
    NotFound,
    Stale,
    Unauthenticated,
    Unavailable,
    Unsupported,
    WrongState,
)
from ec2_facade.errors import Refused
from ec2_facade.protocol.model import Response
from ec2_facade.protocol.text import element

# Codes whose status is not the one of their kind, in every protocol.
STATUS_BY_CODE: Final = {
    "AccessDenied": 403,
    "AuthFailure": 401,
    "DryRunOperation": 412,
    "ExpiredToken": 403,
    "InternalError": 500,
    "InternalFailure": 500,
    "InvalidClientTokenId": 403,
    "MissingAuthenticationToken": 403,
    "OptInRequired": 403,
    "RequestLimitExceeded": 503,
    "ServiceUnavailable": 503,
    "SignatureDoesNotMatch": 403,
    "Throttling": 400,
    "Unavailable": 503,
    "UnauthorizedOperation": 403,
}

EC2_STATUS: Final = STATUS_BY_CODE | {
    # "Server errors" of the EC2 reference: clients try again.
    "InsufficientAddressCapacity": 500,
    "InsufficientHostCapacity": 500,
    "InsufficientInstanceCapacity": 500,
    "InsufficientReservedInstanceCapacity": 500,
    "InsufficientVolumeCapacity": 500,
}

S3_STATUS: Final = STATUS_BY_CODE | {
    "AccountProblem": 403,
    "AllAccessDisabled": 403,
    "BucketAlreadyExists": 409,
    "BucketAlreadyOwnedByYou": 409,
    "BucketNotEmpty": 409,
    "ConditionalRequestConflict": 409,
    "EntityTooLarge": 400,
    "IllegalLocationConstraintException": 400,
    # Not of AWS: a store that is full. 5xx, and clients do not hammer it as they do at 503.
    "InsufficientCapacity": 507,
    "InvalidAccessKeyId": 403,
    "InvalidBucketState": 409,
    "InvalidObjectState": 403,
    "InvalidPartNumber": 416,
    "InvalidPayer": 403,
    "InvalidRange": 416,
    "InvalidSecurity": 403,
    "MethodNotAllowed": 405,
    "MissingContentLength": 411,
    "NoSuchBucket": 404,
    "NoSuchBucketPolicy": 404,
    "NoSuchCORSConfiguration": 404,
    "NoSuchKey": 404,
    "NoSuchLifecycleConfiguration": 404,
    "NoSuchPublicAccessBlockConfiguration": 404,
    "NoSuchTagSet": 404,
    "NoSuchUpload": 404,
    "NoSuchVersion": 404,
    "NoSuchWebsiteConfiguration": 404,
    "NotImplemented": 501,
    "NotModified": 304,
    "NotSignedUp": 403,
    "ObjectLockConfigurationNotFoundError": 404,
    "OperationAborted": 409,
    "OwnershipControlsNotFoundError": 404,
    "PermanentRedirect": 301,
    "PreconditionFailed": 412,
    "ReplicationConfigurationNotFoundError": 404,
    "RequestTimeTooSkewed": 403,
    "ServerSideEncryptionConfigurationNotFoundError": 404,
    "SlowDown": 503,
    "TemporaryRedirect": 307,
}

# What a code that is no code of S3's becomes there: the kinds' own codes speak EC2.
_S3_CODE: Final = {
    "AuthFailure": "AccessDenied",
    "InvalidParameterValue": "InvalidArgument",
    "IncorrectState": "OperationAborted",
    "Stale": "OperationAborted",
    "Unavailable": "ServiceUnavailable",
    "UnauthorizedOperation": "AccessDenied",
    "UnsupportedOperation": "NotImplemented",
}
_QUERY_CODE: Final = {"InternalError": "InternalFailure", "Unavailable": "ServiceUnavailable"}

# Details that are headers though they could be elements.
_HEADERS: Final = {"MethodNotAllowed": ("Allow",), "NotModified": ("ETag",)}

_S3_KIND_STATUS: Final[dict[type[CloudError], int]] = {
    NotFound: 404,
    AlreadyExists: 409,
    WrongState: 409,
    Stale: 409,
    Denied: 403,
    Unauthenticated: 403,
    Unsupported: 501,
    NoCapacity: 503,
    Unavailable: 503,
    InvalidArgument: 400,
}


# Elements of S3's errors whose names look like headers'.
_HYPHENATED: Final = frozenset({"Token-0", "X-Amz-Expires"})


def ec2_error(error: CloudError, request_id: str) -> Response:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Response><Errors><Error>{element('Code', error.code)}{element('Message', error.message)}</Error></Errors>"
        f"{element('RequestID', request_id)}</Response>"
    )
    headers = [("x-amzn-RequestId", request_id), ("Content-Type", "text/xml;charset=UTF-8")]
    return Response(status=_status(error, error.code, EC2_STATUS), headers=headers, body=body.encode())


def query_error(error: CloudError, request_id: str, namespace: str = "") -> Response:
    code = _QUERY_CODE.get(error.code, error.code)
    status = _status(error, code, STATUS_BY_CODE)
    place = f' xmlns="{namespace}"' if namespace else ""
    body = (
        f"<ErrorResponse{place}><Error>"
        f"{element('Type', 'Receiver' if status >= 500 else 'Sender')}"
        f"{element('Code', code)}{element('Message', error.message)}</Error>"
        f"{element('RequestId', request_id)}</ErrorResponse>"
    )
    headers = [("x-amzn-RequestId", request_id), ("Content-Type", "text/xml")]
    return Response(status=status, headers=headers, body=body.encode())


def s3_error(error: CloudError, request_id: str, resource: str = "") -> Response:
    """With `error.details` as elements of their own (BucketName, Key …) or headers (Last-Modified …).

    An answer to HEAD keeps the headers alone.
    """
    status, code = s3_refusal(error)
    host_id = s3_host_id(request_id)
    details = "".join(
        element(name, value) for name, value in error.details.items() if name.isalnum() or name in _HYPHENATED
    )
    place = element("Resource", resource) if resource and "Resource" not in error.details else ""
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error>{element('Code', code)}{element('Message', error.message)}{details}{place}"
        f"{element('RequestId', request_id)}{element('HostId', host_id)}</Error>"
    )
    headers = s3_ids(request_id) + [
        (name, value)
        for name, value in error.details.items()
        if ("-" in name and name not in _HYPHENATED) or name in _HEADERS.get(code, ())
    ]
    if status == 304:
        return Response(status=status, headers=headers)
    return Response(status=status, headers=[*headers, ("Content-Type", "application/xml")], body=body.encode())


def s3_refusal(error: CloudError) -> tuple[int, str]:
    """Status and code."""
    code = _S3_CODE.get(error.code, error.code)
    return _s3_status(error, code), code


def s3_ids(request_id: str) -> list[tuple[str, str]]:
    return [("x-amz-request-id", request_id), ("x-amz-id-2", s3_host_id(request_id))]


def s3_host_id(request_id: str) -> str:
    """S3's second id. Ours says nothing more than the first."""
    return binascii.b2a_base64(hashlib.sha256(request_id.encode()).digest(), newline=False).decode()


def _status(error: CloudError, code: str, table: dict[str, int]) -> int:
    if isinstance(error, Refused):
        return error.status
    if code in table:
        return table[code]
    return 503 if isinstance(error, Unavailable) else 500 if type(error) is CloudError else 400


def _s3_status(error: CloudError, code: str) -> int:
    if isinstance(error, Refused):
        return error.status
    kind = next((status for kind, status in _S3_KIND_STATUS.items() if isinstance(error, kind)), 500)
    return S3_STATUS.get(code, kind)
