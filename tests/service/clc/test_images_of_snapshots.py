"""Images on volumes: registered of a snapshot, taken from an instance, copied, with a leader and a played storage
controller."""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import CloudError, Unavailable
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import image_pb2, instance_pb2, snapshot_pb2, tag_pb2
from mallee.ec2.v1.filter_pb2 import Filter
from services.clc.reconcile import Leader
from services.clc.snapshot import rules
from services.clc.store import Changes
from tests.eventually import eventually
from tests.service.clc.making import image
from tests.service.clc.snapshot_requests import image_of_a_snapshot, on_volumes, snapshot, snapshot_record, store
from tests.service.clc.stage import Stage
from tests.service.clc.test_snapshots import refused

BOB = 1
AVAILABLE, FAILED = record_pb2.IMAGE_STATE_AVAILABLE, record_pb2.IMAGE_STATE_FAILED


def device(name: str, **ebs: Any) -> image_pb2.BlockDeviceMapping:
    return image_pb2.BlockDeviceMapping(device_name=name, ebs=image_pb2.EbsBlockDevice(**ebs))


async def register(stage: Stage, *devices: image_pb2.BlockDeviceMapping, **more: Any) -> str:
    request = image_pb2.RegisterImageRequest(**({"name": "on volumes", "block_device_mappings": devices} | more))
    return str((await stage.run("RegisterImage", request)).image_id)


async def take(stage: Stage, instance_id: str, **more: Any) -> str:
    given: dict[str, Any] = {"instance_id": instance_id, "name": "taken", "no_reboot": True}
    request = image_pb2.CreateImageRequest(**(given | more))
    return str((await stage.run("CreateImage", request)).image_id)


async def copy(stage: Stage, image_id: str, *, caller: int = 0, **more: Any) -> str:
    request = image_pb2.CopyImageRequest(
        **({"source_image_id": image_id, "name": "copied", "source_region": "us-east-1"} | more)
    )
    return str((await stage.run("CopyImage", request, caller=caller)).image_id)


async def shown(stage: Stage, image_id: str, *, caller: int = 0) -> image_pb2.Image:
    request = image_pb2.DescribeImagesRequest(image_ids=[image_id])
    found: image_pb2.Image = (await stage.run("DescribeImages", request, caller=caller)).images[0]
    return found


async def become(stage: Stage, image_id: str, state: int) -> None:
    def is_it() -> bool:
        stored = stage.cloud.store.get(record_pb2.ImageRecord, image_id)
        return stored is not None and stored.record.state == state

    await eventually(is_it)


async def settle(stage: Stage, snapshot_id: str, state: record_pb2.SnapshotState.ValueType) -> None:
    """As its own reconciler would write it."""
    stored = stage.cloud.store.get(record_pb2.SnapshotRecord, snapshot_id)
    assert stored is not None
    draft = stored.draft()
    draft.state, draft.reason_message = state, "lost" if state == rules.ERROR else ""
    changes = Changes()
    changes.update(stored, draft)
    await stage.cloud.store.commit(changes)


async def test_an_image_of_a_snapshot_is_available_at_once_and_shows_its_devices(stage: Stage) -> None:
    root, data = await snapshot(stage), await snapshot(stage)
    image_id = await register(
        stage,
        device("/dev/sdf", snapshot_id=data, volume_size=9, volume_type="io1", iops=200, delete_on_termination=False),
        device("/dev/sda1", snapshot_id=root),
        device("/dev/sdg", volume_size=3),
        image_pb2.BlockDeviceMapping(device_name="/dev/sdh", virtual_name="ephemeral0"),
    )
    seen = await shown(stage, image_id)
    assert (seen.state, seen.root_device_type, seen.root_device_name) == ("available", "ebs", "/dev/sda1")
    assert seen.image_location == f"{stage.callers[0].account_id}/on volumes"
    first, second, third, fourth = seen.block_device_mappings
    assert (first.device_name, first.ebs.snapshot_id, first.ebs.volume_size) == ("/dev/sda1", root, 8)
    assert (first.ebs.volume_type, first.ebs.HasField("iops"), first.ebs.delete_on_termination) == ("gp2", False, True)
    assert (second.ebs.volume_size, second.ebs.iops, second.ebs.delete_on_termination) == (9, 200, False)
    assert (third.ebs.volume_size, third.ebs.HasField("snapshot_id")) == (3, False)
    assert (fourth.virtual_name, fourth.HasField("ebs")) == ("ephemeral0", False)
    asked = image_pb2.DescribeImageAttributeRequest(image_id=image_id, attribute="blockDeviceMapping")
    attribute = await stage.run("DescribeImageAttribute", asked)
    assert list(attribute.block_device_mappings) == list(seen.block_device_mappings)


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("root-device-type", "ebs", True),
        ("root-device-type", "instance-store", False),
        ("block-device-mapping.snapshot-id", "snap-*", True),
        ("block-device-mapping.volume-size", "8", True),
        ("block-device-mapping.volume-type", "io2", False),
        ("block-device-mapping.delete-on-termination", "true", True),
        ("block-device-mapping.device-name", "/dev/sda1", True),
        ("block-device-mapping.encrypted", "false", True),
        ("state-reason-code", "*", False),
        ("source-instance-id", "*", False),
    ],
)
async def test_images_are_filtered_by_their_devices(stage: Stage, name: str, value: str, found: bool) -> None:
    await image_of_a_snapshot(stage)
    request = image_pb2.DescribeImagesRequest(filters=[Filter(name=name, values=[value])])
    assert bool((await stage.run("DescribeImages", request)).images) is found


async def test_a_registration_that_contradicts_itself_is_refused(stage: Stage) -> None:
    root, pending = await snapshot(stage), snapshot_record(stage, state=rules.PENDING)
    await store(stage, pending)
    invalid = "InvalidBlockDeviceMapping"
    for code, devices, more in (
        (invalid, [device("/dev/sdf", snapshot_id=root)], {}),
        (invalid, [device("/dev/sda1", volume_size=8)], {}),
        (invalid, [device("/dev/sda1", snapshot_id=root)], {"root_device_name": "/dev/xvdb"}),
        (invalid, [device("/dev/sda1", snapshot_id=root), device("/dev/xvda", volume_size=1)], {}),
        (invalid, [device("/dev/sda1", snapshot_id=root, volume_size=7)], {}),
        ("InvalidSnapshot.NotFound", [device("/dev/sda1", snapshot_id="snap-0123456789abcdef0")], {}),
        ("IncorrectState", [device("/dev/sda1", snapshot_id=pending.snapshot_id)], {}),
        ("InvalidParameterCombination", [device("/dev/sda1", snapshot_id=root)], {"image_location": "bucket/machine"}),
        ("MissingParameter", [], {}),
    ):
        await refused(code, register(stage, *devices, **more))
    assert list(stage.cloud.store.all(record_pb2.ImageRecord)) == []
    assert stage.images.pins == {}


async def test_somebody_elses_snapshot_is_no_root(stage: Stage) -> None:
    its = snapshot_record(stage, account_id=stage.callers[BOB].account_id, public=True)
    await store(stage, its)
    await refused("AuthFailure", register(stage, device("/dev/sda1", snapshot_id=its.snapshot_id)))


async def test_an_image_is_taken_from_all_volumes_at_one_point_in_time(stage: Stage) -> None:
    instance_id, volumes = await on_volumes(stage)
    sc = stage.storage[stage.instance(instance_id).zone]
    image_id = await take(stage, instance_id, tag_specifications=_tags())
    seen = await shown(stage, image_id)
    assert (seen.state, seen.source_instance_id, seen.root_device_type) == ("pending", instance_id, "ebs")
    assert [d.device_name for d in seen.block_device_mappings] == ["/dev/sda1", "/dev/sdf", "/dev/sdg"]
    assert [d.ebs.delete_on_termination for d in seen.block_device_mappings] == [True, False, False]
    (point,) = sc.points
    assert [d.ebs.snapshot_id for d in seen.block_device_mappings] == point
    request = snapshot_pb2.DescribeSnapshotsRequest(snapshot_ids=point)
    described = {its.snapshot_id: its for its in (await stage.run("DescribeSnapshots", request)).snapshots}
    for its, volume_id in zip((described[snapshot_id] for snapshot_id in point), volumes, strict=True):
        assert its.volume_id == volume_id
        assert its.description == f"Created by CreateImage({instance_id}) for {image_id}"
        assert [tag.value for tag in its.tags] == ["snapshot"]
    assert [tag.value for tag in seen.tags] == ["image"]
    launch = instance_pb2.RunInstancesRequest(image_id=image_id, min_count=1, max_count=1)
    await refused("InvalidAMIID.Unavailable", stage.run("RunInstances", launch))


async def test_devices_are_left_out_and_added_when_an_image_is_taken(stage: Stage) -> None:
    instance_id, _ = await on_volumes(stage)
    image_id = await take(
        stage,
        instance_id,
        block_device_mappings=[
            image_pb2.BlockDeviceMapping(device_name="/dev/sdf", no_device=""),
            device("/dev/sda1", volume_size=12, volume_type="gp3"),
            device("/dev/sdh", volume_size=2),
        ],
    )
    seen = (await shown(stage, image_id)).block_device_mappings
    assert [(d.device_name, d.ebs.volume_size) for d in seen] == [("/dev/sda1", 12), ("/dev/sdg", 8), ("/dev/sdh", 2)]
    assert len(stage.storage[stage.instance(instance_id).zone].points[0]) == 2
    small = [device("/dev/sda1", volume_size=7)]
    await refused("InvalidBlockDeviceMapping", take(stage, instance_id, name="small", block_device_mappings=small))
    rootless = [image_pb2.BlockDeviceMapping(device_name="/dev/sda1", no_device="")]
    await refused("InvalidBlockDeviceMapping", take(stage, instance_id, name="none", block_device_mappings=rootless))


async def test_an_image_is_available_with_its_last_snapshot_and_fails_with_any(stage: Stage, leader: Leader) -> None:
    for its_end, state in ((rules.COMPLETED, AVAILABLE), (rules.ERROR, FAILED)):
        source = await image_of_a_snapshot(stage, f"of {its_end}")
        stored = stage.cloud.store.get(record_pb2.ImageRecord, source)
        assert stored is not None
        # Snapshots that nobody makes.
        waiting = [snapshot_record(stage, state=rules.PENDING, started=None, zone="elsewhere") for _ in range(2)]
        draft = record_pb2.ImageRecord()
        draft.CopyFrom(stored.record)
        draft.image_id, draft.state = source[:-1] + ("0" if source[-1] != "0" else "1"), record_pb2.IMAGE_STATE_PENDING
        draft.name = f"waits {its_end}"
        del draft.block_devices[:]
        for letter, its in zip("af", waiting, strict=True):
            draft.block_devices.add(device_name=f"/dev/sd{letter}", snapshot_id=its.snapshot_id, size_gib=8)
        await store(stage, draft, *waiting)
        await settle(stage, waiting[0].snapshot_id, rules.COMPLETED)
        assert (await shown(stage, draft.image_id)).state == "pending"
        await settle(stage, waiting[1].snapshot_id, its_end)
        await become(stage, draft.image_id, state)
        seen = await shown(stage, draft.image_id)
        if state == FAILED:
            assert seen.state_reason.message == f"Snapshot {waiting[1].snapshot_id} failed: lost"


async def test_without_a_point_in_time_there_is_no_image(stage: Stage) -> None:
    instance_id, _ = await on_volumes(stage)
    stage.storage[stage.instance(instance_id).zone].broken = Unavailable("not now")
    await refused("Unavailable", take(stage, instance_id))
    seen = await stage.run("DescribeImages", image_pb2.DescribeImagesRequest(owners=["self"]))
    assert [i.name for i in seen.images] == ["image machine"]
    stage.storage[stage.instance(instance_id).zone].broken = None
    await take(stage, instance_id)


async def test_an_instance_store_is_no_image(stage: Stage, image_id: str) -> None:
    launch = instance_pb2.RunInstancesRequest(image_id=image_id, min_count=1, max_count=1)
    its = (await stage.run("RunInstances", launch)).instances[0].instance_id
    await refused("InvalidParameterValue", take(stage, its))


async def test_a_copy_of_an_image_has_snapshots_of_its_own(stage: Stage, leader: Leader) -> None:
    source = await image_of_a_snapshot(stage)
    tag = tag_pb2.CreateTagsRequest(resources=[source], tags=[tag_pb2.Tag(key="kept", value="x")])
    await stage.run("CreateTags", tag)
    copied = await copy(stage, source, client_token="once", copy_image_tags=True)
    assert await copy(stage, source, client_token="once", copy_image_tags=True) == copied
    await refused("IdempotentParameterMismatch", copy(stage, source, client_token="once", name="another"))
    await become(stage, copied, AVAILABLE)
    before, after = await shown(stage, source), await shown(stage, copied)
    assert (after.source_image_id, after.source_image_region) == (source, "us-east-1")
    assert [t.key for t in after.tags] == ["kept"]
    (old,), (new,) = before.block_device_mappings, after.block_device_mappings
    assert stage.images.copies == {new.ebs.snapshot_id: old.ebs.snapshot_id}
    await stage.run("DeregisterImage", image_pb2.DeregisterImageRequest(image_id=copied))
    await eventually(lambda: stage.cloud.store.get(record_pb2.ImageRecord, copied) is None)
    again = await copy(stage, source, client_token="once", name="again")
    assert again != copied


async def test_a_shared_image_is_copied_with_leave_to_read_its_snapshot_alone(stage: Stage) -> None:
    source, bob = await image_of_a_snapshot(stage), stage.callers[BOB].account_id
    await refused("InvalidAMIID.NotFound", copy(stage, source, caller=BOB))
    add = image_pb2.LaunchPermissionModifications(add=[image_pb2.LaunchPermission(user_id=bob)])
    shared = image_pb2.ModifyImageAttributeRequest(image_id=source, launch_permission=add)
    await stage.run("ModifyImageAttribute", shared)
    await refused("InvalidRequest", copy(stage, source, caller=BOB))
    its = (await shown(stage, source)).block_device_mappings[0].ebs.snapshot_id
    permission = snapshot_pb2.ModifySnapshotAttributeRequest(snapshot_id=its, operation_type="add", user_ids=[bob])
    await stage.run("ModifySnapshotAttribute", permission)
    assert (await shown(stage, await copy(stage, source, caller=BOB), caller=BOB)).owner_id == bob


async def test_a_copy_of_an_instance_store_keeps_its_bytes(stage: Stage, leader: Leader) -> None:
    source = await image(stage)
    copied = await copy(stage, source)
    assert (await shown(stage, copied)).state == "available"
    await stage.run("DeregisterImage", image_pb2.DeregisterImageRequest(image_id=source))
    await eventually(lambda: source not in stage.images.pins)
    assert stage.images.pins == {copied: "bucket/machine"}
    assert list(stage.cloud.store.claims("pinning/")) == []
    launch = instance_pb2.RunInstancesRequest(image_id=copied, min_count=1, max_count=1)
    assert (await stage.run("RunInstances", launch)).instances
    await refused("UnsupportedOperation", copy(stage, await image(stage, "kernel")))


async def test_an_image_takes_the_snapshots_along_that_no_other_has(stage: Stage) -> None:
    shared, alone = await snapshot(stage), await snapshot(stage)
    root = device("/dev/sda1", snapshot_id=shared)
    first = await register(stage, root, device("/dev/sdf", snapshot_id=alone))
    await register(stage, root, name="another")
    request = image_pb2.DeregisterImageRequest(image_id=first, delete_associated_snapshots=True)
    results = (await stage.run("DeregisterImage", request)).delete_snapshot_results
    assert {r.snapshot_id: r.return_code for r in results} == {shared: "skipped", alone: "success"}
    left = (await stage.run("DescribeSnapshots", snapshot_pb2.DescribeSnapshotsRequest())).snapshots
    assert [s.snapshot_id for s in left] == [shared]


async def test_a_snapshot_that_gets_an_image_meanwhile_is_not_deleted(stage: Stage) -> None:
    """DeleteSnapshot looked before the image was there, and writes after it."""
    its = await snapshot(stage)
    commit, raced = stage.cloud.store.commit, False

    async def commit_late(changes: Changes) -> int:
        nonlocal raced
        if not raced:
            raced = True
            await register(stage, device("/dev/sda1", snapshot_id=its))
        return await commit(changes)

    stage.cloud.store.commit = commit_late  # type: ignore[method-assign]
    with pytest.raises(CloudError, match="currently in use"):
        await stage.run("DeleteSnapshot", snapshot_pb2.DeleteSnapshotRequest(snapshot_id=its))


def _tags() -> list[tag_pb2.TagSpecification]:
    return [
        tag_pb2.TagSpecification(resource_type=kind, tags=[tag_pb2.Tag(key="of", value=kind)])
        for kind in ("image", "snapshot")
    ]
