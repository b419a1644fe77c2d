"""The way into a volume from another host: NBD over mutual TLS, for one certificate's name.

A storage daemon of its own, between the client and the volume's daemon: ending it is the fence, and what the volume's
daemon holds in memory outlasts a change of clients.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.sc.drivers.base import ExportGrant
from services.sc.drivers.qsd.daemon import Daemon, Refused
from services.sc.drivers.qsd.layout import VolumePlace

_PATIENCE_S: Final = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorKeys:
    """What a door shows and believes; `folder` as QEMU wants it (`write`)."""

    folder: Path
    # That clients reach.
    address: str

    def write(self, *, ca_pem: bytes, certificate_pem: bytes, key_pem: bytes) -> None:
        """https://www.qemu.org/docs/master/system/tls.html"""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        contents = {"ca-cert.pem": ca_pem, "server-cert.pem": certificate_pem, "server-key.pem": key_pem}
        for name, content in contents.items():
            new = self.folder / f".{name}"
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(content)
            new.replace(self.folder / name)


class Door:
    def __init__(self, place: VolumePlace, keys: DoorKeys, *, died: Callable[[], None]) -> None:
        self._place = place
        self._keys = keys
        self._daemon = Daemon(pid_file=place.private("door-pid"), monitor=place.private("door-qmp"), died=died)

    @property
    def runs(self) -> bool:
        return self._daemon.runs

    def free_port(self) -> int:
        with socket.create_server((self._keys.address, 0)) as listener:
            port: int = listener.getsockname()[1]
            return port

    async def open(self, grant: ExportGrant, name: str, port: int) -> None:
        """One that stands is left alone."""
        if await self._daemon.adopt():
            if await self._daemon.ask("query-block-exports"):
                return
            await self._daemon.end()
        await self._daemon.start()
        try:
            await self._make(grant, name, port)
        except Refused:
            await self._daemon.end()
            raise

    async def end(self) -> None:
        await self._daemon.end()

    async def let_go(self) -> None:
        await self._daemon.let_go()

    async def _make(self, grant: ExportGrant, name: str, port: int) -> None:
        """The export last: from it one sees that all is there."""
        ask = self._daemon.ask
        creds = {"endpoint": "server", "dir": str(self._keys.folder), "verify-peer": True}
        await ask("object-add", qom_type="tls-creds-x509", id="tls", **creds)
        rules = [{"match": f"CN={grant.node}", "policy": "allow", "format": "exact"}]
        await ask("object-add", qom_type="authz-list", id="client", policy="deny", rules=rules)
        await ask(
            "blockdev-add",
            driver="nbd",
            node_name="volume",
            server={"type": "unix", "path": str(self._place.private("nbd"))},
            export=name,
            reconnect_delay=_PATIENCE_S,
            discard="unmap",
        )
        await ask(
            "nbd-server-start",
            addr={"type": "inet", "data": {"host": self._keys.address, "port": str(port)}},
            tls_creds="tls",
            tls_authz="client",
        )
        await ask("block-export-add", type="nbd", id="guest", node_name="volume", name=name, writable=True)
