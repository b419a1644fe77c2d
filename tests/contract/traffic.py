"""Connections between namespaces: an echo server, dialling, and one ping by hand."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading

from common import netns


class Server:
    """Echoes what it hears, each connection on a thread, until it is closed. Empty namespace: the test's own."""

    def __init__(self, namespace: str, port: int, address: str = "0.0.0.0") -> None:
        def make() -> socket.socket:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            listener.listen(16)
            return listener

        self._listener = netns.inside(namespace, make) if namespace else make()
        self.port: int = self._listener.getsockname()[1]
        self.peers: list[str] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, peer = self._listener.accept()
                self.peers.append(peer[0])
                threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

    @staticmethod
    def _echo(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while piece := connection.recv(65536):
                connection.sendall(piece)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def dial(namespace: str, address: str, port: int, *, within_s: float = 2.0) -> socket.socket:
    def make() -> socket.socket:
        connection = socket.socket()
        connection.settimeout(within_s)
        try:
            connection.connect((address, port))
        except OSError:
            connection.close()
            raise
        return connection

    return netns.inside(namespace, make) if namespace else make()


def reaches(namespace: str, address: str, port: int, *, within_s: float = 0.7) -> bool:
    try:
        with dial(namespace, address, port, within_s=within_s) as connection:
            return echoes(connection, within_s=within_s)
    except OSError:
        return False


def echoes(connection: socket.socket, *, within_s: float = 2.0) -> bool:
    """Whether the other end still answers."""
    connection.settimeout(within_s)
    try:
        connection.sendall(b"hello")
        return connection.recv(100) == b"hello"
    except OSError:
        return False


def pings(namespace: str, address: str, *, within_s: float = 0.7) -> bool:
    """One ICMP echo, by hand: no ping program needed."""

    def make() -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)

    with netns.inside(namespace, make) if namespace else make() as wire:
        wire.settimeout(within_s)
        ident = os.getpid() & 0xFFFF
        try:
            wire.sendto(echo_request(ident), (address, 0))
            while True:
                answer, (peer, _) = wire.recvfrom(2048)
                if peer == address and answer[20] == 0 and answer[24:26] == ident.to_bytes(2, "big"):
                    return True
        except OSError:
            return False


def echo_request(ident: int) -> bytes:
    """ICMP type 8 with its checksum (RFC 792)."""
    total = sum(struct.unpack("!4H", struct.pack("!BBHHH", 8, 0, 0, ident, 1)))
    check = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return struct.pack("!BBHHH", 8, 0, check, ident, 1)
