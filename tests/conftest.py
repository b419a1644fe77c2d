"""Fixtures that every test may ask for."""

from __future__ import annotations

from tests.etcd_fixture import _shared_etcd, etcd_server, own_etcd_server

__all__ = ["_shared_etcd", "etcd_server", "own_etcd_server"]
