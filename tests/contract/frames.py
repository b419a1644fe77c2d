"""Ethernet frames made by hand, for guests that lie."""

from __future__ import annotations

import socket
import struct
import time
from ipaddress import IPv4Address


def ethernet(destination: str, source: str, kind: int, payload: bytes) -> bytes:
    return bytes.fromhex(destination.replace(":", "") + source.replace(":", "")) + kind.to_bytes(2, "big") + payload


def tagged(vlan: int, frame: bytes, *, kind: int = 0x8100) -> bytes:
    """The frame with an 802.1Q (0x8100) or 802.1ad (0x88A8) tag."""
    return frame[:12] + struct.pack("!HH", kind, vlan) + frame[12:]


def udp(source: str, destination: str, source_port: int, port: int, body: bytes) -> bytes:
    return ipv4(source, destination, datagram(source_port, port, body))


def datagram(source_port: int, port: int, body: bytes) -> bytes:
    """UDP without a checksum, which IPv4 allows."""
    return struct.pack("!HHHH", source_port, port, 8 + len(body), 0) + body


def ipv4(
    source: str, destination: str, payload: bytes, *, ident: int = 1, offset_bytes: int = 0, more: bool = False
) -> bytes:
    """A UDP packet, or with `offset_bytes` and `more` a piece of one."""
    head = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        20 + len(payload),
        ident,
        (0x2000 if more else 0) | offset_bytes // 8,
        64,
        17,
        0,
        IPv4Address(source).packed,
        IPv4Address(destination).packed,
    )
    total: int = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + (~total & 0xFFFF).to_bytes(2, "big") + head[12:] + payload


def dhcp_decline(card: str, address: str, server: str) -> bytes:
    """DHCPDECLINE (RFC 2131, 3.1.5): `card` says that `address` is somebody else's."""
    fixed = struct.pack("!BBBBIHH16x16s192x", 1, 1, 6, 0, 7, 0, 0, bytes.fromhex(card.replace(":", "")))
    options = bytes([53, 1, 4, 50, 4, *IPv4Address(address).packed, 54, 4, *IPv4Address(server).packed, 255])
    return fixed + b"\x63\x82\x53\x63" + options


def vxlan(vni: int, frame: bytes) -> bytes:
    """RFC 7348, to be put into a datagram."""
    return struct.pack("!II", 0x08000000, vni << 8) + frame


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
