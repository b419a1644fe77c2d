from __future__ import annotations

from pathlib import Path

import pytest

from deploy import machine


@pytest.mark.parametrize(("before", "after"), [("212992", "2097152"), ("2097152", "2097152"), ("4194304", "4194304")])
def test_the_default_size_of_a_send_buffer_is_raised_and_never_lowered(before: str, after: str, tmp_path: Path) -> None:
    setting = tmp_path / "wmem_default"
    setting.write_text(f"{before}\n")
    machine.widen_sockets(setting)
    assert setting.read_text().strip() == after


def test_a_machine_without_the_setting_goes_on(tmp_path: Path) -> None:
    machine.widen_sockets(tmp_path / "wmem_default")
    assert not list(tmp_path.iterdir())
