"""Instances as EC2 shows them. Pure, and kept per revision of the record."""

from __future__ import annotations

from collections.abc import Mapping

from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import instance_pb2 as ec2
from mallee.ec2.v1 import operator_pb2, security_group_pb2, state_reason_pb2
from services.clc.derived import PerRevision
from services.clc.instance import metadata_options, rules
from services.clc.store import Store, Stored
from services.clc.tag.view import shown
from services.clc.volume.attached import Attached


class Views:
    """EC2's view of each instance, made once per revision, and kept as its bytes: a fifth of the message's memory."""

    def __init__(self, store: Store, attached: Attached, zone_ids: Mapping[str, str]) -> None:
        self._store = store
        self._attached = attached
        self._zone_ids = zone_ids
        self._made = PerRevision(self._make_bytes)

    def bytes_of(self, stored: Stored[record_pb2.InstanceRecord]) -> bytes:
        volumes = self._attached.of(stored.record.instance_id)
        return self._made.of(stored, *(volume.revision for volume in volumes))

    def of(self, stored: Stored[record_pb2.InstanceRecord]) -> ec2.Instance:
        return ec2.Instance.FromString(self.bytes_of(stored))

    def _make_bytes(self, record: record_pb2.InstanceRecord) -> bytes:
        return self._make(record).SerializeToString()

    def _make(self, record: record_pb2.InstanceRecord) -> ec2.Instance:
        reservation = self._store.get(record_pb2.ReservationRecord, record.reservation_id)
        groups = [
            security_group_pb2.GroupIdentifier(group_id=group_id, group_name=self._group_name(group_id))
            for group_id in record.interface.security_group_ids
        ]
        view = view_of(record, reservation.record if reservation else record_pb2.ReservationRecord(), groups)
        view.placement.availability_zone_id = self._zone_ids.get(record.zone, "")
        if record.state != rules.TERMINATED:
            view.block_device_mappings.extend(
                block_device(volume.record) for volume in self._attached.of(record.instance_id)
            )
        return view

    def _group_name(self, group_id: str) -> str:
        group = self._store.get(record_pb2.SecurityGroupRecord, group_id)
        return group.record.name if group else ""


def block_device(volume: record_pb2.VolumeRecord) -> ec2.InstanceBlockDeviceMapping:
    """One of its volumes, as its instance shows it."""
    attachment = volume.attachment
    return ec2.InstanceBlockDeviceMapping(
        device_name=attachment.device_name,
        ebs=ec2.EbsInstanceBlockDevice(
            volume_id=volume.volume_id,
            status=attachment_status(attachment.state),
            attach_time=attachment.attached,
            delete_on_termination=attachment.delete_on_termination,
        ),
    )


def attachment_status(state: int) -> str:
    return record_pb2.AttachmentState.Name(state).removeprefix("ATTACHMENT_STATE_").lower()  # type: ignore[arg-type]


def state_of(state: int) -> ec2.InstanceState:
    name, code = rules.SHOWN[state]
    return ec2.InstanceState(name=name, code=code)


def view_of(
    record: record_pb2.InstanceRecord,
    reservation: record_pb2.ReservationRecord,
    groups: list[security_group_pb2.GroupIdentifier],
) -> ec2.Instance:
    view = ec2.Instance(
        instance_id=record.instance_id,
        image_id=record.image_id,
        kernel_id=record.kernel_id or None,
        ramdisk_id=record.ramdisk_id or None,
        instance_type=record.shape.instance_type,
        state=state_of(record.state),
        state_transition_reason=record.transition_reason,
        key_name=reservation.key_name or None,
        ami_launch_index=record.launch_index,
        launch_time=record.launch_time,
        client_token=reservation.client_token,
        placement=ec2.Placement(
            availability_zone=record.zone, group_name="", tenancy="default", host_id=record.host_id or None
        ),
        monitoring=ec2.Monitoring(state="enabled" if record.detailed_monitoring else "disabled"),
        architecture=record.architecture,
        root_device_type=record.root_device_type or rules.INSTANCE_STORE,
        root_device_name=record.root_device_name or "/dev/sda1",
        virtualization_type="hvm",
        hypervisor="xen",
        ebs_optimized=record.ebs_optimized,
        ena_support=False,
        cpu_options=ec2.CpuOptions(core_count=record.shape.vcpus, threads_per_core=1),
        capacity_reservation_specification=ec2.CapacityReservationSpecificationResponse(
            capacity_reservation_preference="open"
        ),
        hibernation_options=ec2.HibernationOptions(configured=False),
        enclave_options=ec2.EnclaveOptions(enabled=False),
        network_performance_options=ec2.InstanceNetworkPerformanceOptions(bandwidth_weighting="default"),
        operator=operator_pb2.OperatorResponse(managed=False),
        maintenance_options=ec2.InstanceMaintenanceOptions(auto_recovery="default"),
        metadata_options=metadata_options.shown(record),
        platform_details="Linux/UNIX",
        usage_operation="RunInstances",
        usage_operation_update_time=record.launch_time,
        boot_mode="legacy-bios",
        current_instance_boot_mode="legacy-bios",
        private_dns_name="",
        public_dns_name="",
        tags=shown(record.tags),
    )
    if record.state == rules.PENDING:
        view.state_reason.CopyFrom(state_reason_pb2.StateReason(code="pending", message="pending"))
    elif record.state_reason_code:
        view.state_reason.CopyFrom(
            state_reason_pb2.StateReason(code=record.state_reason_code, message=record.state_reason_message)
        )
    if record.state != rules.TERMINATED:
        _add_network(view, record, groups)
    return view


def _add_network(
    view: ec2.Instance, record: record_pb2.InstanceRecord, groups: list[security_group_pb2.GroupIdentifier]
) -> None:
    """A terminated instance has lost it: EC2 shows none of this then."""
    interface = record.interface
    view.vpc_id = interface.vpc_id
    view.subnet_id = interface.subnet_id
    view.private_ip_address = interface.private_ipv4
    view.private_dns_name = interface.private_dns_name
    view.source_dest_check = not record.source_dest_unchecked
    view.security_groups.extend(groups)
    association = None
    if interface.public_ipv4:
        # No public DNS name: nothing outside this cloud could resolve it, and tools would prefer it to the address.
        view.public_ip_address = interface.public_ipv4
        association = ec2.InstanceNetworkInterfaceAssociation(
            ip_owner_id=record.account_id if record.allocation_id else "amazon",
            public_dns_name="",
            public_ip=interface.public_ipv4,
        )
    view.private_dns_name_options.CopyFrom(_dns_options())
    view.network_interfaces.append(
        ec2.InstanceNetworkInterface(
            network_interface_id=interface.interface_id,
            association=association,
            attachment=ec2.InstanceNetworkInterfaceAttachment(
                attachment_id=record.attachment_id,
                attach_time=record.launch_time,
                delete_on_termination=True,
                device_index=0,
                network_card_index=0,
                status="attaching" if record.state == rules.PENDING else "attached",
            ),
            description=record.interface_description,
            groups=groups,
            interface_type="interface",
            mac_address=interface.mac,
            operator=operator_pb2.OperatorResponse(managed=False),
            owner_id=record.account_id,
            private_dns_name=interface.private_dns_name,
            private_ip_address=interface.private_ipv4,
            private_ip_addresses=[
                ec2.InstancePrivateIpAddress(
                    association=association,
                    primary=True,
                    private_dns_name=interface.private_dns_name,
                    private_ip_address=interface.private_ipv4,
                )
            ],
            source_dest_check=not record.source_dest_unchecked,
            status="in-use",
            subnet_id=interface.subnet_id,
            vpc_id=interface.vpc_id,
        )
    )


def _dns_options() -> ec2.PrivateDnsNameOptionsResponse:
    return ec2.PrivateDnsNameOptionsResponse(
        hostname_type="ip-name", enable_resource_name_dns_a_record=False, enable_resource_name_dns_aaaa_record=False
    )


def reservation_view(reservation: record_pb2.ReservationRecord, instances: list[ec2.Instance]) -> ec2.Reservation:
    """`groups` is EC2-Classic's: empty in a VPC."""
    return ec2.Reservation(
        reservation_id=reservation.reservation_id, owner_id=reservation.account_id, instances=instances
    )
