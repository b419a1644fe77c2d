"""Whom an image or a snapshot is shared with: everybody, or accounts, as both are asked to change it."""

from __future__ import annotations

from collections.abc import Callable, MutableSequence, Sequence
from typing import Protocol, TypeVar

from common.errors import CloudError, InvalidArgument
from common.ids import AccountId


class Permission(Protocol):
    user_id: str
    group: str


class Shared(Protocol):
    public: bool


P = TypeVar("P", bound=Permission)
P_co = TypeVar("P_co", bound=Permission, covariant=True)


class Structure(Protocol[P_co]):
    @property
    def add(self) -> Sequence[P_co]: ...
    @property
    def remove(self) -> Sequence[P_co]: ...


def asked_changes(
    parameter: str, structure: Structure[P] | None, flat: Sequence[P], operation_type: str
) -> tuple[Sequence[P], Sequence[P]]:
    """Those to add and those to remove, of the structure or of the flat, older members. Raises InvalidArgument.

    The structure says itself what to do: an operation type beside it, as many clients send, tells nothing more.
    """
    if structure is not None and flat:
        raise InvalidArgument(
            f"The parameter {parameter} cannot be used with the parameter operationType",
            code="InvalidParameterCombination",
        )
    match operation_type:
        case "" | "add" | "remove" if structure is not None:
            return structure.add, structure.remove
        case "add":
            return flat, ()
        case "remove":
            return (), flat
        case "" if not flat:
            return (), ()
        case other:
            raise InvalidArgument(f"Value ({other}) for parameter operationType is invalid: add or remove")


def share(
    record: Shared,
    accounts: MutableSequence[str],
    *,
    added: Sequence[P],
    removed: Sequence[P],
    malformed: Callable[[str], CloudError],
) -> None:
    """`accounts` are the record's. Raises what `malformed` makes of neither `all` nor an account id."""
    for permission in added:
        if _is_everybody(permission, malformed):
            record.public = True
        elif permission.user_id not in accounts:
            accounts.append(permission.user_id)
    for permission in removed:
        if _is_everybody(permission, malformed):
            record.public = False
        elif permission.user_id in accounts:
            accounts.remove(permission.user_id)


def _is_everybody(permission: Permission, malformed: Callable[[str], CloudError]) -> bool:
    if permission.group == "all" and not permission.user_id:
        return True
    try:
        AccountId("" if permission.group else permission.user_id)
    except ValueError:
        raise malformed(permission.group or permission.user_id) from None
    return False
