"""Which version a write makes and a request names. Pure.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/versioning-workflows.html
"""

from __future__ import annotations

import re
import secrets
from typing import Any, Final

from mallee.s3.v1.versioning_pb2 import VersioningConfiguration
from services.walrus import configs, errors
from services.walrus.drivers.base import Bucket
from services.walrus.drivers.versions import NULL, NULL_SHOWN

ENABLED: Final = "Enabled"
SUSPENDED: Final = "Suspended"
# As they are made; and as markers of lifecycle rules were once named.
_ID: Final = re.compile(r"[0-9A-Za-z_-]{32}\Z")


def state_of(bucket: Bucket) -> str:
    """Enabled, Suspended, or empty for a bucket that never kept versions."""
    found = configs.find(bucket, VersioningConfiguration)
    return found.status if found else ""


def new_id(bucket: Bucket) -> str:
    """Of what is written now: it says nothing, the order of versions is the order of commits."""
    return secrets.token_hex(16) if state_of(bucket) == ENABLED else NULL


def is_one(version_id: str) -> bool:
    """By its form: whether there could be one."""
    return version_id == NULL_SHOWN or bool(_ID.match(version_id))


def asked(version_id: str) -> str | None:
    """As a client says it; empty: the newest one, None. Raises InvalidArgument."""
    if not version_id:
        return None
    if not is_one(version_id):
        raise errors.invalid_argument("Invalid version id specified", name="versionId", value=version_id)
    return NULL if version_id == NULL_SHOWN else version_id


def asked_by(request: Any) -> str | None:
    """Of a request about one object."""
    if request.HasField("version_id") and not request.version_id:
        raise errors.invalid_argument("Version id cannot be the empty string", name="versionId", value="")
    return asked(request.version_id)


def shown(version_id: str) -> str:
    return version_id or NULL_SHOWN


def told(bucket: Bucket, version_id: str) -> str | None:
    """For x-amz-version-id, which buckets that never kept versions do not have."""
    return shown(version_id) if state_of(bucket) else None
