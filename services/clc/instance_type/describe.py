"""DescribeInstanceTypes: the types that the operator defined in the configuration."""

from __future__ import annotations

from common.config import InstanceTypeConfig
from common.errors import InvalidArgument
from mallee.ec2.v1 import instance_type_pb2 as ec2
from services.clc.filters import FilterTable
from services.clc.instance.credits import is_burstable
from services.clc.paging import check_max_results, page
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

_FILTERS = FilterTable[ec2.InstanceTypeInfo](
    "ec2.DescribeInstanceTypes",
    {
        "auto-recovery-supported": lambda t: t.auto_recovery_supported,
        "bare-metal": lambda t: t.bare_metal,
        "burstable-performance-supported": lambda t: t.burstable_performance_supported,
        "current-generation": lambda t: t.current_generation,
        "dedicated-hosts-supported": lambda t: t.dedicated_hosts_supported,
        "ebs-info.ebs-optimized-support": lambda t: t.ebs_info.ebs_optimized_support,
        "ebs-info.encryption-support": lambda t: t.ebs_info.encryption_support,
        "ebs-info.nvme-support": lambda t: t.ebs_info.nvme_support,
        "free-tier-eligible": lambda t: t.free_tier_eligible,
        "hibernation-supported": lambda t: t.hibernation_supported,
        "hypervisor": lambda t: t.hypervisor,
        "instance-storage-info.disk.count": lambda t: [str(d.count) for d in t.instance_storage_info.disks],
        "instance-storage-info.disk.size-in-gb": lambda t: [str(d.size_in_gb) for d in t.instance_storage_info.disks],
        "instance-storage-info.disk.type": lambda t: [d.type for d in t.instance_storage_info.disks],
        "instance-storage-info.encryption-support": lambda t: t.instance_storage_info.encryption_support,
        "instance-storage-info.nvme-support": lambda t: t.instance_storage_info.nvme_support,
        "instance-storage-info.total-size-in-gb": lambda t: t.instance_storage_info.total_size_in_gb,
        "instance-storage-supported": lambda t: t.instance_storage_supported,
        "instance-type": lambda t: t.instance_type,
        "memory-info.size-in-mib": lambda t: t.memory_info.size_in_mi_b,
        "network-info.efa-supported": lambda t: t.network_info.efa_supported,
        "network-info.ena-support": lambda t: t.network_info.ena_support,
        "network-info.encryption-in-transit-supported": lambda t: t.network_info.encryption_in_transit_supported,
        "network-info.ipv4-addresses-per-interface": lambda t: t.network_info.ipv4_addresses_per_interface,
        "network-info.ipv6-addresses-per-interface": lambda t: t.network_info.ipv6_addresses_per_interface,
        "network-info.ipv6-supported": lambda t: t.network_info.ipv6_supported,
        "network-info.maximum-network-cards": lambda t: t.network_info.maximum_network_cards,
        "network-info.maximum-network-interfaces": lambda t: t.network_info.maximum_network_interfaces,
        "network-info.network-performance": lambda t: t.network_info.network_performance,
        "nitro-enclaves-support": lambda t: t.nitro_enclaves_support,
        "nitro-tpm-support": lambda t: t.nitro_tpm_support,
        "processor-info.supported-architecture": lambda t: t.processor_info.supported_architectures,
        "supported-boot-mode": lambda t: t.supported_boot_modes,
        "supported-root-device-type": lambda t: t.supported_root_device_types,
        "supported-usage-class": lambda t: t.supported_usage_classes,
        "supported-virtualization-type": lambda t: t.supported_virtualization_types,
        "vcpu-info.default-vcpus": lambda t: t.v_cpu_info.default_v_cpus,
        "vcpu-info.default-cores": lambda t: t.v_cpu_info.default_cores,
        "vcpu-info.default-threads-per-core": lambda t: t.v_cpu_info.default_threads_per_core,
        "vcpu-info.valid-cores": lambda t: [str(cores) for cores in t.v_cpu_info.valid_cores],
        "vcpu-info.valid-threads-per-core": lambda t: [str(n) for n in t.v_cpu_info.valid_threads_per_core],
    },
    absent=(
        "ebs-info.attachment-limit-type",
        *(
            f"ebs-info.ebs-optimized-info.{bound}-{of}"
            for bound in ("baseline", "maximum")
            for of in ("bandwidth-in-mbps", "iops", "throughput-in-mbps")
        ),
        "ebs-info.maximum-ebs-attachments",
        "network-info.bandwidth-weightings",
        "network-info.efa-info.maximum-efa-interfaces",
        "network-info.flexible-ena-queues-support",
        "nitro-tpm-info.supported-versions",
        "processor-info.supported-features",
        "processor-info.sustained-clock-speed-in-ghz",
        "reboot-migration-support",
    ),
)


@use_case("ec2.DescribeInstanceTypes")
async def describe_instance_types(
    cloud: Cloud, call: Call, request: ec2.DescribeInstanceTypesRequest
) -> ec2.DescribeInstanceTypesResult:
    matches = _FILTERS.matcher(request.filters)
    if request.HasField("max_results"):
        check_max_results(request.max_results, high=100)
    end_dry_run(request)
    known = {t.name: t for t in cloud.config.instance_types}
    if wrong := [name for name in request.instance_types if name not in known]:
        raise InvalidArgument(
            f"The following supplied instance types do not exist: [{', '.join(wrong)}]", code="InvalidInstanceType"
        )
    wanted = [known[name] for name in sorted(request.instance_types or known)]
    shown, token = page(
        (info for info in map(_shown, wanted) if matches(info)),
        key=lambda info: info.instance_type,
        max_results=request.max_results if request.HasField("max_results") else None,
        request=request,
    )
    return ec2.DescribeInstanceTypesResult(instance_types=shown, next_token=token)


def _shown(kind: InstanceTypeConfig) -> ec2.InstanceTypeInfo:
    return ec2.InstanceTypeInfo(
        instance_type=kind.name,
        current_generation=True,
        free_tier_eligible=False,
        supported_usage_classes=["on-demand"],
        supported_root_device_types=["ebs", "instance-store"],
        supported_virtualization_types=["hvm"],
        bare_metal=False,
        hypervisor="nitro",
        processor_info=ec2.ProcessorInfo(supported_architectures=["x86_64"]),
        v_cpu_info=ec2.VCpuInfo(
            default_v_cpus=kind.vcpus,
            default_cores=kind.vcpus,
            default_threads_per_core=1,
            valid_cores=[kind.vcpus],
            valid_threads_per_core=[1],
        ),
        memory_info=ec2.MemoryInfo(size_in_mi_b=kind.memory_mib),
        instance_storage_supported=True,
        instance_storage_info=ec2.InstanceStorageInfo(
            total_size_in_gb=kind.disk_gib,
            disks=[ec2.DiskInfo(size_in_gb=kind.disk_gib, count=1, type="ssd")],
            nvme_support="unsupported",
            encryption_support="unsupported",
        ),
        ebs_info=ec2.EbsInfo(
            ebs_optimized_support="unsupported", encryption_support="unsupported", nvme_support="unsupported"
        ),
        network_info=ec2.NetworkInfo(
            network_performance="Moderate",
            maximum_network_interfaces=1,
            maximum_network_cards=1,
            default_network_card_index=0,
            network_cards=[
                ec2.NetworkCardInfo(network_card_index=0, network_performance="Moderate", maximum_network_interfaces=1)
            ],
            ipv4_addresses_per_interface=1,
            ipv6_addresses_per_interface=0,
            ipv6_supported=False,
            ena_support="unsupported",
            efa_supported=False,
            encryption_in_transit_supported=False,
            ena_srd_supported=False,
        ),
        placement_group_info=ec2.PlacementGroupInfo(supported_strategies=[]),
        hibernation_supported=False,
        burstable_performance_supported=is_burstable(kind.name),
        dedicated_hosts_supported=False,
        auto_recovery_supported=False,
        supported_boot_modes=["legacy-bios"],
        nitro_enclaves_support="unsupported",
        nitro_tpm_support="unsupported",
        phc_support="unsupported",
    )
