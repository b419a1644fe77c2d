"""What begins a call on a unix socket: the method, and what gRPC would send as metadata."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from common.errors import InvalidArgument

_LENGTHS: Final = struct.Struct("!BHHI")


# Of an extent: its first byte in the file, and the one behind its last.
SPAN: Final = struct.Struct("!QQ")
# Of the header before a whole body.
HEADER: Final = struct.Struct("!I")
# Of what was written.
LENGTH: Final = struct.Struct("!Q")


# A tuple: each request makes one, and a frozen dataclass takes twice the time.
class Call(NamedTuple):
    # /package.Service/Method
    method: str
    request_id: str
    # A serialized Caller; empty: the cloud's own work.
    caller: bytes
    # The only message of a call that streams none; of an upload empty, its messages follow.
    message: bytes
    # The client waits to be told that the header of its upload is accepted, and may be given a file for its body.
    asks: bool = False

    def to_bytes(self) -> bytes:
        method, request_id = self.method.encode(), self.request_id.encode()
        lengths = _LENGTHS.pack(self.asks, len(method), len(request_id), len(self.caller))
        return b"".join((lengths, method, request_id, self.caller, self.message))

    @classmethod
    def from_bytes(cls, raw: bytes) -> Call:
        """Raises InvalidArgument."""
        try:
            asks, *lengths = _LENGTHS.unpack_from(raw)
            parts = []
            at = _LENGTHS.size
            for length in lengths:
                parts.append(raw[at : at + length])
                at += length
            if at > len(raw):
                raise InvalidArgument("a call is cut off")
            return cls(parts[0].decode(), parts[1].decode(), parts[2], raw[at:], bool(asks))
        except (struct.error, UnicodeDecodeError) as error:
            raise InvalidArgument("not a call") from error
