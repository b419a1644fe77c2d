"""Who may touch what in etcd: each member is a user, known by its certificate's common name, with its own prefixes.

    admin    everything
    clc      its records and its election
    cc, sc   its zone's records and its zone's election
    all      its own membership; to read: all memberships and elections

So a node can write nothing but that it is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from common.etcd import election, membership
from common.etcd.client import Etcd
from common.etcd.types import prefix_end
from etcdrpc import auth_pb2, rpc_pb2

# etcd insists on a user of this name; nobody has a certificate for it.
_ROOT: Final = "root"
_ADMIN: Final = "admin"
_READER: Final = "reader"
_READ: Final = auth_pb2.Permission.READ
_WRITE: Final = auth_pb2.Permission.READWRITE


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdUser:
    member_id: str
    role: str
    # Of a CC or an SC.
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Permission:
    """`range_end` empty: one key."""

    key: bytes
    range_end: bytes
    kind: auth_pb2.Permission.Type.ValueType


def permissions(user: EtcdUser) -> frozenset[Permission]:
    """What the member may do beside reading memberships and elections."""
    own = Permission(membership.member_key(user.role, user.member_id).encode(), b"", _WRITE)
    match user.role:
        case "clc":
            return frozenset({own, _all("/mallee/clc/"), _all(f"{election.PREFIX}clc/")})
        case "cc" | "sc":
            name = f"{user.role}/{user.zone}/"
            return frozenset({own, _all(f"/mallee/{name}"), _all(f"{election.PREFIX}{name}")})
        case _:
            return frozenset({own})


async def ensure_auth(root_etcd: Etcd, members: Iterable[EtcdUser]) -> None:
    """Makes users and roles exactly these, and turns authentication on. Repeating it is safe, also with other members.

    `root_etcd` is connected as admin (or, the first time, as anybody). Admin itself need not be among the members.
    """
    wanted_roles = {_ROOT: frozenset[Permission](), _READER: _reader()}
    wanted_users = {_ROOT: frozenset({_ROOT}), _ADMIN: frozenset({_ROOT})}
    for user in members:
        if user.role != "admin":
            wanted_roles[user.member_id] = permissions(user)
            wanted_users[user.member_id] = frozenset({_READER, user.member_id})
    roles = set((await root_etcd.read(lambda e: e.auth.RoleList, rpc_pb2.AuthRoleListRequest())).roles)
    users = set((await root_etcd.read(lambda e: e.auth.UserList, rpc_pb2.AuthUserListRequest())).users)
    for name in users - wanted_users.keys():
        await root_etcd.write(lambda e: e.auth.UserDelete, rpc_pb2.AuthUserDeleteRequest(name=name))
    for name in roles - wanted_roles.keys():
        await root_etcd.write(lambda e: e.auth.RoleDelete, rpc_pb2.AuthRoleDeleteRequest(role=name))
    for name, wanted in wanted_roles.items():
        await _ensure_role(root_etcd, name, wanted, exists=name in roles)
    for name, granted in wanted_users.items():
        await _ensure_user(root_etcd, name, granted, exists=name in users)
    await root_etcd.write(lambda e: e.auth.AuthEnable, rpc_pb2.AuthEnableRequest())


async def _ensure_role(etcd: Etcd, name: str, wanted: frozenset[Permission], *, exists: bool) -> None:
    there: set[Permission] = set()
    if exists:
        role = await etcd.read(lambda e: e.auth.RoleGet, rpc_pb2.AuthRoleGetRequest(role=name))
        there = {Permission(p.key, p.range_end, p.permType) for p in role.perm}
    else:
        await etcd.write(lambda e: e.auth.RoleAdd, rpc_pb2.AuthRoleAddRequest(name=name))
    if name == _ROOT:
        return
    for permission in there - wanted:
        revoke = rpc_pb2.AuthRoleRevokePermissionRequest(
            role=name, key=permission.key.decode(), range_end=permission.range_end.decode()
        )
        await etcd.write(lambda e: e.auth.RoleRevokePermission, revoke)
    for permission in wanted - there:
        perm = auth_pb2.Permission(permType=permission.kind, key=permission.key, range_end=permission.range_end)
        grant = rpc_pb2.AuthRoleGrantPermissionRequest(name=name, perm=perm)
        await etcd.write(lambda e: e.auth.RoleGrantPermission, grant)


async def _ensure_user(etcd: Etcd, name: str, wanted: frozenset[str], *, exists: bool) -> None:
    there: set[str] = set()
    if exists:
        there = set((await etcd.read(lambda e: e.auth.UserGet, rpc_pb2.AuthUserGetRequest(name=name))).roles)
    else:
        # Known by certificate alone: there is no password to guess.
        options = auth_pb2.UserAddOptions(no_password=True)
        await etcd.write(lambda e: e.auth.UserAdd, rpc_pb2.AuthUserAddRequest(name=name, options=options))
    for role in there - wanted:
        revoke = rpc_pb2.AuthUserRevokeRoleRequest(name=name, role=role)
        await etcd.write(lambda e: e.auth.UserRevokeRole, revoke)
    for role in wanted - there:
        grant = rpc_pb2.AuthUserGrantRoleRequest(user=name, role=role)
        await etcd.write(lambda e: e.auth.UserGrantRole, grant)


def _all(prefix: str) -> Permission:
    return Permission(prefix.encode(), prefix_end(prefix), _WRITE)


def _reader() -> frozenset[Permission]:
    prefixes = (membership.PREFIX, election.PREFIX)
    return frozenset(Permission(prefix.encode(), prefix_end(prefix), _READ) for prefix in prefixes)
