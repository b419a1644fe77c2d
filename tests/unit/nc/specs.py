"""Specs to test with."""

from __future__ import annotations

import hashlib

from mallee.nc.v1 import instance_pb2

MACHINE = b"\0" * 4096
KERNEL = b"kernel" * 100
RAMDISK = b"ramdisk" * 100


def image(image_id: str, content: bytes) -> instance_pb2.Image:
    return instance_pb2.Image(
        image_id=image_id,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        format=instance_pb2.IMAGE_FORMAT_RAW,
        virtual_size_bytes=len(content),
        ticket=b"ticket",
    )


def spec(
    number: int = 1, *, generation: int = 1, vpc: str = "vpc-0123456789abcdef0", vcpus: int = 1
) -> instance_pb2.InstanceSpec:
    """`number` tells instances apart: 1 to 200."""
    made = instance_pb2.InstanceSpec(
        instance_id=f"i-0123456789abcd{number:03x}",
        account_id="123456789012",
        reservation_id="r-0123456789abcdef0",
        launch_index=number,
        generation=generation,
        zone="us-east-1a",
        region="us-east-1",
        zone_id="use1-az1",
        shape=instance_pb2.InstanceShape(
            instance_type="t2.nano", vcpus=vcpus, memory_bytes=64 << 20, disk_bytes=16 << 20
        ),
        boot=instance_pb2.BootSource(
            machine=image("ami-0123456789abcdef0", MACHINE),
            kernel=image("aki-0123456789abcdef0", KERNEL),
            ramdisk=image("ari-0123456789abcdef0", RAMDISK),
            kernel_arguments="console=ttyS0",
        ),
        interface=instance_pb2.NetworkInterface(
            interface_id=f"eni-0123456789abcd{number:03x}",
            vpc_id=vpc,
            subnet_id="subnet-0123456789abcdef0",
            mac=f"d0:0d:00:00:00:{number:02x}",
            private_ipv4=f"172.31.0.{number + 10}",
            subnet_cidr="172.31.0.0/20",
            vpc_cidr="172.31.0.0/16",
            public_ipv4=f"198.51.100.{number + 10}",
            security_group_ids=["sg-0123456789abcdef0"],
            private_dns_name=f"ip-172-31-0-{number + 10}.ec2.internal",
        ),
        user_data=b"#!/bin/sh\n\xff\x00",
        has_user_data=True,
        public_keys=[instance_pb2.PublicKey(name="laptop", openssh="ssh-ed25519 AAAA laptop")],
        security_group_names=["default"],
        image_id="ami-0123456789abcdef0",
    )
    made.launch_time.FromJsonString("2026-01-02T03:04:05Z")
    return made
