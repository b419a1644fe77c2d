"""Who asks, and whom a statement speaks of.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_principal.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from common.policy.problem import malformed

_ACCOUNT = re.compile(r"\d{12}\Z", re.ASCII)
_ROOT = re.compile(r"arn:aws:iam::(\d{12}):root\Z", re.ASCII)
_ARN = re.compile(
    r"arn:aws:(iam::\d{12}:(user|role)/|sts::\d{12}:(assumed-role|federated-user)/)[\w+=,.@/-]+\Z", re.ASCII
)
_UNIQUE_ID = re.compile(r"A[A-Z]{3}[A-Z0-9]{12,124}\Z", re.ASCII)
_CANONICAL = re.compile(r"[0-9a-f]{64}\Z")
_SERVICE = re.compile(r"[a-z0-9][a-z0-9.-]*\.amazonaws\.com\Z")
_KINDS: Final = ("AWS", "CanonicalUser", "Service", "Federated")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a request is made for: all empty for somebody unknown."""

    account_id: str = ""
    arn: str = ""
    user_id: str = ""
    canonical_user_id: str = ""
    # A service of the cloud itself, as logging.s3.amazonaws.com; the rest is empty then.
    service: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principals:
    # Known or not.
    everybody: bool = False
    # Whoever is of that account.
    accounts: frozenset[str] = frozenset()
    # ARNs, unique ids, canonical user ids, services and identity providers.
    names: frozenset[str] = frozenset()

    def include(self, who: Identity) -> bool:
        if self.everybody or who.account_id in self.accounts:
            return True
        return not self.names.isdisjoint({who.arn, who.user_id, who.canonical_user_id, who.service})


def read_principals(element: Any) -> Principals:
    """Raises InvalidArgument (MalformedPolicy)."""
    if element == "*":
        return Principals(everybody=True)
    if not isinstance(element, dict) or not element:
        raise invalid_principal(element)
    everybody = False
    accounts, names = set[str](), set[str]()
    for kind, name in _named(element):
        root = _ROOT.match(name)
        if kind == "AWS" and name == "*":
            everybody = True
        elif kind == "AWS" and (root or _ACCOUNT.match(name)):
            accounts.add(root[1] if root else name)
        elif _well_formed(kind, name):
            names.add(name)
        else:
            raise invalid_principal({kind: name})
    return Principals(everybody=everybody, accounts=frozenset(accounts), names=frozenset(names))


def is_identity(name: str) -> bool:
    """Somebody of an account, by ARN, unique id or canonical user id: no service, no identity provider."""
    return bool(_ARN.match(name) or _UNIQUE_ID.match(name) or _CANONICAL.match(name))


def invalid_principal(element: Any) -> Exception:
    return malformed("Invalid principal in policy", json.dumps(element))


def _named(element: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for kind, given in element.items():
        names = given if isinstance(given, list) else [given]
        if kind not in _KINDS or not names:
            raise invalid_principal(element)
        for name in names:
            if not isinstance(name, str):
                raise invalid_principal(element)
            yield kind, name


def _well_formed(kind: str, name: str) -> bool:
    match kind:
        case "AWS":
            return bool(_ARN.match(name) or _UNIQUE_ID.match(name))
        case "CanonicalUser":
            return bool(_CANONICAL.match(name))
        case "Service":
            return bool(_SERVICE.match(name))
        case _:
            return bool(name)
