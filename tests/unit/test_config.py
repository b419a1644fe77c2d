"""The configuration: what it does not understand it names, in one line, and nothing starts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from common.config import CcConfig, ConfigError, NodesConfig, load, parse

BASE: dict[str, Any] = {"cloud_id": "c0de", "home": "/nowhere"}
ZONES = [{"name": name, "cc_port": 1, "cc_metrics_port": 2} for name in "abcde"]


def test_what_is_not_said_is_the_default() -> None:
    config = parse(BASE)
    assert (config.cc, config.nodes) == (CcConfig(policy="round-robin"), NodesConfig())
    assert (config.nodes.memory_overcommit, config.nodes.disk_overcommit) == (1.0, 1.0)


def test_scheduling_and_overcommit_are_the_operators_choice(tmp_path: Path) -> None:
    path = tmp_path / "mallee.toml"
    path.write_text(
        'cloud_id = "c0de"\nhome = "/nowhere"\n[cc]\npolicy = "pack"\n'
        "[nodes]\nmemory_overcommit = 2\ndisk_overcommit = 1.5\ncache_bytes = 7\n"
    )
    config = load(path)
    assert config.cc.policy == "pack"
    assert config.nodes == NodesConfig(memory_overcommit=2.0, disk_overcommit=1.5, cache_bytes=7)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cc": {"policy": "luck"}}, "cc: policy: 'luck' is none of greedy, round-robin, spread, pack"),
        ({"cc": {"policy": 1}}, "is none of"),
        ({"cc": {"polcy": "pack"}}, "unknown key 'polcy'; known are policy"),
        ({"nodes": {"cache_bytes": "20G"}}, "cache_bytes: expected int"),
        ({"nodes": {"memory_overcommit": True}}, "memory_overcommit: expected float"),
        ({"walrus": {"scrub_days": 0.0}}, "scrub_days: expected more than 0"),
        ({"walrus": {"new_buckets": "open"}}, "new_buckets: 'open' is none of present, before-2023"),
        ({"nodes": {"disk_overcommit": 0}}, "disk_overcommit"),
        ({"zones": [{"name": "a"}]}, "key 'cc_port' is missing"),
        ({"zones": {}}, "expected a list"),
        ({"cc": 1}, "expected a table"),
        ({"cloud_id": "x; reboot"}, "cloud_id: 'x; reboot': expected four hex digits"),
        ({"nodes": {"hypervisor": "vmware"}}, "nodes: hypervisor: 'vmware' is none of auto, kvm, qemu, fake"),
        ({"nodes": {"cpu_overcommit": math.nan}}, "nodes: cpu_overcommit: expected more than 0"),
        ({"nodes": {"disk_reserve_bytes": -1}}, "nodes: disk_reserve_bytes: expected 0 or more, found -1"),
        ({"walrus": {"reserve_bytes": -1}}, "walrus: reserve_bytes: expected 0 or more"),
        ({"clc": {"terminated_visible_s": -3600}}, "clc: terminated_visible_s: expected 0 or more"),
        ({"clc": {"addresses_per_account": -1}}, "clc: addresses_per_account: expected 0 or more"),
        ({"clc": {"port": 65536}}, "clc: port: 65536 is no port"),
        ({"clc": {"metrics_port": 65536}}, "clc: metrics_port: 65536 is no port"),
        ({"walrus": {"port": 0}}, "walrus: port: 0 is no port"),
        ({"etcd": {"endpoints": ["127.0.0.1"]}}, "etcd: endpoints: '127.0.0.1': expected host:port"),
        ({"facade": {"listen": ["everywhere"]}}, "facade: listen: 'everywhere'"),
        ({"facade": {"processes": 0}}, "facade: processes: 0: expected 1 to 16"),
        ({"network": {"public_pool": "nonsense"}}, "network: public_pool: "),
        ({"network": {"underlay_cidr": "100.64.77.1/24"}}, "network: underlay_cidr: 100.64.77.1/24 has host bits"),
        ({"network": {"default_vpc_cidr": "172.31.0.0/33"}}, "network: default_vpc_cidr: "),
        ({"network": {"default_vpc_cidr": "172.31.0.0/27"}}, "network: default_vpc_cidr: 172.31.0.0/27 has no room"),
        ({"network": {"default_vpc_cidr": "172.31.0.0/19"}, "zones": ZONES}, "subnet in each of 5 zones"),
        ({"network": {"default_vpc_cidr": "198.51.0.0/16"}}, "public_pool 198.51.100.0/24 and default_vpc_cidr"),
        ({"network": {"resolvers": ["9.9.9.9", "dns.example"]}}, "network: resolvers: "),
        ({"network": {"guest_facade_address": "here"}}, "network: guest_facade_address: "),
        ({"zones": [ZONES[0], ZONES[0]]}, "zone a is defined twice"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(BASE | change)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_small_default_vpc_is_enough_for_few_zones() -> None:
    config = parse(BASE | {"network": {"default_vpc_cidr": "10.1.0.0/24"}, "zones": ZONES[:4]})
    assert config.network.default_vpc_cidr == "10.1.0.0/24"


def test_a_metrics_port_may_be_any() -> None:
    assert parse(BASE | {"clc": {"metrics_port": 0}}).clc.metrics_port == 0


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("[[")
    for name in ("broken.toml", "missing.toml"):
        with pytest.raises(ConfigError, match=name):
            load(tmp_path / name)
