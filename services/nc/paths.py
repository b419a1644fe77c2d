"""Where a node keeps its things, under <home>/nodes/<member>. QEMU may pass through its folders, never list them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.ids import InstanceId


@dataclass(frozen=True, slots=True)
class NodePaths:
    root: Path

    @property
    def instances(self) -> Path:
        return self.root / "instances"

    @property
    def gone(self) -> Path:
        """The journal of instances that were here and are no more."""
        return self.root / "gone.log"

    @property
    def consoles(self) -> Path:
        """The ends of the consoles of instances that are no more, for as long as the journal tells of them."""
        return self.root / "consoles"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def bundles(self) -> Path:
        """Copies of disks on their way to a bucket."""
        return self.root / "bundles"

    @property
    def plans(self) -> Path:
        return self.root / "plans"

    @property
    def epoch(self) -> Path:
        return self.root / "epoch"

    @property
    def lock(self) -> Path:
        return self.root / "nc.lock"

    @property
    def fake(self) -> Path:
        """State of the fake hypervisor."""
        return self.root / "fake"

    @property
    def libvirt_socket(self) -> Path:
        return self.root / "run" / "libvirt" / "libvirt-sock"

    @property
    def libvirt_logs(self) -> Path:
        """One per domain, from QEMU."""
        return self.root / "libvirt" / "log" / "qemu"

    def instance(self, instance_id: InstanceId) -> Path:
        return self.instances / instance_id

    def disk(self, instance_id: InstanceId) -> Path:
        return self.instance(instance_id) / "disk.qcow2"

    def space(self, instance_id: InstanceId, index: int) -> Path:
        """An ephemeral disk."""
        return self.instance(instance_id) / f"ephemeral{index}.raw"

    def spaces(self, instance_id: InstanceId) -> Iterator[Path]:
        yield from self.instance(instance_id).glob("ephemeral*.raw")

    def console(self, instance_id: InstanceId) -> Path:
        return self.instance(instance_id) / "console.log"

    def last_console(self, instance_id: InstanceId) -> Path:
        return self.consoles / f"{instance_id}.log"

    def make(self) -> None:
        for folder in (self.root, self.instances, self.consoles, self.cache, self.plans):
            folder.mkdir(mode=0o711, parents=True, exist_ok=True)
            folder.chmod(0o711)


def write_durably(path: Path, content: bytes) -> None:
    """The old content or the new one, whatever happens; on disk when it returns. Readable by its owner alone."""
    new = path.with_name(path.name + ".new")
    try:
        # A file object: write(2) itself takes but a part where the disk is nearly full.
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        new.unlink(missing_ok=True)
        raise
    new.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
