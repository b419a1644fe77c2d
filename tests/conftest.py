"""Fixtures that every test may ask for."""

from __future__ import annotations

from tests.cloud_fixture import fake_cloud, real_cloud
from tests.etcd_fixture import _shared_etcd, etcd_server, own_etcd_server

__all__ = ["_shared_etcd", "etcd_server", "fake_cloud", "own_etcd_server", "real_cloud"]
