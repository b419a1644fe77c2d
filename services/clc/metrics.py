"""Gauges of what the CLC owns, read when Prometheus asks."""

from __future__ import annotations

from functools import partial

from google.protobuf.message import Message

from common.metrics import gauge
from mallee.clc.v1 import record_pb2
from services.clc.instance import rules
from services.clc.use_case import Cloud
from services.clc.volume.describe import STATES


def report(cloud: Cloud) -> None:
    store = cloud.store

    def count(kind: type[Message]) -> float:
        return float(store.count(kind))

    def instances_in(state: int) -> float:
        return float(sum(i.record.state == state for i in store.all(record_pb2.InstanceRecord)))

    by_state = gauge("mallee_instances", "Instances by state", ("state",))
    for state, (name, _) in rules.SHOWN.items():
        by_state.labels(name).set_function(partial(instances_in, state))

    def volumes_in(state: int) -> float:
        return float(sum(v.record.state == state for v in store.all(record_pb2.VolumeRecord)))

    volumes = gauge("mallee_volumes", "Volumes by state", ("state",))
    for state, name in STATES.items():
        volumes.labels(name).set_function(partial(volumes_in, state))
    for noun, kind in (
        ("accounts", record_pb2.AccountRecord),
        ("images", record_pb2.ImageRecord),
        ("key_pairs", record_pb2.KeyPairRecord),
        ("security_groups", record_pb2.SecurityGroupRecord),
        ("snapshots", record_pb2.SnapshotRecord),
    ):
        gauge(f"mallee_{noun}", f"How many {noun.replace('_', ' ')} there are", read=partial(count, kind))
    gauge(
        "mallee_public_addresses_free",
        "Addresses left in the public pool",
        read=lambda: float(cloud.addresses.public_total_and_free()[1]),
    )
