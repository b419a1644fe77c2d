"""Which AWS service a request is for. One endpoint serves them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from ec2_facade.auth.claim import peek_scope
from ec2_facade.errors import Refused
from ec2_facade.proxies import Proxies
from ec2_facade.unserved import speaks_rpc
from ec2_facade.wire import WireRequest

QUERY_SERVICES = ("ec2", "sts")
SERVICES = (*QUERY_SERVICES, "s3")
_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Hosts:
    """Which names of hosts are those of buckets."""

    # BUCKET.<one of these>.
    domains: tuple[str, ...] = ()
    # These and all names under them are called as their bucket is.
    own: tuple[str, ...] = ()

    def bucket_of(self, host: str) -> str | None:
        """None if it names no bucket. A domain itself is never a bucket of another."""
        if self.is_own(host):
            return host
        domains = self.domains
        if host in domains or not host.endswith(domains) or host.split(".", 1)[0] in QUERY_SERVICES:
            return None
        for domain in sorted(domains, key=len, reverse=True):
            if host.endswith(f".{domain}"):
                return host.removesuffix(f".{domain}")
        return None

    def is_own(self, host: str) -> bool:
        return bool(self.own) and any(host == one or host.endswith(f".{one}") for one in self.own)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """How clients reach this cloud."""

    region: str
    # Virtual-host buckets are BUCKET.<one of these>, websites BUCKET.s3-website-REGION.<one of these>.
    domains: Sequence[str]
    # Hosts that are buckets of that very name: what users have an alias (CNAME) for.
    bucket_hosts: Sequence[str] = ()
    proxies: Proxies = field(default_factory=Proxies)

    def s3_hosts(self) -> Hosts:
        """Also those that AWS's clients make with the region."""
        named = [form.format(self.region) for form in ("s3.{}", "s3-{}", "s3.dualstack.{}")]
        domains = (*self.domains, *(f"{name}.{domain}" for name in named for domain in self.domains))
        return Hosts(domains, tuple(host.lower() for host in self.bucket_hosts))


def find_service(request: WireRequest, *, hosts: Hosts, sts_actions: frozenset[str]) -> str:
    """By the credential's scope; without one by host, then by `Action`; what is left is S3.

    Raises Refused for a service that this cloud does not have.
    """
    if scope := peek_scope(request):
        if scope.service not in SERVICES:
            raise _unserved(f"The service {scope.service}")
        return scope.service
    if speaks_rpc(request):
        raise _unserved("This service")
    host = bare_host(request.host)
    if hosts.bucket_of(host) is not None:
        return "s3"
    first_label = host.split(".", 1)[0]
    if first_label in SERVICES and "." in host:
        return first_label
    action = request.query_value("Action")
    if request.raw_path == "/" and action is not None:
        return "sts" if action in sts_actions else "ec2"
    content_type = request.header("content-type") or ""
    if request.raw_path == "/" and request.method == "POST" and content_type.startswith(_FORM):
        return "ec2"
    return "s3"


def _unserved(what: str) -> Refused:
    return Refused("UnsupportedOperation", f"{what} is not served by this cloud.", status=400)


def bare_host(host: str) -> str:
    """Lower case, without the port and a final dot."""
    return _usual_host(host) if len(host) <= _USUAL_CHARACTERS else _bare_host(host)


def _bare_host(host: str) -> str:
    name, colon, port = host.lower().rpartition(":")
    return (name if colon and port.isdigit() else host.lower()).rstrip(".")


# There are few; what is longer than a name can be is not kept.
_usual_host = lru_cache(maxsize=1024)(_bare_host)
_USUAL_CHARACTERS = 260
