"""The one error tree of the cloud: what went wrong in AWS's words, independent of any transport.

    CloudError
    ├── InvalidArgument   the request is malformed or contradicts itself     (caller repairs it)
    ├── NotFound          what it names does not exist for this caller
    ├── AlreadyExists     the name is taken
    ├── WrongState        the thing is there, but not in a state that allows this
    ├── Stale             the caller acted on an old revision, epoch or generation
    ├── NoCapacity        out of room or over a limit
    ├── Denied            the caller may not do this
    ├── Unauthenticated   the caller did not prove who it is
    ├── Unsupported       AWS has it, this cloud does not
    ├── DataLoss          what was stored is not what was written
    └── Unavailable       a part of the cloud does not answer now            (caller tries again)

`code` is the error code that the AWS API documents for the case (InvalidAMIID.NotFound, NoSuchKey …). Anything else
that is raised is a bug and reaches the client as an opaque InternalError with its request id.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final


class CloudError(Exception):
    """An error a client may see. `details` (string to string) travel along: S3 shows them as XML elements."""

    default_code: ClassVar[str] = "InternalError"

    def __init__(self, message: str, *, code: str = "", details: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.details: dict[str, str] = dict(details or {})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.code!r}, {self.message!r})"


class InvalidArgument(CloudError):
    default_code = "InvalidParameterValue"


class NotFound(CloudError):
    default_code = "NotFound"


class AlreadyExists(CloudError):
    default_code = "AlreadyExists"


class WrongState(CloudError):
    default_code = "IncorrectState"


class Stale(CloudError):
    default_code = "Stale"


class NoCapacity(CloudError):
    default_code = "InsufficientInstanceCapacity"


# A NoCapacity of this code is a node's word about its images alone: it may have room for others.
IMAGE_CACHE_FULL: Final = "ImageCacheFull"


class Denied(CloudError):
    default_code = "UnauthorizedOperation"


class Unauthenticated(CloudError):
    default_code = "AuthFailure"


class Unsupported(CloudError):
    default_code = "UnsupportedOperation"


class DataLoss(CloudError):
    """For the operator: a client sees AWS's InternalError."""


class Unavailable(CloudError):
    default_code = "Unavailable"
