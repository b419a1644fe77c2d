"""Rules of a bucket's CORS configuration. Pure.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/ManageCorsUsing.html. Requests are matched with it by the facade.
"""

from __future__ import annotations

import re
from typing import Final

from mallee.s3.v1.cors_pb2 import CORSConfiguration
from services.walrus import errors

_MOST_RULES: Final = 100
_MOST_BYTES: Final = 64 << 10
_ID_CHARACTERS: Final = 255
# RFC 9110, section 5.6.2, to which the wildcard belongs anyway.
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_METHODS: Final = frozenset({"GET", "PUT", "POST", "DELETE", "HEAD"})


def checked(config: CORSConfiguration) -> CORSConfiguration:
    """Raises InvalidArgument (MalformedXML, InvalidRequest)."""
    if not 0 < len(config.cors_rules) <= _MOST_RULES or config.ByteSize() > _MOST_BYTES:
        raise errors.malformed_xml()
    for rule in config.cors_rules:
        if not rule.allowed_methods or not rule.allowed_origins or rule.max_age_seconds < 0:
            raise errors.malformed_xml()
        if len(rule.id) > _ID_CHARACTERS:
            raise errors.invalid_request(f"The ID of a rule has at most {_ID_CHARACTERS} characters.")
        for method in rule.allowed_methods:
            if method not in _METHODS:
                raise errors.invalid_request(
                    f"Found unsupported HTTP method in CORS config. Unsupported method is {method}"
                )
        for kind, values in (("AllowedOrigin", rule.allowed_origins), ("AllowedHeader", rule.allowed_headers)):
            for value in values:
                if kind == "AllowedHeader" and not _HEADER.fullmatch(value):
                    raise errors.invalid_request(f'{kind} "{value}" contains invalid character.')
                if value.count("*") > 1:
                    raise errors.invalid_request(f'{kind} "{value}" can not have more than one wildcard.')
        for name in rule.expose_headers:
            if "*" in name:
                raise errors.invalid_request(
                    f'ExposeHeader "{name}" contains wildcard. We currently do not support wildcard for ExposeHeader.'
                )
    return config
