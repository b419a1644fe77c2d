"""Which private and public addresses are free, and which of them a request in progress is about to take.

etcd alone decides (a claim in the launch's transaction); holding them here keeps the requests of one process from
picking the same address and losing to each other.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator

from common.errors import InvalidArgument, NoCapacity, NotFound
from mallee.clc.v1 import record_pb2
from services.clc.store import Store

# Network, router, DNS, one in reserve; and the broadcast address. (VPC User Guide, "Subnet sizing for IPv4".)
_RESERVED_FIRST = 4
_RESERVED_LAST = 1


def public_claim(address: str) -> str:
    """Held by whatever has the public address: an instance, or an elastic address's own record."""
    return f"public/{address}"


def slot_claim(account_id: str, slot: int) -> str:
    """Held by an elastic address: one of the places that its account has for them."""
    return f"address-slot/{account_id}/{slot}"


def claims_of_address(address: record_pb2.AddressRecord) -> list[str]:
    return [public_claim(address.public_ipv4), slot_claim(address.account_id, address.slot)]


def is_within(cidr: str, address: str) -> bool:
    try:
        return ipaddress.IPv4Address(address) in ipaddress.IPv4Network(cidr)
    except ValueError:
        return False


class AddressBook:
    def __init__(self, store: Store, public_pool: str) -> None:
        self._store = store
        self._pool = ipaddress.IPv4Network(public_pool)
        self._held: set[str] = set()
        # Next-fit: where the last search ended, so that a launch does not look at every address in use.
        self._cursor: dict[str, int] = {}

    @contextlib.contextmanager
    def hold_private(self, subnet: record_pb2.SubnetRecord, count: int, *, wanted: str = "") -> Iterator[list[str]]:
        """Free addresses of the subnet, `wanted` itself if given, for the body of the `with`.

        Raises NoCapacity (InsufficientFreeAddressesInSubnet), InvalidArgument for a wanted one that cannot be had.
        """
        network = ipaddress.IPv4Network(subnet.cidr)
        space = f"private/{subnet.subnet_id}"
        if wanted:
            self.check_private(subnet, wanted)
            names = [f"{space}/{wanted}"]
        else:
            names = self._free(space, network, count, first=_RESERVED_FIRST, last=_RESERVED_LAST)
        if len(names) < count:
            raise NoCapacity(
                f"There are not enough free addresses in subnet '{subnet.subnet_id}' to satisfy the requested number"
                " of instances.",
                code="InsufficientFreeAddressesInSubnet",
            )
        with self._holding(names):
            yield [name.rpartition("/")[2] for name in names]

    @contextlib.contextmanager
    def hold_public(self, count: int, *, wanted: str = "") -> Iterator[list[str]]:
        """Raises NoCapacity (InsufficientAddressCapacity), NotFound if `wanted` is given and not free."""
        if wanted:
            self._check_public(wanted)
            names = [public_claim(wanted)]
        else:
            names = self._free("public", self._pool, count, first=1, last=1)
        if len(names) < count:
            raise NoCapacity(
                "There are not enough free addresses in the public pool to satisfy the requested number of instances.",
                code="InsufficientAddressCapacity",
            )
        with self._holding(names):
            yield [name.rpartition("/")[2] for name in names]

    @contextlib.contextmanager
    def hold_slot(self, account_id: str, limit: int) -> Iterator[int]:
        """A place for one more elastic address of the account. Raises NoCapacity (AddressLimitExceeded).

        Places are claimed as names are: no number of requests at once gets past the limit.
        """
        taken = sum(1 for _ in self._store.owned(record_pb2.AddressRecord, account_id))
        names = {slot: slot_claim(account_id, slot) for slot in range(1, limit + 1)}
        free = (slot for slot, name in names.items() if name not in self._held and self._store.holder(name) is None)
        slot = next(free, None)
        if slot is None or taken >= limit:
            raise NoCapacity("The maximum number of addresses has been reached.", code="AddressLimitExceeded")
        with self._holding([names[slot]]):
            yield slot

    def free_private(self, subnet: record_pb2.SubnetRecord) -> int:
        size = ipaddress.IPv4Network(subnet.cidr).num_addresses - _RESERVED_FIRST - _RESERVED_LAST
        return size - sum(1 for _ in self._store.claims(f"private/{subnet.subnet_id}/"))

    def public_total_and_free(self) -> tuple[int, int]:
        total = self._pool.num_addresses - 2
        return total, total - sum(1 for _ in self._store.claims("public/"))

    def check_private(self, subnet: record_pb2.SubnetRecord, wanted: str) -> None:
        """Raises InvalidArgument for an address of the subnet that cannot be had."""
        network = ipaddress.IPv4Network(subnet.cidr)
        try:
            address = ipaddress.IPv4Address(wanted)
        except ValueError:
            raise InvalidArgument(f"Value ({wanted}) for parameter PrivateIpAddress is invalid") from None
        usable = range(_RESERVED_FIRST, network.num_addresses - _RESERVED_LAST)
        if address not in network or int(address) - int(network.network_address) not in usable:
            raise InvalidArgument(f"Address {wanted} does not fall within the subnet's address range")
        name = f"private/{subnet.subnet_id}/{address}"
        if name in self._held or self._store.holder(name) is not None:
            raise InvalidArgument(f"Address {wanted} is in use.", code="InvalidIPAddress.InUse")

    def _check_public(self, wanted: str) -> None:
        try:
            address = ipaddress.IPv4Address(wanted)
        except ValueError:
            raise InvalidArgument(f"Value ({wanted}) for parameter address is invalid") from None
        name, edges = public_claim(wanted), (self._pool.network_address, self._pool.broadcast_address)
        if address not in self._pool or address in edges or name in self._held or self._store.holder(name) is not None:
            raise NotFound(f"Address '{wanted}' not found.", code="InvalidAddress.NotFound")

    def _free(self, space: str, network: ipaddress.IPv4Network, count: int, *, first: int, last: int) -> list[str]:
        usable = network.num_addresses - first - last
        start = self._cursor.get(space, 0)
        found: list[str] = []
        for step in range(usable):
            if len(found) == count:
                break
            offset = (start + step) % usable
            name = f"{space}/{network[first + offset]}"
            if name not in self._held and self._store.holder(name) is None:
                found.append(name)
                self._cursor[space] = (offset + 1) % usable
        return found

    @contextlib.contextmanager
    def _holding(self, names: list[str]) -> Iterator[None]:
        self._held.update(names)
        try:
            yield
        finally:
            self._held.difference_update(names)
