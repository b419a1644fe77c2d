"""Fixtures that every test may ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cloud_fixture import fake_cloud, real_cloud
from tests.etcd_fixture import _shared_etcd, etcd_server, own_etcd_server

__all__ = ["_shared_etcd", "etcd_server", "fake_cloud", "own_etcd_server", "real_cloud"]

# Work for one process at a time, the longest first: whole clouds share their fixture, and real machines would slow each
# other down. Every other file is a unit of its own.
_TOGETHER = {"e2e": "machines", "cloud": "cloud"}
_APART = {"test_fresh_debian.py": "installation"}
_ORDER = ["machines", "installation", "cloud"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For `pytest -n N --dist loadgroup`; without it the order alone changes."""
    for item in items:
        folder, name = item.path.relative_to(Path(__file__).parent).parts[0], item.path.name
        group = _APART.get(name) or _TOGETHER.get(folder) or str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: _place(next(item.iter_markers("xdist_group")).args[0]))


def _place(group: str) -> int:
    return _ORDER.index(group) if group in _ORDER else len(_ORDER)
