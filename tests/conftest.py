"""Fixtures that every test may ask for."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.cloud_fixture import fake_cloud, real_cloud
from tests.etcd_fixture import _shared_etcd, etcd_server, own_etcd_server

__all__ = ["_shared_etcd", "etcd_server", "fake_cloud", "own_etcd_server", "real_cloud"]

# Work for one process at a time, the longest first: whole clouds share their fixture, real machines would slow each
# other down, and there is one network laboratory, for which a second process would wait. Every other file is a unit of
# its own.
_UNITS = ("tests/e2e/test_fresh_debian.py", "tests/e2e/", "tests/cloud/", "tests/contract/test_network")


def _unit(nodeid: str) -> str:
    return next((unit for unit in _UNITS if nodeid.startswith(unit)), nodeid.partition("::")[0])


class _ByUnit(LoadScopeScheduling):  # type: ignore[misc]
    def _split_scope(self, nodeid: str) -> str:
        return _unit(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _ByUnit:
    """For `pytest -n N`."""
    return _ByUnit(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = ["tests/e2e/", *(unit for unit in _UNITS if unit != "tests/e2e/")]
    items.sort(key=lambda item: order.index(unit) if (unit := _unit(item.nodeid)) in order else len(order))
