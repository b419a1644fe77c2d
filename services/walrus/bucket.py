"""Rules of buckets. Pure.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
"""

from __future__ import annotations

import ipaddress
import re

from common.errors import Denied, InvalidArgument
from mallee.common.v1.caller_pb2 import Caller

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")
_RESERVED_PREFIXES = ("xn--", "sthree-", "amzn-s3-demo-")
_RESERVED_SUFFIXES = ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")


def check_name(name: str) -> None:
    if not is_name(name):
        raise InvalidArgument(
            "The specified bucket is not valid.", code="InvalidBucketName", details={"BucketName": name}
        )


def is_name(name: str) -> bool:
    return bool(
        _NAME.match(name)
        # What the host name would show as a label of its own begins and ends with a letter or digit.
        and not any(pair in name for pair in ("..", ".-", "-."))
        and not name.startswith(_RESERVED_PREFIXES)
        and not name.endswith(_RESERVED_SUFFIXES)
        and not _is_address(name)
    )


def check_location(constraint: str, region: str) -> None:
    """A bucket is made in the region that was asked, or not at all."""
    if constraint in (region, "" if region == "us-east-1" else region):
        return
    if not constraint:
        raise InvalidArgument(
            "The unspecified location constraint is incompatible for the region specific endpoint this request was "
            "sent to.",
            code="IllegalLocationConstraintException",
        )
    raise InvalidArgument(
        f"The {constraint} location constraint is incompatible for the region specific endpoint this request was sent "
        "to.",
        code="IllegalLocationConstraintException",
    )


def caller_or_refuse(caller: Caller | None) -> Caller:
    """Objects are read and written for somebody: the cloud itself has none."""
    if caller is None or not caller.account_id:
        raise Denied("Access Denied", code="AccessDenied")
    return caller


def _is_address(name: str) -> bool:
    try:
        ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return True
