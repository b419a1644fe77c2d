"""Upload policies: a bucket's owner lets bundles be stored there in its name. Pure.

(Amazon S3 API reference, "POST policy"; EC2 API reference, S3Storage.)
"""

from __future__ import annotations

import base64
import datetime
import hmac
import json
from typing import Any, Final

from common.errors import Unauthenticated

_MAX_BYTES: Final = 16 << 10


def check(policy: bytes, signature: str, *, secret: str, bucket: str, prefix: str, now: float) -> None:
    """`policy` as it was signed, in base64. Raises Unauthenticated (AuthFailure) with what is wrong."""
    wanted = base64.b64encode(hmac.digest(secret.encode(), policy, "sha1")).decode()
    if not hmac.compare_digest(wanted.encode(), signature.encode()):
        raise _refused("its signature is not that of the access key")
    try:
        said = json.loads(base64.b64decode(policy[:_MAX_BYTES], validate=True))
        until = datetime.datetime.fromisoformat(said["expiration"].replace("Z", "+00:00"))
        conditions = list(said["conditions"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _refused("it is no policy") from error
    if until.tzinfo is None or until.timestamp() <= now:
        raise _refused("it has expired")
    if not _meets(conditions, "bucket", bucket):
        raise _refused(f"it is not for the bucket {bucket}")
    if not _meets(conditions, "key", prefix):
        raise _refused(f"it is not for keys that begin with {prefix}")


def _meets(conditions: list[Any], field: str, value: str) -> bool:
    for condition in conditions:
        match condition:
            case {**only} if only.get(field) == value:
                return True
            case ["eq", name, exactly] if name == f"${field}" and exactly == value:
                return True
            case ["starts-with", name, start] if name == f"${field}" and value.startswith(str(start)):
                return True
    return False


def _refused(why: str) -> Unauthenticated:
    return Unauthenticated(f"The upload policy is refused: {why}.", code="AuthFailure")
