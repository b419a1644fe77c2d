from __future__ import annotations

import json

import pytest

from mallee.nc.v1 import instance_pb2, network_pb2
from services.nc import metadata_token, metadata_tree
from services.nc.metadata_tree import Subject
from tests.unit.nc.specs import spec

KEY = b"k" * 32
MAC = "d0:0d:00:00:00:01"


@pytest.mark.parametrize(
    ("header", "ttl_s"),
    [("1", 1), ("21600", 21600), ("0", None), ("21601", None), ("-1", None), ("x", None), (None, None), ("٣", None)],
)
def test_ttl_is_between_a_second_and_six_hours(header: str | None, ttl_s: int | None) -> None:
    assert metadata_token.ttl_of(header) == ttl_s


def test_a_token_is_good_for_its_instance_and_time_alone() -> None:
    token = metadata_token.mint(KEY, instance_id="i-1", expires_s=100.0)
    assert len(token) == 56
    assert metadata_token.is_valid(token, KEY, instance_id="i-1", now_s=99.9)
    assert not metadata_token.is_valid(token, KEY, instance_id="i-1", now_s=100.0)
    assert not metadata_token.is_valid(token, KEY, instance_id="i-2", now_s=1)
    assert not metadata_token.is_valid(token, b"other" * 8, instance_id="i-1", now_s=1)


@pytest.mark.parametrize("token", ["", "x", "é", "A" * 56, "=" * 56])
def test_rubbish_is_no_token(token: str) -> None:
    assert not metadata_token.is_valid(token, KEY, instance_id="i-1", now_s=1)


WANTED = frozenset({
    *("instance-id", "instance-type", "local-hostname", "hostname", "mac", "local-ipv4", "public-ipv4"),
    *("ami-id", "ami-launch-index", "instance-life-cycle", "placement/availability-zone"),
    "placement/availability-zone-id",
    *("placement/region", "block-device-mapping/ami", "block-device-mapping/root", "public-keys/0/openssh-key"),
    *("security-groups", "reservation-id", "events/maintenance/scheduled"),
})  # fmt: skip
WANTED_OF_CARD = frozenset({
    *("device-number", "interface-id", "local-ipv4s", "public-ipv4s", "security-group-ids", "subnet-id"),
    *("subnet-ipv4-cidr-block", "vpc-id", "vpc-ipv4-cidr-blocks"),
})  # fmt: skip


def test_the_paths_that_guests_read_are_there() -> None:
    leaves = metadata_tree.leaves(Subject(spec()))
    for path in [*WANTED, *(f"network/interfaces/macs/{MAC}/{name}" for name in WANTED_OF_CARD)]:
        assert leaves[f"meta-data/{path}"], path
    assert "meta-data/spot/instance-action" not in leaves
    assert not any(path.endswith("public-hostname") for path in leaves), "addresses have no public DNS names"


def test_disks_are_shown_by_their_names() -> None:
    asked = spec()
    shown = {"ami": "vda", "root": "/dev/vda"}
    assert _mapping(asked) == shown
    asked.disks.disks.add(volume_id="vol-2", device_name="/dev/sdh", slot=7)
    asked.disks.disks.add(volume_id="vol-1", device_name="/dev/sdf", slot=5)
    asked.disks.disks.add(device_name="/dev/sdb", slot=1, ephemeral_index=0)
    assert _mapping(asked) == {**shown, "ebs1": "sdf", "ebs2": "sdh", "ephemeral0": "sdb"}
    asked.disks.disks.add(volume_id="vol-0", device_name="/dev/sda1", root=True)
    assert _mapping(asked) == {
        "ami": "sda1",
        "root": "/dev/sda1",
        "ebs1": "sdf",
        "ebs2": "sdh",
        "ephemeral0": "sdb",
    }


def _mapping(asked: instance_pb2.InstanceSpec) -> dict[str, str]:
    folder = "meta-data/block-device-mapping/"
    leaves = metadata_tree.leaves(Subject(asked))
    return {path.removeprefix(folder): text for path, text in leaves.items() if path.startswith(folder)}


def test_listings_show_folders_with_a_slash() -> None:
    leaves = metadata_tree.leaves(Subject(spec()))
    assert metadata_tree.listing(leaves, "") == ["dynamic", "meta-data", "user-data"]
    assert metadata_tree.listing(leaves, "meta-data/placement") == [
        *("availability-zone", "availability-zone-id", "region"),
    ]
    assert metadata_tree.listing(leaves, "meta-data/network/interfaces/macs") == [f"{MAC}/"]
    assert metadata_tree.listing(leaves, "meta-data/place") == []


def test_the_latest_plan_decides_the_public_address() -> None:
    moved = network_pb2.PlanInterface(public_ipv4="198.51.100.99", group_ids=["sg-new"])
    leaves = metadata_tree.leaves(Subject(spec(), moved))
    assert leaves["meta-data/public-ipv4"] == "198.51.100.99"
    assert leaves[f"meta-data/network/interfaces/macs/{MAC}/security-group-ids"] == "sg-new"
    without = metadata_tree.leaves(Subject(spec(), network_pb2.PlanInterface()))
    assert "meta-data/public-ipv4" not in without


def plan(**metadata: object) -> network_pb2.VpcPlan:
    """As the CLC would send it after a change."""
    made = network_pb2.VpcPlan(groups=[network_pb2.PlanGroup(group_id="sg-new", name="renewed")])
    made.interfaces.add(interface_id=spec().interface.interface_id, group_ids=["sg-new"])
    if metadata:
        made.interfaces[0].metadata.CopyFrom(instance_pb2.InstanceMetadata(**metadata))  # type: ignore[arg-type]
    return made


def test_the_latest_plan_decides_groups_tags_and_options() -> None:
    ordered = spec()
    ordered.metadata_tags["Name"] = "old"
    changed = plan(tags={"Name": "new", "more": "x"}, options=instance_pb2.MetadataOptions(hop_limit=3))
    subject = Subject.of(ordered, changed)
    assert subject.options.hop_limit == 3
    leaves = metadata_tree.leaves(subject)
    assert leaves["meta-data/security-groups"] == "renewed"
    assert leaves[f"meta-data/network/interfaces/macs/{MAC}/security-groups"] == "renewed"
    assert metadata_tree.listing(leaves, "meta-data/tags/instance") == ["Name", "more"]
    assert leaves["meta-data/tags/instance/Name"] == "new"
    none_left = metadata_tree.leaves(Subject.of(ordered, plan(options=instance_pb2.MetadataOptions())))
    assert not metadata_tree.listing(none_left, "meta-data/tags")


@pytest.mark.parametrize("known", [None, network_pb2.VpcPlan(), plan()])
def test_what_no_plan_tells_is_as_it_was_ordered(known: network_pb2.VpcPlan | None) -> None:
    ordered = spec()
    ordered.metadata_tags["Name"] = "old"
    ordered.metadata_options.hop_limit = 7
    subject = Subject.of(ordered, known)
    assert subject.options.hop_limit == 7
    assert subject.tags == {"Name": "old"}


def test_the_identity_document_says_who_it_is() -> None:
    told = json.loads(metadata_tree.identity_document(spec()))
    assert told["instanceId"] == spec().instance_id
    assert told["pendingTime"] == "2026-01-02T03:04:05Z"
    assert told["version"] == "2017-09-30"
