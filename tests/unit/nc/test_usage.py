"""What a node's records add up to, over any run of changes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.ids import VpcId
from mallee.nc.v1 import instance_pb2, record_pb2
from services.nc.instance import Phase
from services.nc.usage import Usage

VPCS = [VpcId.new() for _ in range(2)]

records = st.builds(
    lambda size, phase, vpc_id, images: record_pb2.InstanceRecord(
        phase=phase.value,
        spec=instance_pb2.InstanceSpec(
            shape=instance_pb2.InstanceShape(vcpus=size, memory_bytes=10 * size, disk_bytes=100 * size),
            interface=instance_pb2.NetworkInterface(vpc_id=vpc_id),
            boot=instance_pb2.BootSource(machine=images[0], kernel=images[1]),
        ),
    ),
    st.integers(1, 4),
    st.sampled_from([Phase.RUNNING, Phase.PREPARING, Phase.FAILED]),
    st.sampled_from(VPCS),
    st.tuples(
        *[st.sampled_from([instance_pb2.Image(image_id=f"ami-{n}", sha256=f"{n}", size_bytes=n) for n in (1, 2)])] * 2
    ),
)


@given(st.lists(st.tuples(st.integers(0, 4), st.none() | records), max_size=40))
def test_it_is_the_sum_of_what_stands(changes: list[tuple[int, record_pb2.InstanceRecord | None]]) -> None:
    usage, standing = Usage(), dict[int, record_pb2.InstanceRecord]()
    for number, new in changes:
        usage.change(standing.pop(number, None), new)
        if new is not None:
            standing[number] = new
    taking = [record.spec.shape for record in standing.values() if Phase(record.phase) is not Phase.FAILED]
    assert usage.resources.vcpus == sum(shape.vcpus for shape in taking)
    assert usage.resources.memory_bytes == sum(shape.memory_bytes for shape in taking)
    assert usage.resources.disk_bytes == sum(shape.disk_bytes for shape in taking)
    images = [image for record in standing.values() for image in (record.spec.boot.machine, record.spec.boot.kernel)]
    assert usage.contents == {image.sha256: image.size_bytes for image in images}
    assert set(usage.vpcs) == {record.spec.interface.vpc_id for record in standing.values()}
    for number, record in standing.items():
        others = {other.spec.interface.vpc_id for their, other in standing.items() if their != number}
        assert usage.vpcs_without(record) == others
