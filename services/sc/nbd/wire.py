"""Numbers and frames of the NBD protocol that client and server share.

https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
"""

from __future__ import annotations

import struct
from typing import Final

GREETING: Final = b"NBDMAGIC"
OPTION_MAGIC: Final = 0x49484156454F5054
OPTION_REPLY_MAGIC: Final = 0x3E889045565A9
REQUEST_MAGIC: Final = 0x25609513
SIMPLE_REPLY_MAGIC: Final = 0x67446698
STRUCTURED_REPLY_MAGIC: Final = 0x668E33EF

FLAG_FIXED_NEWSTYLE: Final = 1
FLAG_NO_ZEROES: Final = 2

OPT_EXPORT_NAME: Final = 1
OPT_ABORT: Final = 2
OPT_INFO: Final = 6
OPT_GO: Final = 7
OPT_STRUCTURED_REPLY: Final = 8
OPT_LIST_META_CONTEXT: Final = 9
OPT_SET_META_CONTEXT: Final = 10

REP_ACK: Final = 1
REP_INFO: Final = 3
REP_META_CONTEXT: Final = 4
REP_ERROR: Final = 1 << 31
REP_ERR_UNSUP: Final = REP_ERROR + 1
REP_ERR_UNKNOWN: Final = REP_ERROR + 6

INFO_EXPORT: Final = 0
INFO_BLOCK_SIZE: Final = 3

EXPORT_HAS_FLAGS: Final = 1 << 0
EXPORT_READ_ONLY: Final = 1 << 1
EXPORT_SEND_DF: Final = 1 << 7
EXPORT_MULTI_CONN: Final = 1 << 8

CMD_READ: Final = 0
CMD_WRITE: Final = 1
CMD_DISC: Final = 2
CMD_FLUSH: Final = 3
CMD_CACHE: Final = 5
CMD_BLOCK_STATUS: Final = 7

# Of a request: one extent at most.
CMD_FLAG_REQ_ONE: Final = 1 << 3

CHUNK_DONE: Final = 1
CHUNK_NONE: Final = 0
CHUNK_DATA: Final = 1
CHUNK_HOLE: Final = 2
CHUNK_STATUS: Final = 5
CHUNK_ERROR_BIT: Final = 1 << 15
CHUNK_ERROR: Final = CHUNK_ERROR_BIT + 1

EPERM: Final = 1
EIO: Final = 5
EINVAL: Final = 22

# Of the context base:allocation.
ALLOCATION: Final = "base:allocation"
STATE_HOLE: Final = 1
STATE_ZERO: Final = 2
# Of a context qemu:dirty-bitmap:NAME.
STATE_DIRTY: Final = 1

# What every server of ours and QEMU's take and give in one request.
MOST_BYTES: Final = 32 << 20

OPTION: Final = struct.Struct(">QII")
OPTION_REPLY: Final = struct.Struct(">QIII")
REQUEST: Final = struct.Struct(">IHHQQI")
# Behind their magic.
SIMPLE_REPLY: Final = struct.Struct(">IQ")
CHUNK: Final = struct.Struct(">HHQI")
MAGIC: Final = struct.Struct(">I")
OFFSET: Final = struct.Struct(">Q")
EXTENT: Final = struct.Struct(">II")
U16: Final = struct.Struct(">H")
U32: Final = struct.Struct(">I")
EXPORT_INFO: Final = struct.Struct(">HQH")
SIZES_INFO: Final = struct.Struct(">HIII")


def named(name: str) -> bytes:
    encoded = name.encode()
    return U32.pack(len(encoded)) + encoded
