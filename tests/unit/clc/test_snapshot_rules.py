"""The rules of snapshots, of images of snapshots and of tasks, over the whole product of states and observations."""

from __future__ import annotations

import itertools

import pytest

from common.errors import CloudError
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import import_task_pb2 as ec2
from mallee.sc.v1 import snapshot_pb2 as sc
from services.clc.image.record import next_state
from services.clc.snapshot import rules
from services.clc.task import rules as tasks
from services.clc.task.disk import disk_of, percent_of

STATES = sorted(rules.NEXT)
SEEN = [None, *(value for value in sc.SnapshotState.values() if value)]
IMAGE_STATES = [value for value in record_pb2.ImageState.values() if value]
MADE = [None, *STATES]
PAIRS = list(itertools.product(MADE, repeat=2))


@pytest.mark.parametrize(("state", "seen"), list(itertools.product(STATES, SEEN)))
def test_steps_are_legal_and_silence_moves_nothing(state: int, seen: int | None) -> None:
    step = rules.next_step(state, seen)  # type: ignore[arg-type]
    if step is not None and not isinstance(step, rules.Do):
        assert step in rules.NEXT[state]
        assert seen is not None
    if state == rules.DELETING:
        assert step is rules.Do.FORGET
    if state in (rules.COMPLETED, rules.ERROR):
        over = seen in (sc.SNAPSHOT_STATE_COMPLETED, sc.SNAPSHOT_STATE_FAILED)
        assert step is (rules.Do.SETTLE if over else None)
        assert rules.next_step(state, seen, settled=True) is None  # type: ignore[arg-type]


def test_a_pending_snapshot_is_made_while_nothing_is_seen_of_it() -> None:
    assert rules.next_step(rules.PENDING, None) is rules.Do.MAKE
    assert rules.next_step(rules.PENDING, sc.SNAPSHOT_STATE_PENDING) is None
    assert rules.next_step(rules.PENDING, sc.SNAPSHOT_STATE_COMPLETED) == rules.COMPLETED
    assert rules.next_step(rules.PENDING, sc.SNAPSHOT_STATE_FAILED) == rules.ERROR


@pytest.mark.parametrize(("state", "made"), list(itertools.product(IMAGE_STATES, PAIRS)))
def test_an_image_waits_for_all_its_snapshots_and_fails_with_any(state: int, made: tuple[int | None, ...]) -> None:
    step = next_state(state, made)  # type: ignore[arg-type]
    if state != record_pb2.IMAGE_STATE_PENDING:
        assert step is None
    elif step == record_pb2.IMAGE_STATE_AVAILABLE:
        assert set(made) == {rules.COMPLETED}
    elif step == record_pb2.IMAGE_STATE_FAILED:
        assert set(made) & {None, rules.ERROR, rules.DELETING}
    else:
        assert step is None
        assert rules.PENDING in made


@pytest.mark.parametrize(("status", "made"), list(itertools.product(tasks.NEXT, PAIRS)))
def test_a_task_ends_once_and_by_what_became_of_its_snapshots(status: str, made: tuple[int | None, ...]) -> None:
    step = tasks.next_status(status, made, failed=tasks.ERROR)
    if step is not None:
        assert step in tasks.NEXT[status]
    match step:
        case tasks.COMPLETED:
            assert set(made) == {rules.COMPLETED}
        case tasks.ERROR:
            assert set(made) & {None, rules.ERROR, rules.DELETING}
        case tasks.DELETED:
            assert status == tasks.DELETING
            assert set(made) == {None}
        case _:
            assert status != tasks.ACTIVE or rules.PENDING in made


def test_the_progress_of_several_disks_is_that_of_all_together() -> None:
    def at(percent: int) -> record_pb2.SnapshotRecord:
        return record_pb2.SnapshotRecord(progress_percent=percent)

    assert percent_of([at(100), at(50)]) == 75
    assert percent_of([at(100), None]) == 50
    assert percent_of([]) == 0


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("s3://bucket/a/b.raw", ("bucket", b"a/b.raw")),
        ("https://s3.us-east-1.amazonaws.com/bucket/a/b%20c", ("bucket", b"a/b c")),
        ("https://bucket.s3.us-east-1.amazonaws.com/key", ("bucket", b"key")),
    ],
)
def test_a_url_names_a_bucket_and_a_key(url: str, place: tuple[str, bytes]) -> None:
    disk = disk_of(ec2.SnapshotDiskContainer(url=url, format="RAW"))
    assert (disk.bucket, disk.key) == place


@pytest.mark.parametrize(
    ("container", "code"),
    [
        (ec2.SnapshotDiskContainer(url="s3://bucket"), "InvalidParameterValue"),
        (ec2.SnapshotDiskContainer(url="ftp://bucket/key"), "InvalidParameterValue"),
        (ec2.SnapshotDiskContainer(url="https://example.com/key"), "InvalidParameterValue"),
        (ec2.SnapshotDiskContainer(url="s3://[/x"), "InvalidParameterValue"),
        (ec2.SnapshotDiskContainer(url="s3://bucket/key", format="VHD"), "UnsupportedOperation"),
        (ec2.SnapshotDiskContainer(url="s3://bucket/key", format="floppy"), "InvalidParameterValue"),
        (
            ec2.SnapshotDiskContainer(url="s3://b/k", user_bucket=ec2.UserBucket(s3_key="k")),
            "InvalidParameterCombination",
        ),
        (ec2.SnapshotDiskContainer(user_bucket=ec2.UserBucket(s3_bucket="bucket")), "MissingParameter"),
        (ec2.SnapshotDiskContainer(user_bucket=ec2.UserBucket(s3_key="key")), "MissingParameter"),
        (
            ec2.SnapshotDiskContainer(user_bucket=ec2.UserBucket(s3_bucket="../x", s3_key="key")),
            "InvalidParameterValue",
        ),
    ],
)
def test_a_place_that_is_none_is_refused(container: ec2.SnapshotDiskContainer, code: str) -> None:
    with pytest.raises(CloudError) as refused:
        disk_of(container)
    assert refused.value.code == code
