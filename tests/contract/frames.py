"""Ethernet frames made by hand, for guests that lie."""

from __future__ import annotations

import socket
import struct
import time
from ipaddress import IPv4Address


def ethernet(destination: str, source: str, kind: int, payload: bytes) -> bytes:
    return bytes.fromhex(destination.replace(":", "") + source.replace(":", "")) + kind.to_bytes(2, "big") + payload


def udp(source: str, destination: str, source_port: int, port: int, body: bytes) -> bytes:
    datagram = struct.pack("!HHHH", source_port, port, 8 + len(body), 0) + body
    head = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        20 + len(datagram),
        1,
        0,
        64,
        17,
        0,
        IPv4Address(source).packed,
        IPv4Address(destination).packed,
    )
    total: int = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + (~total & 0xFFFF).to_bytes(2, "big") + head[12:] + datagram


def arp(operation: int, sender_mac: str, sender: str, target: str) -> bytes:
    mac = bytes.fromhex(sender_mac.replace(":", ""))
    return struct.pack(
        "!HHBBH6s4s6s4s",
        1,
        0x0800,
        6,
        4,
        operation,
        mac,
        IPv4Address(sender).packed,
        bytes(6),
        IPv4Address(target).packed,
    )


def hears(wire: socket.socket, claim: bytes, *, within_s: float = 0.3) -> bool:
    """Whether a frame containing `claim` arrives."""
    deadline = time.monotonic() + within_s
    while (left := deadline - time.monotonic()) > 0:
        wire.settimeout(left)
        try:
            if claim in wire.recv(4096):
                return True
        except TimeoutError:
            return False
    return False
