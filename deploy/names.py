"""Member ids of the services that a region has one of, on one machine."""

from __future__ import annotations

from typing import Final

ETCD: Final = "etcd-1"
CLC: Final = "clc-1"
ADMIN: Final = "admin"
