"""With which key an object is encrypted: one of the store's own (SSE-S3) or one that the client brings (SSE-C).

What is kept of it is `Extras.encryption`: a byte that says which, and then the sealed key of the object, or the salted
HMAC of the client's key, by which it is known again. Messages as S3 has them:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/ServerSideEncryptionCustomerKeys.html
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from typing import Any, Final

from common.errors import CloudError, Denied, InvalidArgument
from common.keyring import Keyring, KeyUnknown
from common.log import get_logger
from mallee.s3.v1.encryption_pb2 import ServerSideEncryptionConfiguration
from services.walrus import configs, errors
from services.walrus import object as object_rules
from services.walrus.cipher import KEY_BYTES
from services.walrus.drivers.base import Bucket, Upload
from services.walrus.store import Store

_log = get_logger(__name__)

AES256: Final = "AES256"
KMS: Final = ("aws:kms", "aws:kms:dsse", "aws:fsx")
_HEADER: Final = "x-amz-server-side-encryption"
_BY_STORE: Final = b"\x01"
_BY_CLIENT: Final = b"\x02"
_SALT_BYTES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Encryption:
    key: bytes = field(repr=False)
    # To be kept with the object.
    record: bytes


def of_new(store: Store, bucket: Bucket, request: Any) -> Encryption | None:
    """Of what PutObject, CopyObject or CreateMultipartUpload stores: as it asks, or as the bucket does."""
    brought = _brought(request)
    method = request.server_side_encryption
    if request.ssekms_key_id and method not in KMS:
        raise _bad(
            f"Server Side Encryption with AWS KMS managed key requires HTTP header {_HEADER} : {KMS[0]}",
            method,
        )
    if brought is not None:
        if method:
            raise _bad(
                "Server Side Encryption with Customer provided key is incompatible with the encryption method "
                "specified",
                method,
            )
        return Encryption(key=brought, record=_BY_CLIENT + _mark(secrets.token_bytes(_SALT_BYTES), brought))
    check_method(method)
    if not method and not is_said(bucket):
        return None
    key = secrets.token_bytes(KEY_BYTES)
    try:
        return Encryption(key=key, record=_BY_STORE + store.keyring.seal(key))
    except KeyUnknown as error:
        raise CloudError(f"Objects cannot be encrypted: {error}", code="InternalError") from error


def is_said(bucket: Bucket) -> bool:
    """Its owner wants what it holds encrypted."""
    return configs.find(bucket, ServerSideEncryptionConfiguration) is not None


def of_found(store: Store, request: Any, record: bytes) -> Encryption | None:
    """Of an object that is read. Raises InvalidArgument, Denied (AccessDenied) for another key."""
    brought = _brought(request)
    if record[:1] != _BY_CLIENT:
        if brought is not None:
            raise errors.invalid_request("The encryption parameters are not applicable to this object.")
        return _own(store, record)
    if brought is None:
        raise errors.invalid_request(
            "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to "
            "retrieve the object."
        )
    if not _is_marked(record, brought):
        raise Denied(
            "Requests specifying Server Side Encryption with Customer provided keys must provide the correct secret "
            "key.",
            code="AccessDenied",
        )
    return Encryption(key=brought, record=record)


def of_part(store: Store, request: Any, upload: Upload) -> Encryption | None:
    """Of a part: the upload's."""
    brought, record = _brought(request), upload.encryption
    if record[:1] != _BY_CLIENT:
        if brought is not None:
            raise errors.invalid_request(
                "The multipart upload initiate did not request encryption. Please resend the request without sending "
                "encryption parameters."
            )
        return _own(store, record)
    if brought is None:
        raise errors.invalid_request(
            "The multipart upload initiate requested encryption. Subsequent part requests must include the appropriate "
            "encryption parameters."
        )
    if not _is_marked(record, brought):
        raise errors.invalid_request("The provided encryption parameters did not match the ones used originally.")
    return Encryption(key=brought, record=record)


def check_brought(store: Store, request: Any, upload: Upload) -> None:
    """CompleteMultipartUpload and ListParts may bring the key, and read nothing with it."""
    if _brought(request) is not None:
        of_part(store, request, upload)


def check_method(method: str) -> None:
    """Of x-amz-server-side-encryption, or empty. There is no KMS."""
    if method in KMS:
        object_rules.default_only(_HEADER, method)
    if method not in ("", AES256):
        raise _bad("The encryption method specified is not supported", method)


def record_of(encryption: Encryption | None) -> bytes:
    return encryption.record if encryption else b""


def resealed(keyring: Keyring, record: bytes) -> bytes | None:
    """The same, with its key sealed by the newest master key. None: no master key opens it."""
    if record[:1] != _BY_STORE:
        return record
    try:
        key = keyring.open(record[1:])
        return record if keyring.is_newest(record[1:]) else _BY_STORE + keyring.seal(key)
    except KeyUnknown:
        return None


def is_by_client(record: bytes) -> bool:
    """The store cannot read it alone."""
    return record[:1] == _BY_CLIENT


def tell(answer: Any, request: Any, record: bytes) -> None:
    """Of what the request stored or read."""
    if is_by_client(record):
        answer.sse_customer_algorithm = AES256
        answer.sse_customer_key_md5 = request.sse_customer_key_md5
    elif record:
        answer.server_side_encryption = AES256


def _own(store: Store, record: bytes) -> Encryption | None:
    if not record:
        return None
    try:
        return Encryption(key=store.keyring.open(record[1:]), record=record)
    except KeyUnknown as error:
        _log.error("an object cannot be decrypted", why=str(error))
        raise CloudError(f"The object cannot be decrypted: {error}", code="InternalError") from error


def _brought(request: Any) -> bytes | None:
    """The client's key."""
    algorithm, encoded, md5 = request.sse_customer_algorithm, request.sse_customer_key, request.sse_customer_key_md5
    if not (algorithm or encoded or md5):
        return None
    must = "Requests specifying Server Side Encryption with Customer provided keys must provide"
    if not algorithm:
        raise _bad(f"{must} a valid encryption algorithm.", "null")
    if not encoded:
        raise _bad(f"{must} an appropriate secret key.", "null")
    if not md5:
        raise _bad(f"{must} the client calculated MD5 of the secret key.", "null")
    if algorithm != AES256:
        raise InvalidArgument(
            "The Encryption request you specified is not valid. Supported value: AES256.",
            code="InvalidEncryptionAlgorithmError",
            details={"ArgumentName": _HEADER, "ArgumentValue": algorithm},
        )
    key = _decoded(encoded)
    if len(key) != KEY_BYTES:
        raise _bad("The secret key was invalid for the specified algorithm.", "null")
    if _decoded(md5) != hashlib.md5(key, usedforsecurity=False).digest():
        raise _bad("The calculated MD5 hash of the key did not match the hash that was provided.", "null")
    return key


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _mark(salt: bytes, key: bytes) -> bytes:
    return salt + hmac.digest(salt, key, "sha256")


def _is_marked(record: bytes, key: bytes) -> bool:
    return hmac.compare_digest(record[1:], _mark(record[1 : 1 + _SALT_BYTES], key))


def _bad(message: str, value: str) -> InvalidArgument:
    return errors.invalid_argument(message, name=_HEADER, value=value)
