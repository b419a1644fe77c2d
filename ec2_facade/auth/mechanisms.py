"""All the ways to prove who one is."""

from __future__ import annotations

from dataclasses import dataclass

from ec2_facade.auth.authenticate import Authenticator
from ec2_facade.auth.legacy import LegacyAuthenticator
from ec2_facade.auth.legacy_query import LegacyQueryAuthenticator


@dataclass(frozen=True, slots=True, kw_only=True)
class Authentication:
    # Signature Version 4.
    current: Authenticator
    # Signature Version 2: S3's presigned URLs, and requests of the Query services.
    legacy: LegacyAuthenticator
    legacy_query: LegacyQueryAuthenticator
