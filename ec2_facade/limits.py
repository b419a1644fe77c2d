"""What one client, and all of them together, may cost a host: sizes, counts and times."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from ec2_facade.errors import Refused

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    # One line of the head, one header; and the head as a whole, in bytes.
    line_bytes: int = 64 << 10
    head_bytes: int = 128 << 10
    headers: int = 256
    # From the connection, or the last answer, to the end of a request's head.
    head_s: float = 30.0
    # Open connections: of all clients, and from one address (all guests of a node may
    # share one) that is no trusted proxy.
    connections: int = 2048
    connections_per_address: int = 1024
    # A body or an answer that does not move at all, and the least that it moves on average in a window.
    idle_s: float = 30.0
    window_s: float = 60.0
    window_bytes: int = 32 << 10
    # Bodies that are read whole: of Query requests, of S3's XML; together over all connections; of those who gave no
    # credentials; and how long.
    form_bytes: int = 512 << 10
    xml_bytes: int = 4 * MIB
    held_bytes: int = 256 * MIB
    strangers_held_bytes: int = 32 * MIB
    held_s: float = 60.0
    # Uploads and downloads under way at once: each holds a few MiB.
    transfers: int = 512
    # S3's own: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
    object_bytes: int = 5 << 30
    # Rest of a refused body that is read and thrown away, so that the client sees the answer.
    linger_s: float = 5.0
    # One message of a stream between services.
    chunk_bytes: int = MIB
    # What a service may take to answer a call, and to end an upload.
    # RegisterImage reads its whole image; boto3 itself gives up after 60 s.
    call_s: float = 60.0
    commit_s: float = 120.0
    # The same of copies and completed uploads, whose answers are begun after `alive_s` and go on so often.
    long_s: float = 3600.0
    alive_s: float = 5.0

    def of_one_among(self, processes: int) -> Self:
        """Of a process beside others: its part of the memory. Connections are counted by each for itself."""
        return replace(
            self,
            # The largest body that there may be has room.
            held_bytes=max(self.xml_bytes, self.held_bytes // processes),
            strangers_held_bytes=max(self.xml_bytes, self.strangers_held_bytes // processes),
            transfers=max(1, self.transfers // processes),
        )


class Transfers:
    """Uploads and downloads under way: `with` it around each. Raises Refused when there are too many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0

    def __enter__(self) -> None:
        if self._count >= self._most:
            raise Refused("SlowDown", "Please reduce your request rate.", status=503)
        self._count += 1

    def __exit__(self, *_: object) -> None:
        self._count -= 1
