"""The clock as an argument: rules and use cases take it, so that tests turn it."""

from __future__ import annotations

import time
from collections.abc import Callable

from google.protobuf.timestamp_pb2 import Timestamp

# Seconds since the epoch.
Clock = Callable[[], float]
system_clock: Clock = time.time


def timestamp(seconds: float) -> Timestamp:
    """Rounded to milliseconds, which is what AWS shows."""
    stamp = Timestamp()
    stamp.FromMilliseconds(int(seconds * 1000))
    return stamp


def written(stamp: Timestamp) -> str:
    """As EC2 shows a time, and takes it in filters: 2026-01-31T12:00:00.000Z."""
    return f"{stamp.ToDatetime():%Y-%m-%dT%H:%M:%S}.{stamp.nanos // 1_000_000:03}Z"


def gmt(seconds: float) -> str:
    """2026-01-31 12:00:00 GMT, as in StateTransitionReason."""
    return time.strftime("%Y-%m-%d %H:%M:%S GMT", time.gmtime(seconds))
