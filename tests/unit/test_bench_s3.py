"""What the benchmark of S3 reads from the kernel and from Ceph, and what it makes of figures."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

import pytest

from bench.figures import is_row, report
from bench.rgw import configuration
from bench.s3_rounds import LINES, Line, Sample, busy_ticks, cpu_ticks, undisturbed

LIST = next(line for line in LINES if line.unit == "ms")
RATE = next(line for line in LINES if line.unit == "op/s")


def test_cpu_of_a_process_is_read_past_a_name_with_brackets() -> None:
    assert cpu_ticks("17 (a b) c) S 1 17 17 0 -1 4194560 9 8 7 6 100 20 3 4 20 0 1 0 55") == 127


def test_cores_that_idle_or_wait_for_disks_are_not_busy() -> None:
    assert busy_ticks("cpu  100 20 3 9000 8000 5 6 7 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n") == 141


@pytest.mark.parametrize(("line", "ours", "theirs", "times"), [(RATE, 300.0, 100.0, 3.0), (LIST, 50.0, 100.0, 2.0)])
def test_more_is_better_but_of_milliseconds(line: Line, ours: float, theirs: float, times: float) -> None:
    assert line.times_of(ours, theirs) == times


def test_disturbed_rounds_count_where_there_are_no_others() -> None:
    calm, disturbed = Sample(2.0, strangers=0.1), Sample(1.0, strangers=0.9)
    assert undisturbed([disturbed, calm]) == [calm]
    assert undisturbed([disturbed]) == [disturbed]


def test_every_line_is_measured_under_a_name_of_its_own() -> None:
    assert len({str(line) for line in LINES}) == len(LINES)


def test_a_row_says_what_its_figure_was_made_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert not report("S3: PUT", 1.5, "x", least=2, beside="  150 and 100 op/s")
    row = capsys.readouterr().out
    assert is_row(row)
    assert "1.50 x" in row
    assert "150 and 100 op/s" in row


@pytest.mark.parametrize("tuned", [True, False])
def test_ceph_listens_on_this_host_alone_and_writes_into_its_folder(tuned: bool) -> None:
    parsed = ConfigParser(interpolation=None)
    parsed.read_string(configuration(Path("/f"), "id", 1234, 5678, tuned=tuned))
    everywhere = parsed["global"]
    assert everywhere["mon host"] == "[v2:127.0.0.1:1234]"
    assert everywhere["public addr"] == everywhere["cluster addr"] == "127.0.0.1"
    assert "endpoint=127.0.0.1:5678" in parsed["client.rgw"]["rgw frontends"]
    assert ("rgw thread pool size" in parsed["client.rgw"]) == tuned
    paths = [value for section in parsed.values() for value in section.values() if value.startswith("/")]
    assert paths
    assert all(Path(path).is_relative_to("/f") for path in paths)
