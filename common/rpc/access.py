"""Who may call what: one table over the roles in certificates. What is not in it is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from common.rpc.context import Peer

ROLES: Final = frozenset({"clc", "walrus", "cc", "sc", "nc", "facade", "admin", "etcd"})

# They alone may say for which AWS caller a request is made.
SPEAKS_FOR_CALLERS: Final = frozenset({"facade", "clc", "walrus"})

_ROLE_SUFFIX: Final = ".role.mallee"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """`services`: /package.Service -> roles. `methods`: /package.Service/Method -> roles, instead of its service's."""

    services: Mapping[str, frozenset[str]]
    methods: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def allows(self, role: str, method: str) -> bool:
        roles = self.methods.get(method)
        if roles is None:
            roles = self.services.get(method.rpartition("/")[0], frozenset())
        return role in roles

    def knows(self, service: str) -> bool:
        return f"/{service}" in self.services


def _only(*roles: str) -> frozenset[str]:
    assert ROLES.issuperset(roles)
    return frozenset(roles)


ACCESS: Final = Access(
    services={
        # AWS's own APIs.
        "/mallee.ec2.v1.Ec2Service": _only("facade"),
        "/mallee.sts.v1.StsService": _only("facade"),
        "/mallee.s3.v1.S3Service": _only("facade", "clc"),
        # Our own.
        "/mallee.clc.v1.IdentityService": _only("facade"),
        "/mallee.clc.v1.AdministrationService": _only("admin"),
        "/mallee.walrus.v1.WalrusService": _only("clc"),
        "/mallee.walrus.v1.UpkeepService": _only("admin"),
        "/mallee.walrus.v1.AccessLogService": _only("facade"),
        "/mallee.walrus.v1.ShardService": _only("walrus"),
        "/mallee.cc.v1.ClusterControllerService": _only("clc"),
        "/mallee.nc.v1.NodeControllerService": _only("cc"),
        "/mallee.sc.v1.StorageControllerService": _only("clc"),
        # gRPC's own: every member may ask whether a server is well, only the operator what it offers.
        "/grpc.health.v1.Health": ROLES,
        "/grpc.reflection.v1alpha.ServerReflection": _only("admin"),
    },
    methods={
        "/mallee.clc.v1.AdministrationService/ListAccounts": _only("admin", "walrus"),
        # One process of Walrus to another, whose bucket its access logs go to.
        "/mallee.s3.v1.S3Service/PutObject": _only("facade", "clc", "walrus"),
        "/mallee.walrus.v1.WalrusService/FetchImage": _only("nc"),
        "/mallee.walrus.v1.WalrusService/DescribeStore": _only("clc", "admin"),
        "/mallee.cc.v1.ClusterControllerService/DescribeNodes": _only("clc", "admin"),
        "/mallee.sc.v1.StorageControllerService/RedeemExport": _only("nc"),
        "/mallee.sc.v1.StorageControllerService/DescribeStorage": _only("clc", "admin"),
        # Blocks of snapshots, and the objects they are imported from and exported to.
        **{
            f"/mallee.walrus.v1.WalrusService/{method}": _only("sc")
            for method in ("FindBlocks", "StoreBlocks", "SealSnapshot", "ReadSnapshot", "FetchBlocks", "FetchObject")
        },
        "/mallee.walrus.v1.WalrusService/StoreObject": _only("sc"),
        "/mallee.walrus.v1.WalrusService/GetWebConfiguration": _only("facade"),
        "/mallee.walrus.v1.WalrusService/BundleImage": _only("nc"),
        "/mallee.walrus.v1.WalrusService/CopySnapshot": _only("clc", "sc"),
        "/mallee.walrus.v1.WalrusService/ForgetSnapshot": _only("clc", "sc"),
    },
)


def peer_of(auth_context: Mapping[str, Iterable[bytes]]) -> Peer | None:
    """From the verified certificate: its common name, and the one SAN that names a role. None: it names no member."""
    names = [name.decode() for name in auth_context.get("x509_common_name", ())]
    alternatives = (name.decode() for name in auth_context.get("x509_subject_alternative_name", ()))
    roles = [name.removesuffix(_ROLE_SUFFIX) for name in alternatives if name.endswith(_ROLE_SUFFIX)]
    if len(names) != 1 or len(roles) != 1 or roles[0] not in ROLES:
        return None
    return Peer(member_id=names[0], role=roles[0])
