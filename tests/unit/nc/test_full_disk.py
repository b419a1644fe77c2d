"""What a node writes down when write(2) takes but a part, as on a full disk: here by a limit on the size of files."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.ids import InstanceId
from services.nc.gone import GoneJournal
from services.nc.paths import write_durably

FIRST, SECOND = InstanceId("i-0123456789abcdef0"), InstanceId("i-0123456789abcdef1")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_a_record_is_never_replaced_by_a_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "record"
    write_durably(path, b"old")
    with largest_file(100), pytest.raises(OSError, match="large"):
        write_durably(path, bytes(200))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_torn_line_spoils_no_later_one(tmp_path: Path) -> None:
    journal = GoneJournal(tmp_path / "gone.log", now_s=lambda: 1000.0)
    journal.open()
    with largest_file(10), pytest.raises(OSError, match="space"):
        journal.write(FIRST, 1)
    journal.write(SECOND, 2)
    again = GoneJournal(tmp_path / "gone.log", now_s=lambda: 1000.0)
    again.open()
    assert list(again) == [(SECOND, 2)]
