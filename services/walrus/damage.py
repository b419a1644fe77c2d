"""What is stored and is not what was written: told to the operator, and an error to whoever asked for it."""

from __future__ import annotations

from common.errors import CloudError
from common.log import get_logger
from common.metrics import counter
from services.walrus import errors
from services.walrus.drivers.base import Bucket
from services.walrus.drivers.versions import NULL_SHOWN

_log = get_logger(__name__)
_DAMAGED = counter(
    "mallee_walrus_damaged_reads",
    "Objects, and rows of the index, that were read and are not what was written any more",
)


def found(bucket: Bucket, key: bytes, version_id: str | None, cause: Exception) -> CloudError:
    """The error to raise. `cause` names the blob; `version_id` None: the newest."""
    _DAMAGED.inc()
    version = version_id or ("newest" if version_id is None else NULL_SHOWN)
    _log.error("an object is damaged", bucket=bucket.name, key=errors.shown(key), version=version, why=str(cause))
    return errors.damaged(key, str(cause))


def found_row(what: str) -> CloudError:
    """The error to raise, of a row of the index that says what nobody wrote. `what`: in words, whose it seems to be."""
    _DAMAGED.inc()
    _log.error("a row of the index is damaged", what=what)
    return errors.damaged_row(what)
