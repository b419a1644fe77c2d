"""What a guest may read of itself, as paths and texts. Pure.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-metadata.html
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from mallee.nc.v1 import instance_pb2, network_pb2

# As the service lists them; all answer alike.
VERSIONS: Final = (
    *("1.0", "2007-01-19", "2007-03-01", "2007-08-29", "2007-10-10", "2007-12-15", "2008-02-01", "2008-09-01"),
    *("2009-04-04", "2011-01-01", "2011-05-01", "2012-01-12", "2014-02-25", "2014-11-05", "2015-10-20", "2016-04-19"),
    *("2016-06-30", "2016-09-02", "2018-03-28", "2018-08-17", "2018-09-24", "2019-10-01", "2020-10-27", "2021-01-03"),
    *("2021-03-23", "2021-07-15", "2022-07-09", "2022-09-24", "2024-04-11", "latest"),
)
DOCUMENT: Final = "dynamic/instance-identity/document"
SIGNATURE: Final = "dynamic/instance-identity/signature"
PKCS7: Final = "dynamic/instance-identity/pkcs7"
# AWS has a longer key for this one; here there is one key.
RSA2048: Final = "dynamic/instance-identity/rsa2048"
USER_DATA: Final = "user-data"


@dataclass(frozen=True, slots=True)
class Subject:
    """Who asks: as it was ordered, and what its VPC's latest plan says of it since (None: nothing yet)."""

    spec: instance_pb2.InstanceSpec
    planned: network_pb2.PlanInterface | None = None
    # By id, of the plan.
    group_names: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(spec: instance_pb2.InstanceSpec, plan: network_pb2.VpcPlan | None) -> Subject:
        if plan is None:
            return Subject(spec)
        found = (i for i in plan.interfaces if i.interface_id == spec.interface.interface_id)
        return Subject(spec, next(found, None), {group.group_id: group.name for group in plan.groups})

    @property
    def options(self) -> instance_pb2.MetadataOptions:
        if self.planned is not None and self.planned.HasField("metadata"):
            return self.planned.metadata.options
        return self.spec.metadata_options

    @property
    def tags(self) -> Mapping[str, str]:
        if self.planned is not None and self.planned.HasField("metadata"):
            return self.planned.metadata.tags
        return self.spec.metadata_tags

    @property
    def public_ipv4(self) -> str:
        return self.spec.interface.public_ipv4 if self.planned is None else self.planned.public_ipv4

    @property
    def group_ids(self) -> Sequence[str]:
        return self.spec.interface.security_group_ids if self.planned is None else self.planned.group_ids

    @property
    def security_groups(self) -> Sequence[str]:
        names = [self.group_names.get(group_id, "") for group_id in self.group_ids]
        return names if all(names) else self.spec.security_group_names


def leaves(subject: Subject) -> dict[str, str]:
    """Path below the version -> text."""
    spec = subject.spec
    return {
        **{f"meta-data/{path}": text for path, text in _about_instance(subject).items()},
        **{f"meta-data/{path}": text for path, text in _about_network(subject).items()},
        **{f"meta-data/tags/instance/{key}": value for key, value in subject.tags.items()},
        DOCUMENT: identity_document(spec),
        # Their texts are made when they are asked for.
        SIGNATURE: "",
        PKCS7: "",
        RSA2048: "",
        **({USER_DATA: ""} if spec.has_user_data else {}),
    }


def listing(paths: Mapping[str, str], folder: str) -> list[str]:
    """What stands directly in `folder` (no slash at its end), folders with one; empty if there is no such folder.

    AWS shows the folders of a version without.
    """
    if not folder:
        return sorted({path.split("/", 1)[0] for path in paths})
    prefix = f"{folder}/"
    below = (path[len(prefix) :] for path in paths if path.startswith(prefix))
    return sorted({name.split("/", 1)[0] + ("/" if "/" in name else "") for name in below})


def key_listing(spec: instance_pb2.InstanceSpec) -> list[str]:
    """`public-keys/` shows the keys' names beside their numbers."""
    return [f"{number}={key.name}" for number, key in enumerate(spec.public_keys)]


def identity_document(spec: instance_pb2.InstanceSpec) -> str:
    """https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-identity-documents.html"""
    pending = spec.launch_time.ToDatetime(datetime.UTC)
    return json.dumps(
        {
            "accountId": spec.account_id,
            "architecture": "x86_64",
            "availabilityZone": spec.zone,
            "billingProducts": None,
            "devpayProductCodes": None,
            "marketplaceProductCodes": None,
            "imageId": spec.image_id,
            "instanceId": spec.instance_id,
            "instanceType": spec.shape.instance_type,
            "kernelId": spec.boot.kernel.image_id or None,
            "pendingTime": pending.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "privateIp": spec.interface.private_ipv4,
            "ramdiskId": spec.boot.ramdisk.image_id or None,
            "region": spec.region,
            "version": "2017-09-30",
        },
        indent=2,
        separators=(",", " : "),
    )


def _about_instance(subject: Subject) -> dict[str, str]:
    spec, public = subject.spec, subject.public_ipv4
    boot, interface = spec.boot, spec.interface
    told = {
        "ami-id": spec.image_id,
        "ami-launch-index": str(spec.launch_index),
        "ami-manifest-path": "(unknown)",
        **_about_disks(spec),
        "events/maintenance/history": "[]",
        "events/maintenance/scheduled": "[]",
        "hostname": interface.private_dns_name,
        "instance-action": "none",
        "instance-id": spec.instance_id,
        "instance-life-cycle": "on-demand",
        "instance-type": spec.shape.instance_type,
        "kernel-id": boot.kernel.image_id,
        "local-hostname": interface.private_dns_name,
        "local-ipv4": interface.private_ipv4,
        "mac": interface.mac,
        "placement/availability-zone": spec.zone,
        "placement/availability-zone-id": spec.zone_id,
        "placement/region": spec.region,
        "profile": "default-hvm",
        "public-ipv4": public,
        "ramdisk-id": boot.ramdisk.image_id,
        "reservation-id": spec.reservation_id,
        "security-groups": "\n".join(subject.security_groups),
        "services/domain": "amazonaws.com",
        "services/partition": "aws",
        **{f"public-keys/{number}/openssh-key": key.openssh for number, key in enumerate(spec.public_keys)},
    }
    return {path: text for path, text in told.items() if text}


def _about_disks(spec: instance_pb2.InstanceSpec) -> dict[str, str]:
    """As they were named; of a machine image's own disk no name was told. Volumes are numbered by their places."""
    disks = sorted(spec.disks.disks, key=lambda disk: disk.slot)
    root = next((disk.device_name for disk in disks if disk.root), "/dev/vda")
    volumes = (disk for disk in disks if disk.volume_id and not disk.root)
    spaces = {f"ephemeral{disk.ephemeral_index}": disk for disk in disks if not disk.volume_id}
    named = {f"ebs{number}": disk for number, disk in enumerate(volumes, 1)} | spaces
    return {
        "block-device-mapping/ami": root.removeprefix("/dev/"),
        "block-device-mapping/root": root,
        **{f"block-device-mapping/{name}": disk.device_name.removeprefix("/dev/") for name, disk in named.items()},
    }


def _about_network(subject: Subject) -> dict[str, str]:
    spec, public = subject.spec, subject.public_ipv4
    interface = spec.interface
    told = {
        "device-number": "0",
        "interface-id": interface.interface_id,
        "local-hostname": interface.private_dns_name,
        "local-ipv4s": interface.private_ipv4,
        "mac": interface.mac,
        "owner-id": spec.account_id,
        "public-ipv4s": public,
        "security-group-ids": "\n".join(subject.group_ids),
        "security-groups": "\n".join(subject.security_groups),
        "subnet-id": interface.subnet_id,
        "subnet-ipv4-cidr-block": interface.subnet_cidr,
        "vpc-id": interface.vpc_id,
        "vpc-ipv4-cidr-block": interface.vpc_cidr,
        "vpc-ipv4-cidr-blocks": interface.vpc_cidr,
        **({f"ipv4-associations/{public}": interface.private_ipv4} if public else {}),
    }
    # AWS writes the MAC of the path with a slash behind it: it is a folder.
    return {f"network/interfaces/macs/{interface.mac}/{path}": text for path, text in told.items() if text}
