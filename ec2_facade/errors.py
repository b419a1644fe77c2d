"""What the facade itself refuses, with the HTTP status that AWS gives it."""

from __future__ import annotations

from collections.abc import Mapping

from common.errors import CloudError


class Refused(CloudError):
    """Raised while reading, authenticating or framing a request; never by a service behind the facade."""

    def __init__(self, code: str, message: str, *, status: int, details: Mapping[str, str] | None = None) -> None:
        super().__init__(message, code=code, details=details)
        self.status = status
