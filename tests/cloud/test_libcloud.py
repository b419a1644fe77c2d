"""apache-libcloud's EC2 driver, as it comes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from libcloud.common.exceptions import BaseHTTPError
from libcloud.compute.base import Node, NodeImage
from libcloud.compute.types import KeyPairDoesNotExistError, NodeState

from tests.cloud.libcloud_driver import driver_of
from tests.cloud_fixture import RunningCloud


@pytest.fixture(scope="module")
def driver(fake_cloud: RunningCloud) -> Any:
    """Of an account that may run admin's image."""
    share(fake_cloud, "Add")
    yield driver_of(fake_cloud, "libcloud")
    share(fake_cloud, "Remove")


def share(cloud: RunningCloud, change: str) -> None:
    user = {"UserId": cloud.account("libcloud").account_id}
    cloud.client("ec2").modify_image_attribute(ImageId=cloud.image_id, LaunchPermission={change: [user]})


@pytest.fixture(scope="module")
def image(driver: Any, fake_cloud: RunningCloud) -> NodeImage:
    (found,) = driver.list_images(ex_image_ids=[fake_cloud.image_id])
    assert isinstance(found, NodeImage)
    return found


@pytest.fixture(scope="module")
def node(driver: Any, image: NodeImage, fake_cloud: RunningCloud) -> Iterator[Node]:
    (location,) = driver.list_locations()[:1]
    made: Node = driver.create_node(
        name="first", size=size(driver), image=image, location=location, ex_userdata="#!/bin/sh", ex_metadata={"a": "b"}
    )
    assert made.extra["availability"] == location.availability_zone.name
    driver.wait_until_running([made], wait_period=0.2, timeout=60)
    yield made
    assert driver.destroy_node(made)
    gone = fake_cloud.client("ec2", "libcloud").get_waiter("instance_terminated")
    gone.wait(InstanceIds=[made.id], WaiterConfig={"Delay": 1, "MaxAttempts": 60})


def size(driver: Any) -> Any:
    """libcloud knows AWS's types by heart; those of this cloud have the same names."""
    return next(size for size in driver.list_sizes() if size.id == "t2.micro")


def test_images_and_locations_are_listed(driver: Any, image: NodeImage, fake_cloud: RunningCloud) -> None:
    assert image.id == fake_cloud.image_id
    assert image.extra["state"] == "available"
    assert image.extra["owner_id"] == fake_cloud.account().account_id
    assert image.id in [found.id for found in driver.list_images(ex_executableby="self")]
    assert driver.get_image(image.id).name == image.name
    zones = [location.availability_zone for location in driver.list_locations()]
    assert [zone.name for zone in zones] == [zone.name for zone in fake_cloud.config.zones]
    assert {zone.zone_state for zone in zones} == {"available"}


def test_a_node_is_what_was_asked_for(driver: Any, node: Node, image: NodeImage) -> None:
    (shown,) = driver.list_nodes(ex_node_ids=[node.id])
    assert (shown.name, shown.state, shown.extra["image_id"]) == ("first", NodeState.RUNNING, image.id)
    assert (shown.extra["instance_type"], shown.extra["tags"]["a"]) == ("t2.micro", "b")
    assert shown.private_ips[0].startswith("172.31.")
    assert shown.public_ips
    assert shown.id in [found.id for found in driver.list_nodes(ex_filters={"tag:a": "b"})]
    assert driver.reboot_node(node)
    assert driver.ex_get_console_output(node)["instance_id"] == node.id
    (interface,) = [i for i in driver.ex_list_network_interfaces() if i.extra["attachment"]["instance_id"] == node.id]
    assert interface.extra["mac_address"]


def test_an_address_goes_to_a_node_and_back(driver: Any, node: Node) -> None:
    address = driver.ex_allocate_address(domain="vpc")
    assert driver.ex_associate_address_with_node(node, address, domain="vpc").startswith("eipassoc-")
    assert driver.ex_describe_addresses_for_node(node) == [address.ip]
    (held,) = [found for found in driver.ex_describe_all_addresses(only_associated=True) if found.ip == address.ip]
    assert held.instance_id == node.id
    assert driver.ex_disassociate_address(held, domain="vpc")
    assert driver.ex_describe_addresses_for_node(node) == []
    assert driver.ex_release_address(address, domain="vpc")
    assert driver.ex_describe_all_addresses() == []


def test_tags_are_set_listed_and_taken_off(driver: Any, node: Node) -> None:
    assert driver.ex_create_tags(node, {"colour": "grün", "empty": ""})
    tags = driver.ex_describe_tags(node)
    assert (tags["colour"], tags["Name"], tags["a"]) == ("grün", "first", "b")
    assert driver.ex_delete_tags(node, {"colour": "grün", "empty": ""})
    assert set(driver.ex_describe_tags(node)) == {"Name", "a"}


def test_key_pairs_are_made_imported_and_deleted(driver: Any) -> None:
    made = driver.create_key_pair("made")
    assert made.private_key.startswith("-----BEGIN RSA PRIVATE KEY-----")
    public = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    imported = driver.import_key_pair_from_string("imported", public)
    listed = {key.name: key.fingerprint for key in driver.list_key_pairs()}
    assert listed == {"made": made.fingerprint, "imported": imported.fingerprint}
    assert driver.ex_describe_keypair("made")["keyFingerprint"] == made.fingerprint
    for key in (made, imported):
        assert driver.delete_key_pair(key)
    assert driver.list_key_pairs() == []


def test_groups_are_opened_closed_and_deleted(driver: Any) -> None:
    group = driver.ex_create_security_group("libcloud", "for tests")["group_id"]
    assert driver.ex_authorize_security_group_ingress(group, 22, 22, cidr_ips=["10.0.0.0/8"], description="ssh")
    assert driver.ex_authorize_security_group_ingress(group, 80, 81, group_pairs=[{"group_id": group}])
    assert driver.ex_authorize_security_group_egress(group, 53, 53, cidr_ips=["10.0.0.0/8"], protocol="udp")
    (shown,) = driver.ex_get_security_groups(group_ids=[group])
    assert [(rule["from_port"], rule["to_port"]) for rule in shown.ingress_rules] == [("22", "22"), ("80", "81")]
    assert shown.ingress_rules[0]["cidr_ips"] == ["10.0.0.0/8"]
    assert shown.ingress_rules[1]["group_pairs"][0]["group_id"] == group
    assert driver.ex_revoke_security_group_ingress(group, 22, 22, cidr_ips=["10.0.0.0/8"])
    assert driver.ex_revoke_security_group_egress(group, 53, 53, cidr_ips=["10.0.0.0/8"], protocol="udp")
    driver.ex_authorize_security_group_permissive("libcloud")
    assert sorted(driver.ex_list_security_groups()) == ["default", "libcloud"]
    assert driver.ex_delete_security_group("libcloud")


def test_the_default_network_is_listed(driver: Any) -> None:
    (network,) = driver.ex_list_networks()
    subnets = driver.ex_list_subnets()
    assert {subnet.extra["vpc_id"] for subnet in subnets} == {network.id}
    (gateway,) = driver.ex_list_internet_gateways()
    assert gateway.vpc_id == network.id
    (table,) = driver.ex_list_route_tables()
    assert [route.gateway_id for route in table.routes] == ["local", gateway.id]
    assert driver.list_volumes() == driver.list_snapshots(owner="self") == []
    assert driver.ex_get_limits()["resource"]["max-instances"]


def test_a_mistake_is_told_in_ec2s_words(driver: Any, image: NodeImage) -> None:
    with pytest.raises(KeyPairDoesNotExistError):
        driver.create_node(name="x", size=size(driver), image=image, ex_keyname="nobody")
    with pytest.raises(BaseHTTPError, match=r"InvalidGroup\.NotFound"):
        driver.create_node(name="x", size=size(driver), image=image, ex_security_groups=["nobody"])
