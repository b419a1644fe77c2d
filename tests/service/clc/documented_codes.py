"""EC2's codes for what a request alone can have wrong, and the state that it meets. (API reference, "Error codes".)"""

from __future__ import annotations

from typing import Final

_CODES: Final = """
AuthFailure DryRunOperation FilterLimitExceeded InstanceLimitExceeded InvalidAMIAttributeItemValue
InvalidAMIID.Malformed InvalidAMIID.NotFound InvalidAMIName.Malformed InvalidAddress.NotFound
InvalidAllocationID.NotFound InvalidAssociationID.NotFound InvalidCharacter InvalidDhcpOptionID.NotFound
InvalidDhcpOptionsId.Malformed InvalidGroup.NotFound InvalidGroup.Reserved InvalidGroupId.Malformed
InvalidHostID.NotFound InvalidID InvalidInstanceID.Malformed InvalidInstanceID.NotFound InvalidInstanceType
InvalidInternetGatewayID.NotFound InvalidInternetGatewayId.Malformed InvalidKey.Format InvalidKeyPair.NotFound
InvalidNetworkAclID.NotFound InvalidNetworkAclId.Malformed InvalidNetworkInterfaceID.NotFound
InvalidNetworkInterfaceId.Malformed InvalidNextToken InvalidParameterCombination InvalidParameterValue
InvalidPermission.NotFound InvalidPrefixListId.Malformed InvalidPrefixListId.NotFound
InvalidRouteTableID.NotFound InvalidRouteTableId.Malformed InvalidSecurityGroupRuleId.Malformed
InvalidSecurityGroupRuleId.NotFound InvalidSnapshot.NotFound InvalidSnapshotID.Malformed
InvalidSubnetID.Malformed InvalidSubnetID.NotFound InvalidUserData.Malformed InvalidUserID.Malformed
InvalidVolume.NotFound InvalidVolumeID.Malformed InvalidVpcID.Malformed InvalidVpcID.NotFound
MalformedQueryString MissingParameter TagLimitExceeded UnknownParameter UnsupportedOperation
"""
DOCUMENTED: Final = frozenset(_CODES.split())
