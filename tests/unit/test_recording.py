"""The recording request tells what was read of it."""

from __future__ import annotations

from mallee.ec2.v1 import instance_pb2
from tests.recording import recording, unread


def request() -> instance_pb2.RunInstancesRequest:
    message = instance_pb2.RunInstancesRequest(image_id="ami-1", min_count=1, security_group_ids=["sg-1", "sg-2"])
    message.placement.tenancy = "default"
    message.placement.availability_zone = "us-east-1a"
    message.monitoring.SetInParent()
    specification = message.tag_specifications.add(resource_type="instance")
    specification.tags.add(key="Name", value="web")
    return message


def test_all_that_is_set_is_unread_at_first() -> None:
    assert unread(recording(request())) == [
        "image_id",
        "min_count",
        "monitoring",
        "placement.availability_zone",
        "security_group_ids",
        "tag_specifications[0].resource_type",
        "tag_specifications[0].tags[0].key",
        "tag_specifications[0].tags[0].value",
    ]


def test_what_is_read_is_struck_off() -> None:
    watched = recording(request(), whole=())
    assert watched.image_id == "ami-1"
    assert watched.HasField("min_count")
    assert not watched.monitoring.enabled
    assert watched.placement.tenancy == "default"
    assert "sg-2" in watched.security_group_ids
    assert [tag.key for specification in watched.tag_specifications for tag in specification.tags] == ["Name"]
    assert unread(watched) == [
        "placement.availability_zone",
        "tag_specifications[0].resource_type",
        "tag_specifications[0].tags[0].value",
    ]


def test_whole_messages_can_be_stored() -> None:
    watched = recording(request())
    kept = instance_pb2.Instance(tags=watched.tag_specifications[0].tags)
    assert kept.tags[0].value == "web"
    assert unread(watched)[-1] == "tag_specifications[0].resource_type"


def test_it_passes_for_its_message() -> None:
    assert isinstance(recording(request()), instance_pb2.RunInstancesRequest)
    assert recording(request()) == request()
