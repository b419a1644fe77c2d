"""The cloud on this machine as a whole: make it, start it, stop it, remove it. Every step may be repeated.

What it makes lies in its home folder or carries its cloud id, so that all of it is found again, also by a later version
and also when nothing of it runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common import shard_file
from common.config import CloudConfig, load
from common.keyring import OBJECT_KEYS, new_line
from common.pki import BUNDLE_OPENER, DOCUMENT_SIGNER, Identity, create_authority, create_self_signed, issue
from common.rpc.local import socket_path
from deploy import etcd, fabric, machine
from deploy.config_file import FILE_NAME, write
from deploy.guests import end_all_processes, end_storage, power_off_all
from deploy.home import LOST_AND_FOUND, check_new, check_place
from deploy.layout import Shape, new_config, reshaped, shape_of
from deploy.libvirt import QEMU_GROUP, write_files
from deploy.names import ADMIN, CLC, ETCD
from deploy.processes import Code, engine_services, services
from deploy.s6 import Supervisor

_READY_S: Final = 60.0
_SECRET_BYTES: Final = 32

Tell = Callable[[str], None]


class NoCloud(RuntimeError):
    """There is no cloud in this folder, or it cannot be read."""


@dataclass(frozen=True, slots=True)
class Site:
    """A cloud's home on this machine."""

    home: Path

    @property
    def config_file(self) -> Path:
        return self.home / FILE_NAME

    @property
    def supervisor(self) -> Supervisor:
        return Supervisor(self.home)

    def exists(self) -> bool:
        """Raises NoCloud for a folder that this user may not look into."""
        try:
            return self.config_file.exists()
        except PermissionError as error:
            raise NoCloud(f"{self.home}: {error.strerror}: choose another folder with --home") from error

    def config(self) -> CloudConfig:
        """Raises NoCloud, or ConfigError for a file that makes no sense."""
        if not self.exists():
            raise NoCloud(f"there is no cloud in {self.home}: 'mallee up' makes one, --home names another folder")
        return load(self.config_file)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One command at a time changes a cloud. Raises NoCloud when the folder cannot be made,
        or is another user's."""
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.home, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise NoCloud(f"{self.home}: {error.strerror}: choose another folder with --home") from error
        if not os.access(self.home, os.W_OK):
            raise NoCloud(f"{self.home} is {self.home.owner()}'s: run this as that user, or choose another with --home")
        try:
            yield
        finally:
            # A cloud that could not be begun leaves no folder; one with anything in it stays.
            with contextlib.suppress(OSError):
                self.home.rmdir()
            os.close(descriptor)


def is_fake(config: CloudConfig) -> bool:
    return config.nodes.hypervisor == "fake"


def shards_of(config: CloudConfig) -> range:
    """Numbers of the processes of Walrus."""
    return range(config.walrus.processes)


def plan(site: Site, asked: Callable[[Shape | None], Shape]) -> CloudConfig:
    """The configuration that `up` will bring about; changes nothing.

    `asked` gives what the operator wants, told what there is. Raises LayoutError, and Unmet
    for a home that has what is not a cloud's.
    """
    host = machine.survey(site.home)
    if not site.exists():
        check_new(site.home)
        shape = asked(None)
        user = "" if shape.fake else machine.SERVICE_USER
        return new_config(shape, host, cloud_id=secrets.token_hex(2), home=str(site.home), user=user)
    config = site.config()
    return reshaped(config, asked(shape_of(config)), host)


def bring_up(site: Site, config: CloudConfig, code: Code, tell: Tell) -> None:
    """Returns when every service is ready. Raises Unmet, FabricError, and ConfigError for stores that hold other shares
    of the buckets, before anything is made; SupervisorError after."""
    fake = is_fake(config)
    supervisor = site.supervisor
    for shard in shards_of(config):
        shard_file.check(config.walrus_path(shard), shard, config.walrus.processes)
    if not supervisor.pid():
        # Services whose supervisor was killed hold ports that would seem taken.
        supervisor.stop()
        machine.check(config, machine.survey(site.home), fake=fake)
    if not fake:
        fabric.check(config)
    tell("Making folders, keys and certificates")
    _make_files(site, config)
    if not fake:
        tell("Making the network of the virtual hosts")
        machine.allow_kvm()
        machine.widen_sockets()
        fabric.ensure(config)
        for zone in config.zones:
            for node in zone.nodes:
                write_files(config, node)
    tell("Starting etcd")
    first, rest = etcd.service(config), list(services(config, code))
    supervisor.ensure([first])
    admin = Identity.load(config.pki_path, ADMIN)
    etcd.wait_until_answers(config, admin, _READY_S)
    if etcd.ensure_room(config, admin):
        tell("etcd was full: made room in it")
    etcd.allow_members(config, admin)
    tell(f"Starting {len(rest)} services")
    supervisor.ensure([first, *rest])
    supervisor.drop({first.name, *(service.name for service in rest)})
    for service in rest:
        if service.notifies:
            tell(f"Waiting for {service.name}")
            supervisor.wait_ready(service.name, _READY_S)


def take_down(site: Site, code: Code, *, vms: bool, tell: Tell) -> None:
    """Stops the services. Guests run on, unless `vms`: powered off then, the next start boots them again."""
    config = site.config()
    supervisor = site.supervisor
    if vms and not is_fake(config):
        _power_off_guests(config, code, supervisor, tell)
    tell("Stopping the services")
    supervisor.stop(last=ETCD)


def _power_off_guests(config: CloudConfig, code: Code, supervisor: Supervisor, tell: Tell) -> None:
    """The node controllers are stopped first, lest they take it for the guests' own wish."""
    engines = list(engine_services(config))
    for zone in config.zones:
        for node in zone.nodes:
            supervisor.stop_one(node.name)
    supervisor.ensure(engines)
    tell("Powering off the virtual machines")
    power_off_all(config, code)
    for zone in config.zones:
        supervisor.stop_one(f"sc-{zone.name}")
    end_storage(config)


def remove(site: Site, tell: Tell) -> None:
    """Everything this cloud made on this machine, whether anything of it runs or not."""
    config = site.config()
    check_place(site.home)
    tell("Stopping the services")
    site.supervisor.stop(last=ETCD)
    end_storage(config)
    if not is_fake(config):
        tell("Removing virtual machines, networks and rules")
        end_all_processes(config)
        fabric.destroy(config)
    tell("Removing files")
    # The configuration last, by which the rest is still a cloud's if this ends early. The folder itself goes with the
    # lock on it, unless a file system is mounted there.
    for path in sorted(site.home.iterdir(), key=lambda path: path == site.config_file):
        if path.name == LOST_AND_FOUND:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _make_files(site: Site, config: CloudConfig) -> None:
    fake = is_fake(config)
    if not fake:
        machine.ensure_user()
    home, user = site.home, config.user
    machine.own([home], "", 0o755)
    # Before anything else: what a killed `up` leaves is then a cloud, to be brought up or destroyed.
    write(site.config_file, config)
    machine.own([home / "run", home / "log"], "", 0o755)
    # QEMU's user passes through to the disks of its guests, and nobody lists them.
    machine.own([home / "nodes"], "", 0o711)
    machine.own([home / "etcd", *map(config.walrus_path, shards_of(config)), home / "volumes"], user, 0o700)
    _make_socket_folders(config)
    if fake:
        machine.own((home / "nodes" / node.name for zone in config.zones for node in zone.nodes), "", 0o755)
    _make_keys(config)


def _make_socket_folders(config: CloudConfig) -> None:
    """QEMU's user may go through a folder to a socket whose name it knows, and what is made in it is its group's."""
    machine.own((socket_path(config, "walrus", shard).parent for shard in shards_of(config)), config.user, 0o700)
    for zone in config.zones:
        folder = config.sockets_path / f"sc-{zone.name}"
        machine.own([folder], config.user, 0o700)
        if not is_fake(config):
            os.chown(folder, -1, grp.getgrnam(QEMU_GROUP).gr_gid)
            folder.chmod(0o2710)


def _make_keys(config: CloudConfig) -> None:
    pki = config.pki_path
    machine.own([pki], "", 0o755)
    create_authority(pki)
    service, root = machine.ids_of(config.user), machine.ids_of("")
    own = (config.management_address, "127.0.0.1")
    walruses = ((member, "walrus") for member in config.walrus.shards)
    facades = ((member, "facade") for member in config.facade.members)
    for member, role in ((ETCD, "etcd"), (CLC, "clc"), *walruses, *facades):
        issue(pki, member, role, ips=own, owner=service)
    issue(pki, ADMIN, ADMIN, owner=root)
    for zone in config.zones:
        for role in ("cc", "sc"):
            issue(pki, f"{role}-{zone.name}", role, ips=own, owner=service)
        for node in zone.nodes:
            issue(pki, node.name, "nc", ips=(node.address,), owner=root if node.namespace else service)
    create_self_signed(pki, DOCUMENT_SIGNER, owner=service if is_fake(config) else root)
    create_self_signed(pki, BUNDLE_OPENER, owner=service)
    made = {"master.key": secrets.token_bytes, "ticket.key": secrets.token_bytes, OBJECT_KEYS: new_line}
    for name, make in made.items():
        path = pki / name
        if not path.exists():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(make(_SECRET_BYTES))
        os.chown(path, *service)
