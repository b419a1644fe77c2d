"""Why a request was not let in: one vocabulary for every service; failures.py words it as each of them does."""

from __future__ import annotations

from enum import Enum, auto


class Reason(Enum):
    # No credentials at all.
    MISSING = auto()
    # Header and query at once.
    TWO_MECHANISMS = auto()
    # An Authorization header of another kind.
    UNSUPPORTED_MECHANISM = auto()
    # Of S3's presigned URLs of Signature Version 2, a parameter that is missing.
    INCOMPLETE_QUERY = auto()
    # `AWS key:signature` that is none, and what should be a date and is none; `detail` says how.
    BAD_LEGACY_HEADER = auto()
    BAD_LEGACY_DATE = auto()
    # Credentials that cannot be read; `detail` says what is wrong.
    MALFORMED = auto()
    # No date of the request, or one that cannot be read; `detail` says which.
    NO_DATE = auto()
    # X-Amz-Expires outside 1 second to 7 days; `detail` says how.
    BAD_EXPIRES = auto()
    # The date of the credential scope is not that of the request.
    WRONG_DATE = auto()
    WRONG_REGION = auto()
    WRONG_SERVICE = auto()
    UNKNOWN_KEY = auto()
    # A session token, which this cloud has not issued.
    BAD_SESSION_TOKEN = auto()
    WRONG_SIGNATURE = auto()
    CLOCK_BEHIND = auto()
    CLOCK_AHEAD = auto()
    # A presigned request after its end, or before its beginning.
    EXPIRED = auto()
    NOT_YET_VALID = auto()
    # Headers that have to be signed and are not.
    UNSIGNED_HEADERS = auto()
    MISSING_PAYLOAD_HASH = auto()
    BAD_PAYLOAD_HASH = auto()


class AuthProblem(Exception):
    """`facts` are what an answer may show: strings by the names that failures.py asks for."""

    def __init__(self, reason: Reason, detail: str = "", **facts: str) -> None:
        super().__init__(f"{reason.name}: {detail}")
        self.reason = reason
        self.detail = detail
        self.facts = facts
