"""What the configuration says of Walrus: [walrus] of the cloud's file. Raises ValueError for what makes no sense."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final, Literal

from common.shards import MOST, Shards


@dataclass(frozen=True, slots=True, kw_only=True)
class EventTargetConfig:
    """Where buckets may send notifications: an ARN of SNS, SQS or Lambda that ends in its name means its URL."""

    name: str
    # http://host:port/path
    url: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,80}", self.name):
            raise ValueError(f"name: expected letters, digits, - and _, found {self.name!r}")
        if not re.match(r"https?://[^/]", self.url):
            raise ValueError(f"url: expected http://host:port/path, found {self.url!r}")


# What CreateBucket makes where the request does not say: as AWS does today, or as it did before April 2023, when ACLs
# counted and nothing was kept from the public.
NewBuckets = Literal["present", "before-2023"]

# Where the ports of further processes of Walrus begin, less one, above that of the first: behind those of all else.
_PORTS_ABOVE: Final = 159


@dataclass(frozen=True, slots=True, kw_only=True)
class WalrusConfig:
    # How many processes share the buckets. It holds for as long as the store does.
    processes: int = 1
    # Of the first process; those of the nth of several are 158 + n above.
    port: int = 8775
    metrics_port: int = 9775
    # Objects up to this size stand in the index itself.
    inline_bytes: int = 32768
    # Writes are refused when the file system would have less than this left.
    reserve_bytes: int = 1 << 30
    # All that is stored is compared with its checksums once in so many days, at this rate at most. 0 bytes: never.
    scrub_days: float = 14.0
    scrub_bytes_per_s: int = 16 << 20
    # How long a day of lifecycle rules lasts. Less than 86,400 is for those who try their rules.
    lifecycle_day_s: float = 86400.0
    # How often server access logs become objects of their target buckets.
    access_log_s: float = 300.0
    new_buckets: NewBuckets = "present"
    event_targets: tuple[EventTargetConfig, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.processes <= MOST:
            raise ValueError(f"processes: expected 1 to {MOST}")
        if not 0 < self.scrub_days < math.inf:
            raise ValueError("scrub_days: expected more than 0")
        if not 1 <= self.lifecycle_day_s <= 86400:
            raise ValueError("lifecycle_day_s: expected 1 to 86400")

    @property
    def shards(self) -> Shards:
        """The processes, and which bucket is whose."""
        return Shards("walrus", self.processes)

    def port_of(self, shard: int) -> int:
        return self.port + self._above(shard)

    def metrics_port_of(self, shard: int) -> int:
        return self.metrics_port + self._above(shard)

    def _above(self, shard: int) -> int:
        return _PORTS_ABOVE + shard if shard else 0
