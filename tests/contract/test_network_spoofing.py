"""A guest may send as itself and nothing else: no other address, card, DHCP server or protocol."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from common import netns
from common.ids import VpcId
from services.nc.net import names
from tests.contract.frames import arp, datagram, dhcp_decline, ethernet, hears, ipv4, tagged, udp
from tests.contract.netlab import MANAGEMENT, Guest, Lab
from tests.contract.network_fixtures import lab, opened, whole_lab

__all__ = ["lab", "whole_lab"]

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]


async def test_a_guest_sends_as_itself_or_not_at_all(lab: Lab) -> None:
    vpc = VpcId.new()
    liar, near, far = await opened(lab, vpc, 0, 0, 1)
    router, own = names.tap_mac(liar.interface.mac), liar.interface.mac
    with liar.raw() as wire:
        for victim in (near, far):
            with victim.raw() as ear:

                def says(source: str, mac: str = own, source_port: int = 9, port: int = 9, to: Guest = victim) -> bool:
                    mark = f"{source}{mac}{source_port}{port}".encode()
                    wire.send(ethernet(router, mac, 0x0800, udp(source, to.private, source_port, port, mark)))
                    return hears(ear, mark)

                assert says(liar.private)
                assert not says("172.31.0.77"), "an address of nobody"
                assert not says(near.private if victim is far else far.private), "a neighbour's address"
                assert not says("8.8.8.8"), "somebody else's"
                assert not says("169.254.169.254"), "the metadata service's"
                assert not says(liar.private, mac=near.interface.mac), "a neighbour's card"
                assert not says(liar.private, source_port=67), "a DHCP server's answer"
                assert not says(liar.private, port=68), "a DHCP server's answer from another port"


async def test_pieces_of_packets_are_asked_where_they_come_from(lab: Lab) -> None:
    """Else a guest could put its own words into a neighbour's datagram that comes in pieces."""
    liar, friend, target = await opened(lab, VpcId.new(), 0, 0, 0)

    def piece(guest: Guest, body: bytes, ident: int, *, first: bool) -> bytes:
        part = ipv4(friend.private, target.private, body, ident=ident, offset_bytes=0 if first else 32, more=first)
        return ethernet(names.tap_mac(guest.interface.mac), guest.interface.mac, 0x0800, part)

    with liar.raw() as lying, friend.raw() as honest, target.raw() as ear:
        for sender, wire, ident in ((friend, honest, 77), (liar, lying, 78)):
            claim = f"words of {sender.private}".encode().ljust(32)
            start = datagram(9, 9, bytes(24) + claim)[:32]
            wire.send(piece(sender, claim, ident, first=False))
            honest.send(piece(friend, start, ident, first=True))
            assert hears(ear, claim) is (sender is friend), claim


async def test_a_tag_on_a_frame_hides_nothing(lab: Lab) -> None:
    liar, near = await opened(lab, VpcId.new(), 0, 0)
    router, own = names.tap_mac(liar.interface.mac), liar.interface.mac
    with liar.raw() as wire, near.raw() as ear:
        for number, vlan in enumerate((0, 1, 5, 4095)):
            for kind in (0x8100, 0x88A8):
                for source in ("172.31.0.77", near.private):
                    mark = f"tag {number}{kind}{source}".encode()
                    for target in (router, near.interface.mac, "ff:ff:ff:ff:ff:ff"):
                        frame = ethernet(target, own, 0x0800, udp(source, near.private, 9, 9, mark))
                        wire.send(tagged(vlan, frame, kind=kind))
                        wire.send(tagged(0, tagged(vlan, frame), kind=kind))
        assert not hears(ear, b"tag ")
        wire.send(ethernet(router, own, 0x0800, udp(liar.private, near.private, 9, 9, b"honest")))
        assert hears(ear, b"honest")


async def test_a_guest_cannot_decline_its_neighbours_address(lab: Lab) -> None:
    """dnsmasq withholds an address that was declined, for ten minutes."""
    liar, near = await opened(lab, VpcId.new(), 0, 0)
    with liar.raw() as wire:
        for _ in range(3):
            said = dhcp_decline(near.interface.mac, near.private, near.lease["serverid"])
            packet = udp(liar.private, near.lease["serverid"], 68, 67, said)
            wire.send(ethernet(names.tap_mac(liar.interface.mac), liar.interface.mac, 0x0800, packet))
            packet = udp("0.0.0.0", "255.255.255.255", 68, 67, said)
            wire.send(ethernet("ff:ff:ff:ff:ff:ff", liar.interface.mac, 0x0800, packet))
        liar.ask_dhcp()
    assert near.ask_dhcp()["ip"] == near.private


async def test_a_guest_cannot_claim_an_address_by_arp(lab: Lab) -> None:
    vpc = VpcId.new()
    liar, near = await opened(lab, vpc, 0, 0)
    namespace = f"{liar.node.namespace}-{vpc}"

    def known() -> dict[str, str]:
        return {e["dst"]: e.get("lladdr", "") for e in netns.show("neigh show", namespace=namespace)[0]}

    before, own = known(), liar.interface.mac
    with liar.raw() as wire:
        for operation in (1, 2):
            for claimed in (near.private, "172.31.0.1", names.NODE_HOP, "169.254.169.254"):
                for target in (claimed, "172.31.0.1"):
                    said = arp(operation, own, claimed, target)
                    wire.send(ethernet("ff:ff:ff:ff:ff:ff", own, 0x0806, said))
                    wire.send(tagged(0, ethernet("ff:ff:ff:ff:ff:ff", own, 0x0806, said)))
            # As itself, with a neighbour's card: within ARP, and around it.
            for frame_mac, said_mac in ((own, near.interface.mac), (near.interface.mac, own)):
                said = arp(operation, said_mac, liar.private, "172.31.0.1")
                wire.send(ethernet("ff:ff:ff:ff:ff:ff", frame_mac, 0x0806, said))
        assert known() == before
    with near.listen(80):
        assert liar.reaches(near.private, 80), "the true owner still has it"


async def test_arp_is_answered_for_what_is_there_and_nothing_else(lab: Lab) -> None:
    asker, near, far = await opened(lab, VpcId.new(), 0, 0, 1)

    def answered(target: str, frame_mac: str = asker.interface.mac) -> bool:
        mac = asker.interface.mac
        with asker.raw() as wire:
            wire.send(ethernet("ff:ff:ff:ff:ff:ff", frame_mac, 0x0806, arp(1, mac, asker.private, target)))
            return hears(
                wire, b"\x00\x02" + bytes.fromhex(names.tap_mac(mac).replace(":", "")) + IPv4Address(target).packed
            )

    for target in (near.private, far.private, "172.31.0.1", "172.31.0.2", names.METADATA):
        assert answered(target), target
    for target in (asker.private, "172.31.0.200", "8.8.8.8", MANAGEMENT, "169.254.3.4"):
        assert not answered(target), target
    assert not answered(near.private, frame_mac=near.interface.mac), "from a neighbour's card"


async def test_a_guest_is_no_dhcp_server_for_its_neighbours(lab: Lab) -> None:
    vpc = VpcId.new()
    liar, near = await opened(lab, vpc, 0, 0)
    with liar.raw() as wire, near.raw() as ear:
        offer = udp("172.31.0.1", "255.255.255.255", 67, 68, b"a false offer")
        wire.send(ethernet("ff:ff:ff:ff:ff:ff", liar.interface.mac, 0x0800, offer))
        wire.send(ethernet(near.interface.mac, liar.interface.mac, 0x0800, offer))
        assert not hears(ear, b"a false offer")


async def test_ipv6_of_a_guest_goes_nowhere(lab: Lab) -> None:
    liar, near = await opened(lab, VpcId.new(), 0, 0)
    packet = bytes.fromhex("60000000" + "0010" + "11" + "40") + bytes(15) + b"\x01" + b"\xff\x02" + bytes(13) + b"\x01"
    with liar.raw() as wire, near.raw() as ear:
        for target in ("33:33:00:00:00:01", near.interface.mac, names.tap_mac(liar.interface.mac)):
            wire.send(ethernet(target, liar.interface.mac, 0x86DD, packet + b"an IPv6 secret."))
        assert not hears(ear, b"an IPv6 secret.")
