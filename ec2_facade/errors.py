"""What the facade itself refuses, with the HTTP status that AWS gives it."""

from __future__ import annotations

from collections.abc import Mapping

from common.errors import CloudError, Unavailable
from common.log import get_logger

INTERNAL = "An internal error has occurred"
_UNAVAILABLE = "The service is unavailable now. Please try again shortly."

_log = get_logger(__name__)


class Refused(CloudError):
    """Raised while reading, authenticating or framing a request; never by a service behind the facade."""

    def __init__(self, code: str, message: str, *, status: int, details: Mapping[str, str] | None = None) -> None:
        super().__init__(message, code=code, details=details)
        self.status = status


def for_clients(error: CloudError) -> CloudError:
    """What is no answer to the client but trouble of ours: its words are for the log."""
    if type(error) is CloudError or (isinstance(error, Unavailable) and error.code == Unavailable.default_code):
        _log.warning("a request met trouble", cause=error.message, kind=type(error).__name__)
        return type(error)(INTERNAL if type(error) is CloudError else _UNAVAILABLE, code=error.code)
    return error
