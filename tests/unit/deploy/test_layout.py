"""The shape of a new cloud: shares, addresses, ports, growth."""

from __future__ import annotations

import dataclasses
import ipaddress
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import CloudConfig, parse
from deploy.config_file import dump
from deploy.layout import Host, LayoutError, Shape, default_shape, new_config, ports, reshaped, shape_of

GIB = 1 << 30
HOST = Host(cores=2, memory_bytes=8 * GIB, disk_free_bytes=50 * GIB)


def config(shape: Shape, host: Host = HOST) -> CloudConfig:
    return new_config(shape, host, cloud_id="ab12", home="/var/lib/mallee", user="mallee")


shapes = st.builds(
    Shape,
    zones=st.integers(1, 4),
    nodes_per_zone=st.integers(1, 8),
    hypervisor=st.sampled_from(["auto", "fake"]),
    port_base=st.integers(1024, 60000),
    walrus_processes=st.integers(0, 16),
)
hosts = st.builds(
    Host,
    cores=st.integers(1, 128),
    memory_bytes=st.integers(1 * GIB, 512 * GIB),
    disk_free_bytes=st.integers(0, 4096 * GIB),
)


@given(shapes, hosts)
def test_what_is_written_is_what_is_read(shape: Shape, host: Host) -> None:
    made = config(shape, host)
    assert parse(tomllib.loads(dump(made))) == made


@given(shapes, hosts)
def test_nodes_never_promise_more_than_the_machine_has(shape: Shape, host: Host) -> None:
    made = config(dataclasses.replace(shape, hypervisor="auto"), host)
    nodes = [node for zone in made.zones for node in zone.nodes]
    assert sum(node.memory_bytes for node in nodes) <= host.memory_bytes
    assert sum(node.disk_bytes for node in nodes) <= host.disk_free_bytes
    promised = sum(node.cores for node in nodes) * made.nodes.cpu_overcommit
    # A node offers one vCPU at the least.
    assert promised <= max(host.cores * 4 * 1.01, len(nodes))


@given(hosts)
def test_pretended_nodes_have_room_on_any_machine(host: Host) -> None:
    made = config(default_shape("fake"), host)
    assert all(node.memory_bytes > host.memory_bytes for zone in made.zones for node in zone.nodes)
    assert ipaddress.IPv4Network(made.network.public_pool).num_addresses > 100_000


@given(shapes, hosts)
def test_nothing_listens_twice_at_one_place(shape: Shape, host: Host) -> None:
    made = config(shape, host)
    places = [(address, port) for address, port, _ in ports(made)]
    assert len(places) == len(set(places))
    addresses = [(node.address, node.port) for zone in made.zones for node in zone.nodes]
    assert len(addresses) == len(set(addresses))


def test_three_small_guests_fit_on_two_cores_however_they_are_shared_out() -> None:
    for zones, nodes in ((1, 1), (1, 2), (2, 2)):
        made = config(Shape(zones=zones, nodes_per_zone=nodes))
        vcpus = sum(int(n.cores * made.nodes.cpu_overcommit) for zone in made.zones for n in zone.nodes)
        assert vcpus >= 3


def test_a_cloud_that_grows_keeps_its_nodes_places() -> None:
    old = config(Shape(zones=1, nodes_per_zone=1))
    new = reshaped(old, Shape(zones=2, nodes_per_zone=2), HOST)
    first = old.zones[0].nodes[0]
    assert (new.zones[0].nodes[0].address, new.zones[0].nodes[0].namespace) == (first.address, first.namespace)
    assert [len(zone.nodes) for zone in new.zones] == [2, 2]
    assert new.cloud_id == old.cloud_id


def test_what_the_operator_wrote_by_hand_stays() -> None:
    by_hand = dataclasses.replace(config(Shape()), region="eu-west-1")
    assert reshaped(by_hand, shape_of(by_hand), HOST) is by_hand
    assert reshaped(by_hand, dataclasses.replace(shape_of(by_hand), nodes_per_zone=2), HOST).region == "eu-west-1"


@pytest.mark.parametrize("shape", [Shape(), default_shape("fake")])
def test_growing_deals_anew_what_nobody_edited(shape: Shape) -> None:
    old, grown = config(shape), dataclasses.replace(shape, nodes_per_zone=3)
    # By then the cloud itself has taken some of the disk.
    later = dataclasses.replace(HOST, disk_free_bytes=30 * GIB)
    assert reshaped(old, grown, later) == config(grown, later)
    again = dataclasses.replace(shape, nodes_per_zone=4)
    assert reshaped(reshaped(old, grown, later), again, HOST) == config(again, HOST)


@pytest.mark.parametrize("shape", [Shape(), default_shape("fake")])
def test_growing_keeps_the_operators_factor_and_shares(shape: Shape) -> None:
    made, size = config(shape), {"cores": 7, "memory_bytes": 3 * GIB, "disk_bytes": 9 * GIB}
    (zone,) = made.zones
    by_hand = dataclasses.replace(
        made,
        nodes=dataclasses.replace(made.nodes, cpu_overcommit=9.0, disk_overcommit=2.0),
        zones=(dataclasses.replace(zone, nodes=(dataclasses.replace(zone.nodes[0], **size),)),),  # type: ignore[arg-type]
    )
    grown = by_hand
    for count in (2, 3):
        shape = dataclasses.replace(shape, nodes_per_zone=count)
        grown = reshaped(grown, shape, HOST)
        assert grown.nodes == by_hand.nodes
        first, *others = grown.zones[0].nodes
        assert {key: getattr(first, key) for key in size} == size
        assert others == list(config(shape).zones[0].nodes[1:])


def test_an_uplink_changes_no_shares() -> None:
    old = config(Shape())
    changed = reshaped(old, Shape(uplink="eth0"), dataclasses.replace(HOST, disk_free_bytes=9 * GIB))
    assert changed == dataclasses.replace(old, network=dataclasses.replace(old.network, uplink="eth0"))


def test_a_cloud_does_not_shrink_and_does_not_move() -> None:
    old = config(Shape(zones=2, nodes_per_zone=2))
    with pytest.raises(LayoutError, match="cannot shrink"):
        reshaped(old, Shape(zones=1, nodes_per_zone=2), HOST)
    with pytest.raises(LayoutError, match="cannot change"):
        reshaped(old, Shape(zones=2, nodes_per_zone=2, port_base=9000), HOST)
    with pytest.raises(LayoutError, match="among --walrus-processes 1 for good"):
        reshaped(old, Shape(zones=2, nodes_per_zone=2, walrus_processes=2), HOST)


@pytest.mark.parametrize(("cores", "processes"), [(1, 1), (2, 1), (4, 1), (8, 2), (64, 8)])
def test_walrus_has_a_process_for_four_cores(cores: int, processes: int) -> None:
    made = new_config(Shape(), dataclasses.replace(HOST, cores=cores), cloud_id="00aa", home="/x", user="")
    assert made.walrus.processes == processes
    assert config(Shape(walrus_processes=3)).walrus.processes == 3


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        (Shape(zones=0), "--zones 0"),
        (Shape(zones=27), "--zones 27"),
        (Shape(nodes_per_zone=65), "--nodes 65"),
        (Shape(port_base=80), "--port-base 80"),
        (Shape(walrus_processes=17), "--walrus-processes 17"),
        (Shape(underlay_cidr="10.0.0.1/24"), "--underlay 10.0.0.1/24"),
        (Shape(public_pool="198.51.100.0/30"), "at least 8"),
        (Shape(public_pool="100.64.0.0/16"), "overlap"),
        (Shape(underlay_cidr="10.9.9.0/28", nodes_per_zone=4), "larger --underlay"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_change(shape: Shape, says: str) -> None:
    with pytest.raises(LayoutError, match=says):
        config(shape)


@given(shapes, hosts)
def test_two_thirds_of_the_cores_have_a_facade_as_far_as_memory_goes(shape: Shape, host: Host) -> None:
    facade = config(shape, host).facade
    assert 1 <= facade.processes <= max(1, min(host.cores * 2 / 3, 4))
    assert facade.processes == 1 or host.memory_bytes >= facade.processes * 2 * GIB
    assert len(set(map(facade.metrics_port_of, facade.members))) == facade.processes
