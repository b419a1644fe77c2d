"""The command's way into a running cloud: gRPC as the member `admin`, etcd through etcd3."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from common.config import CloudConfig
from common.errors import Unavailable
from common.pki import Identity
from common.rpc.channel import connect
from deploy.cloud import NoCloud, Site
from deploy.names import ADMIN, CLC
from mallee.clc.v1 import service_pb2_grpc
from mallee.common.v1.caller_pb2 import Member
from mallee.sc.v1.service_pb2 import DescribeStorageRequest, StorageCapacity
from mallee.sc.v1.service_pb2_grpc import StorageControllerServiceStub

if TYPE_CHECKING:
    from mallee.clc.v1.service_pb2_grpc import AdministrationServiceAsyncStub as Administration

T = TypeVar("T")

_MEMBERS = "/mallee/members/"
_ELECTIONS = "/mallee/election/"


@dataclass(frozen=True, slots=True)
class Client:
    config: CloudConfig
    identity: Identity

    @staticmethod
    def of(site: Site) -> Client:
        """Raises NoCloud when this user may not administer it."""
        config = site.config()
        key = config.pki_path / f"{ADMIN}-key.pem"
        try:
            key.read_bytes()
        except PermissionError as error:
            raise NoCloud(f"{key} is readable by {key.owner()} alone: run this as {key.owner()}") from error
        return Client(config, Identity.load(config.pki_path, ADMIN))

    def ask(self, question: Callable[[Administration], Awaitable[T]]) -> T:
        """One exchange with the CLC. Raises CloudError; Unavailable says how to start the cloud."""

        async def exchange() -> T:
            address = f"{self.config.management_address}:{self.config.clc.port}"
            async with connect(address, self.identity, CLC) as channel:
                return await question(service_pb2_grpc.AdministrationServiceStub(channel))

        try:
            return asyncio.run(exchange())
        except Unavailable as error:
            why = error.message
            raise Unavailable(f"the cloud does not answer: is it up? 'mallee up' starts it ({why})") from error

    def storage(self, members: Iterable[Member]) -> dict[str, StorageCapacity]:
        """Zone → what its storage has. A zone whose SC does not answer is left out."""

        async def ask(member: Member) -> StorageCapacity:
            async with connect(member.address, self.identity, member.id) as channel:
                stub = StorageControllerServiceStub(channel)
                return (await stub.DescribeStorage(DescribeStorageRequest())).capacity

        found = {}
        for member in members:
            if member.role == "sc":
                with contextlib.suppress(Unavailable):
                    found[member.zone] = asyncio.run(ask(member))
        return found

    def members(self) -> list[Member]:
        """Everybody alive, as etcd says. Raises Unavailable."""
        with self._etcd() as etcd:
            return sorted(
                (Member.FromString(value) for value, _ in etcd.get_prefix(_MEMBERS)), key=lambda m: (m.role, m.id)
            )

    def walruses(self, bucket: str = "") -> list[Member]:
        """All that hold objects, or the one that has that bucket. Raises Unavailable, also when one is not there."""
        shards = self.config.walrus.shards
        alive = {member.id: member for member in self.members()}
        wanted = [shards.of(bucket)] if bucket else list(shards)
        if missing := [name for name in wanted if name not in alive]:
            raise Unavailable(f"{', '.join(missing)} does not run: is the cloud up?")
        return [alive[name] for name in wanted]

    def leaders(self) -> dict[str, str]:
        """Election → member that leads it. Raises Unavailable."""
        oldest: dict[str, tuple[int, str]] = {}
        with self._etcd() as etcd:
            for value, metadata in etcd.get_prefix(_ELECTIONS):
                election = metadata.key.decode().removeprefix(_ELECTIONS).rpartition("/")[0]
                candidate = (metadata.create_revision, value.decode().partition(" ")[0])
                oldest[election] = min(oldest.get(election, candidate), candidate)
        return {election: member for election, (_, member) in sorted(oldest.items())}

    @contextlib.contextmanager
    def _etcd(self) -> Iterator[Any]:
        # They take a third of a second to import, and most commands do without. The first makes the second importable.
        from common.etcd.sync import connected

        # isort: split
        import etcd3

        try:
            with connected(self.config.etcd.endpoints[0], self.identity) as client:
                yield client
        except etcd3.exceptions.Etcd3Exception as error:
            raise Unavailable(f"etcd does not answer ({type(error).__name__}): is the cloud up?") from error
