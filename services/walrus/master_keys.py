"""Master keys that change while the store serves: what older ones sealed is sealed by the newest.

Bodies stay as they are: each has a key of its own, and that alone is sealed anew. What was done is done for good, so
who is interrupted begins again and finds less to do.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from common.errors import WrongState
from common.keyring import Keyring
from common.log import get_logger
from services.walrus import encryption
from services.walrus.store import Store

_AT_ONCE: Final = 256

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    # So far.
    resealed: int
    # Whose key no master key opens: of this step.
    unopened: Sequence[str] = ()
    complete: bool = False


@dataclass(kw_only=True)
class MasterKeys:
    store: Store
    # As they are kept now. Raises OSError, ValueError.
    load: Callable[[], Keyring]

    def read(self) -> Keyring:
        """What is stored from now on is sealed by the newest of them. Raises WrongState: those before stay in use."""
        try:
            self.store.keyring = keyring = self.load()
        except (OSError, ValueError) as error:
            raise WrongState(f"The master keys cannot be read: {error}", code="IncorrectState") from error
        _log.info("master keys were read", newest=keyring.newest)
        return keyring

    async def reseal(self) -> AsyncGenerator[Step, None]:
        """Goes over all that is encrypted until nothing is sealed by an older key: also nothing that was under way."""
        total, again = 0, True
        told: set[str] = set()
        while again:
            again, place = False, ""
            while True:
                seal = functools.partial(encryption.resealed, self.store.keyring)
                some = await self.store.index.inspection.reseal(seal, start=place, limit=_AT_ONCE)
                total += some.changed
                again = again or some.changed > 0
                unopened = [one for one in some.unopened if one not in told]
                told.update(unopened)
                yield Step(resealed=total, unopened=unopened)
                place = some.next
                if not place:
                    break
        _log.info("nothing is sealed by an older master key", resealed=total, unopened=len(told))
        yield Step(resealed=total, complete=True)
