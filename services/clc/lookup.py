"""Finding what a request names, with EC2's own errors for what is malformed, missing or somebody else's.

(EC2 API reference, "Error codes".)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from google.protobuf.message import Message

from common.errors import InvalidArgument, NotFound
from common.ids import AccountId
from mallee.clc.v1 import record_pb2
from services.clc.store import Store, Stored

R = TypeVar("R", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of resource as EC2 speaks of it."""

    # As in TagSpecifications and DescribeTags.
    resource_type: str
    prefixes: tuple[str, ...]
    malformed_code: str
    not_found_code: str
    # What EC2 calls it in "The … 'i-…' does not exist".
    words: str
    # It writes '[ami-…]' there.
    in_brackets: bool = False
    # The request's parameter that EC2 calls invalid when it is given an id of something else. Empty: that is malformed.
    parameter: str = ""
    # The same of a list of ids.
    list_parameter: str = ""
    # Hexadecimal digits of old ids, which are no more: from here to eight.
    shortest: int = 8

    def fits(self, given: str) -> bool:
        """It looks like an id of this noun."""
        digits = f"(?:[0-9a-f]{{{self.shortest},8}}|[0-9a-f]{{17}})"
        return re.fullmatch(f"(?:{'|'.join(self.prefixes)})-{digits}", given) is not None

    def check(self, given: str, *, listed: bool = False) -> None:
        """Raises InvalidArgument unless it fits."""
        parameter = self.list_parameter if listed and self.list_parameter else self.parameter
        if parameter and not given.startswith(f"{self.prefixes[0]}-"):
            raise InvalidArgument(
                f"Value ({given}) for parameter {parameter} is invalid. Expected: '{self.prefixes[0]}-...'."
            )
        if not self.fits(given):
            expected = "" if given.startswith(f"{self.prefixes[0]}-") else f' (expecting "{self.prefixes[0]}-...")'
            raise InvalidArgument(f'Invalid id: "{given}"{expected}', code=self.malformed_code)

    def missing(self, ids: Sequence[str]) -> NotFound:
        named = f"[{', '.join(ids)}]" if self.in_brackets else ", ".join(ids)
        if len(ids) == 1:
            return NotFound(f"The {self.words} '{named}' does not exist", code=self.not_found_code)
        return NotFound(f"The {self.words}s '{named}' do not exist", code=self.not_found_code)


@dataclass(frozen=True, slots=True, kw_only=True)
class Noun(Kind, Generic[R]):
    """One that has a record of its own."""

    record: type[R]


INSTANCE: Final = Noun(
    record=record_pb2.InstanceRecord,
    resource_type="instance",
    prefixes=("i",),
    malformed_code="InvalidInstanceID.Malformed",
    not_found_code="InvalidInstanceID.NotFound",
    words="instance ID",
    shortest=1,
)
IMAGE: Final = Noun(
    record=record_pb2.ImageRecord,
    resource_type="image",
    prefixes=("ami", "aki", "ari"),
    malformed_code="InvalidAMIID.Malformed",
    not_found_code="InvalidAMIID.NotFound",
    words="image id",
    in_brackets=True,
)
BUNDLE_TASK: Final = Noun(
    record=record_pb2.BundleTaskRecord,
    resource_type="bundle-task",
    prefixes=("bun",),
    malformed_code="InvalidBundleID.NotFound",
    not_found_code="InvalidBundleID.NotFound",
    words="bundle task",
)
SECURITY_GROUP: Final = Noun(
    record=record_pb2.SecurityGroupRecord,
    resource_type="security-group",
    prefixes=("sg",),
    malformed_code="InvalidGroupId.Malformed",
    not_found_code="InvalidGroup.NotFound",
    words="security group",
)
VPC: Final = Noun(
    record=record_pb2.VpcRecord,
    resource_type="vpc",
    prefixes=("vpc",),
    malformed_code="InvalidVpcID.Malformed",
    not_found_code="InvalidVpcID.NotFound",
    words="vpc ID",
)
SUBNET: Final = Noun(
    record=record_pb2.SubnetRecord,
    resource_type="subnet",
    prefixes=("subnet",),
    malformed_code="InvalidSubnetID.Malformed",
    not_found_code="InvalidSubnetID.NotFound",
    words="subnet ID",
)
KEY_PAIR: Final = Noun(
    record=record_pb2.KeyPairRecord,
    resource_type="key-pair",
    prefixes=("key",),
    malformed_code="InvalidParameterValue",
    not_found_code="InvalidKeyPair.NotFound",
    words="key pair",
)
ADDRESS: Final = Noun(
    record=record_pb2.AddressRecord,
    resource_type="elastic-ip",
    prefixes=("eipalloc",),
    malformed_code="InvalidAllocationID.NotFound",
    not_found_code="InvalidAllocationID.NotFound",
    words="allocation ID",
)

VOLUME: Final = Noun(
    record=record_pb2.VolumeRecord,
    resource_type="volume",
    prefixes=("vol",),
    malformed_code="InvalidVolumeID.Malformed",
    not_found_code="InvalidVolume.NotFound",
    words="volume",
    parameter="volumeId",
    list_parameter="volumes",
)
SNAPSHOT: Final = Noun(
    record=record_pb2.SnapshotRecord,
    resource_type="snapshot",
    prefixes=("snap",),
    malformed_code="InvalidSnapshotID.Malformed",
    not_found_code="InvalidSnapshot.NotFound",
    words="snapshot",
    parameter="snapshotId",
)
IMPORT_SNAPSHOT_TASK: Final = Noun(
    record=record_pb2.TaskRecord,
    resource_type="import-snapshot-task",
    prefixes=("import-snap",),
    malformed_code="InvalidConversionTaskId.Malformed",
    not_found_code="InvalidConversionTaskId",
    words="conversion task ID",
)
IMPORT_IMAGE_TASK: Final = Noun(
    record=record_pb2.TaskRecord,
    resource_type="import-image-task",
    prefixes=("import-ami",),
    malformed_code="InvalidConversionTaskId.Malformed",
    not_found_code="InvalidConversionTaskId",
    words="conversion task ID",
)
EXPORT_IMAGE_TASK: Final = Noun(
    record=record_pb2.TaskRecord,
    resource_type="export-image-task",
    prefixes=("export-ami",),
    malformed_code="InvalidExportTaskID.Malformed",
    not_found_code="InvalidExportTaskID.NotFound",
    words="export task ID",
)

# Resources that live in another's record.
SECURITY_GROUP_RULE: Final = Kind(
    resource_type="security-group-rule",
    prefixes=("sgr",),
    malformed_code="InvalidSecurityGroupRuleId.Malformed",
    not_found_code="InvalidSecurityGroupRuleId.NotFound",
    words="security group rule ID",
)
NETWORK_INTERFACE: Final = Kind(
    resource_type="network-interface",
    prefixes=("eni",),
    malformed_code="InvalidNetworkInterfaceId.Malformed",
    not_found_code="InvalidNetworkInterfaceID.NotFound",
    words="networkInterface ID",
)
ROUTE_TABLE: Final = Kind(
    resource_type="route-table",
    prefixes=("rtb",),
    malformed_code="InvalidRouteTableId.Malformed",
    not_found_code="InvalidRouteTableID.NotFound",
    words="routeTable ID",
)
INTERNET_GATEWAY: Final = Kind(
    resource_type="internet-gateway",
    prefixes=("igw",),
    malformed_code="InvalidInternetGatewayId.Malformed",
    not_found_code="InvalidInternetGatewayID.NotFound",
    words="internetGateway ID",
)
NETWORK_ACL: Final = Kind(
    resource_type="network-acl",
    prefixes=("acl",),
    malformed_code="InvalidNetworkAclId.Malformed",
    not_found_code="InvalidNetworkAclID.NotFound",
    words="networkAcl ID",
)
DHCP_OPTIONS: Final = Kind(
    resource_type="dhcp-options",
    prefixes=("dopt",),
    malformed_code="InvalidDhcpOptionsId.Malformed",
    not_found_code="InvalidDhcpOptionID.NotFound",
    words="dhcpOption ID",
)

# A kind that this cloud has none of yet.
PREFIX_LIST: Final = Kind(
    resource_type="prefix-list",
    prefixes=("pl",),
    malformed_code="InvalidPrefixListId.Malformed",
    not_found_code="InvalidPrefixListId.NotFound",
    words="prefix list ID",
)

NOUNS: Final[tuple[Noun[Message], ...]] = (  # type: ignore[assignment]
    INSTANCE,
    IMAGE,
    SECURITY_GROUP,
    VPC,
    SUBNET,
    KEY_PAIR,
    ADDRESS,
    VOLUME,
    SNAPSHOT,
    IMPORT_SNAPSHOT_TASK,
    IMPORT_IMAGE_TASK,
    EXPORT_IMAGE_TASK,
)


def check_accounts(given: Iterable[str], *, words: Sequence[str]) -> None:
    """Raises InvalidArgument for what is neither one of `words` (self, amazon, all …) nor an account id."""
    for account in given:
        if account in words:
            continue
        try:
            AccountId(account)
        except ValueError:
            raise InvalidArgument(f'Invalid user id: "{account}"', code="InvalidUserID.Malformed") from None


def own(store: Store, noun: Noun[R], account_id: str, record_id: str) -> Stored[R]:
    """The account's own record. Somebody else's does not exist for it."""
    return own_all(store, noun, account_id, [record_id])[0]


def own_all(store: Store, noun: Noun[R], account_id: str, ids: Iterable[str]) -> list[Stored[R]]:
    return visible_all(store, noun, ids, lambda record: getattr(record, "account_id", "") == account_id)


def visible_all(store: Store, noun: Noun[R], ids: Iterable[str], visible: Callable[[R], bool]) -> list[Stored[R]]:
    """In the order asked, each once. Raises NotFound that names all that are missing, or InvalidArgument."""
    wanted = list(dict.fromkeys(ids))
    for record_id in wanted:
        noun.check(record_id)
    found = [store.get(noun.record, record_id) for record_id in wanted]
    present = [stored for stored in found if stored is not None and visible(stored.record)]
    if len(present) != len(wanted):
        there = {stored.key.rpartition("/")[2] for stored in present}
        raise noun.missing([record_id for record_id in wanted if record_id not in there])
    return present
