"""ARP by hand: frames, and asking interfaces whether their guests answer. (RFC 826.)"""

from __future__ import annotations

import ipaddress
import select
import socket
import struct
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

ETHERTYPE: Final = 0x0806
_FRAME: Final = struct.Struct("!6s6sHHHBBH6s4s6s4s")
_REQUEST: Final = 1
_REPLY: Final = 2
_BROADCAST: Final = b"\xff" * 6
# A guest is asked so often before it counts as silent; a busy one may lose a frame.
_TRIES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """An address, and the link behind which it should be."""

    link: str
    address: str
    asker_mac: str
    asker_address: str


def request(*, mac: bytes, sender: str, target: str) -> bytes:
    return _FRAME.pack(
        _BROADCAST, mac, ETHERTYPE, 1, 0x0800, 6, 4, _REQUEST, mac, _packed(sender), bytes(6), _packed(target)
    )


def answering(asked: Collection[Asked], *, within_s: float) -> set[str]:
    """The links whose address answers. Blocks for `within_s` if one does not. For a thread in their namespace."""
    silent = {(one.link, _packed(one.address)): one for one in asked}
    answered: set[str] = set()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE)) as wire:
        for _ in range(_TRIES):
            for one in silent.values():
                mac = bytes.fromhex(one.asker_mac.replace(":", ""))
                try:
                    wire.sendto(request(mac=mac, sender=one.asker_address, target=one.address), (one.link, ETHERTYPE))
                except OSError:
                    # Its link has just gone, or nobody holds it: as silent as can be.
                    continue
            until = time.monotonic() + within_s / _TRIES
            while silent and select.select([wire], [], [], max(0.0, until - time.monotonic()))[0]:
                frame, (link, *_) = wire.recvfrom(_FRAME.size)
                if (heard := silent.pop((link, _replier(frame)), None)) is not None:
                    answered.add(heard.link)
            if not silent:
                break
    return answered


def _replier(frame: bytes) -> bytes:
    """The address that a reply is from; nothing for any other frame."""
    if len(frame) < _FRAME.size:
        return b""
    *_, operation, _, sender, _, _ = _FRAME.unpack(frame)
    return bytes(sender) if operation == _REPLY else b""


def _packed(address: str) -> bytes:
    return ipaddress.IPv4Address(address).packed
