"""Fixtures that several tests with real machines share."""

from __future__ import annotations

from tests.e2e.volume_lab import lab

__all__ = ["lab"]
