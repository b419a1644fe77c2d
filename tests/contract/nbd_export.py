"""A volume's export as a storage controller makes it, by a qemu-storage-daemon of the test's own."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from services.nc.drivers.base import Disk, ExportSource
from tests.ports import free_port

VOLUME = "vol-0123456789abcdef0"


@dataclass
class NbdExport:
    folder: Path
    size_bytes: int
    # With certificates in it: over TLS.
    tls: Path | None = None
    port: int = field(default_factory=free_port)
    place: int = 0
    _daemon: subprocess.Popen[bytes] | None = None

    @property
    def file(self) -> Path:
        return self.folder / "volume.raw"

    @property
    def socket(self) -> Path:
        return self.folder / f"volume{self.place}.sock"

    def start(self) -> None:
        if not self.file.exists() or self.file.stat().st_size < self.size_bytes:
            with self.file.open("ab") as file:
                file.truncate(self.size_bytes)
        self.socket.unlink(missing_ok=True)
        server = f"addr.type=unix,addr.path={self.socket}"
        credentials = []
        if self.tls is not None:
            credentials = ["--object", f"tls-creds-x509,id=tls,endpoint=server,dir={self.tls},verify-peer=on"]
            server = f"addr.type=inet,addr.host=127.0.0.1,addr.port={self.port},tls-creds=tls"
        note = self.folder / f"volume{self.place}.pid"
        note.unlink(missing_ok=True)
        # Whoever connects must be able to; in a cloud the folder's rights decide.
        before = os.umask(0)
        try:
            self._daemon = subprocess.Popen(
                [
                    *("qemu-storage-daemon", *credentials, "--pidfile", str(note)),
                    *("--blockdev", f"driver=file,node-name=f,filename={self.file},locking=off"),
                    *("--blockdev", "driver=raw,node-name=v,file=f,discard=unmap"),
                    *("--nbd-server", server, "--export", f"nbd,id=e,node-name=v,name={VOLUME},writable=on"),
                ]
            )
        finally:
            os.umask(before)
        while not note.exists():
            assert self._daemon.poll() is None, "the storage daemon ended"

    def hang(self) -> None:
        """What is asked of it waits."""
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """As a crash would."""
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()

    def disk(self, *, slot: int = 5, generation: int = 1, boots: bool = False) -> Disk:
        source = ExportSource(name=VOLUME, socket=self.socket)
        if self.tls is not None:
            source = ExportSource(name=VOLUME, address="127.0.0.1", port=self.port, server_name="sc-us-east-1a")
        return Disk(
            slot=slot,
            source=source,
            size_bytes=self.size_bytes,
            boots=boots,
            volume_id=VOLUME,
            generation=generation,
        )
