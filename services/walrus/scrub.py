"""All that is stored, read and compared with its checksums: in the background, little by little, and when asked for.

A pass goes through the index itself, its rows, the bodies in it, the blobs in the order of their ids, pinned
images, and files that nobody needs. Where it is stands in the index, so a restart goes on there.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from common.errors import DataLoss
from common.log import get_logger
from common.metrics import counter, gauge
from services.walrus.blocks import verified
from services.walrus.drivers.base import BlobId
from services.walrus.drivers.blobs import BlobDamaged, BlobMissing
from services.walrus.drivers.inspection import Needed
from services.walrus.store import Store

_BLOBS_AT_ONCE: Final = 64
_BODIES_AT_ONCE: Final = 256
_STEP_BYTES: Final = 8 << 20
_CHUNK_BYTES: Final = 1 << 20
_NOTE: Final = "scrub-pass"
_NOTE_EVERY_MS: Final = 30_000
# How soon a clock that was set is noticed.
_IDLE_S: Final = 60.0

_log = get_logger(__name__)
_SCRUBBED = counter("mallee_walrus_scrubbed_bytes", "Bytes that the scrub read and compared")
_FINDINGS = counter("mallee_walrus_scrub_findings", "What the scrub found, by kind", ("kind",))
_LAST_PASS = gauge("mallee_walrus_scrub_last_pass_timestamp_seconds", "When the scrub had last seen everything")


class Kind(StrEnum):
    DAMAGED = "damaged"
    MISSING = "missing"
    SURPLUS = "surplus"
    INDEX = "index"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    kind: Kind
    what: str
    owners: Sequence[str] = ()
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Some of a pass. `position`: where the next one goes on; empty: it was the last."""

    position: str
    scrubbed_bytes: int = 0
    compared: int = 0
    findings: Sequence[Finding] = ()


@dataclass(frozen=True, slots=True)
class _Progress:
    began_ms: int
    # Of the last pass that came to its end.
    ended_ms: int
    # Empty: there is no pass.
    position: str

    @classmethod
    def parsed(cls, text: str) -> _Progress:
        began, ended, position = text.split(" ") if text else ("0", "0", "")
        return cls(int(began), int(ended), position)

    def text(self) -> str:
        return f"{self.began_ms} {self.ended_ms} {self.position}"


@dataclass(slots=True)
class Pace:
    """At most so many bytes a second; 0: as fast as it goes."""

    bytes_per_s: int
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def spend(self, size: int) -> None:
        if self.bytes_per_s:
            await self.sleep(size / self.bytes_per_s)


@dataclass(kw_only=True)
class Scrubber:
    store: Store
    # Of pinned images.
    pins: Path
    bytes_per_s: int
    # From the beginning of one pass to that of the next.
    cycle_s: float
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def run(self) -> None:
        while True:
            stands = _Progress.parsed(await self.store.index.inspection.note(_NOTE))
            _LAST_PASS.set(stands.ended_ms / 1000)
            due_ms = stands.began_ms + int(self.cycle_s * 1000)
            if stands.position or self.store.now_ms() >= due_ms:
                await self._pass(stands)
            else:
                await self.sleep(min((due_ms - self.store.now_ms()) / 1000, _IDLE_S))

    async def _pass(self, stands: _Progress) -> None:
        """The rest of it; or a new one."""
        if not stands.position:
            stands = replace(stands, began_ms=self.store.now_ms())
        noted_ms = 0
        async with aclosing(self.scrub(stands.position, Pace(self.bytes_per_s, self.sleep))) as steps:
            async for step in steps:
                stands = replace(stands, position=step.position)
                # A note costs a commit, and a crash costs what was read since.
                if step.position and self.store.now_ms() >= noted_ms + _NOTE_EVERY_MS:
                    noted_ms = self.store.now_ms()
                    await self.store.index.inspection.put_note(_NOTE, stands.text())
        stands = replace(stands, ended_ms=self.store.now_ms(), position="")
        await self.store.index.inspection.put_note(_NOTE, stands.text())
        _log.info("the scrub has seen everything")

    async def scrub(self, position: str, pace: Pace) -> AsyncGenerator[Step, None]:
        """A pass from `position` on, or from the beginning."""
        phases = {
            "index": self._index,
            "rows": self._rows,
            "bodies": self._bodies,
            "blobs": self._blobs,
            "pins": self._pins,
            "surplus": self._surplus,
        }
        names = list(phases)
        phase, _, place = position.partition(":")
        for number in range(names.index(phase) if phase in phases else 0, len(names)):
            async with aclosing(phases[names[number]](place, pace)) as steps:
                async for step in steps:
                    following = f"{names[number]}:{step.position}" if step.position else _first(names, number + 1)
                    for finding in step.findings:
                        _told(finding)
                    _SCRUBBED.inc(step.scrubbed_bytes)
                    yield Step(
                        position=following,
                        scrubbed_bytes=step.scrubbed_bytes,
                        compared=step.compared,
                        findings=step.findings,
                    )
            place = ""

    async def _index(self, place: str, pace: Pace) -> AsyncGenerator[Step, None]:
        said = await self.store.index.inspection.unsound()
        yield Step(position="", findings=[Finding(kind=Kind.INDEX, what="index", why=line) for line in said])

    async def _rows(self, place: str, pace: Pace) -> AsyncGenerator[Step, None]:
        while True:
            some = await self.store.index.inspection.rows(start=place, limit=_BODIES_AT_ONCE)
            why = "its row is not what was written"
            findings = [Finding(kind=Kind.DAMAGED, what="row", owners=[owner], why=why) for owner in some.damaged]
            yield Step(position=some.next, findings=findings)
            if not some.next:
                return
            place = some.next

    async def _bodies(self, place: str, pace: Pace) -> AsyncGenerator[Step, None]:
        inspection = self.store.index.inspection
        start: int | None = int(place or 0)
        while start is not None:
            some = await inspection.bodies(start=start, limit=_BODIES_AT_ONCE)
            findings = [
                Finding(
                    kind=Kind.DAMAGED,
                    what=f"body {body}",
                    owners=await inspection.owners_of_body(body),
                    why="it is not what was written",
                )
                for body in some.damaged
            ]
            start = some.next
            yield Step(
                position="" if start is None else str(start),
                scrubbed_bytes=some.size,
                compared=some.count,
                findings=findings,
            )
            await pace.spend(some.size)

    async def _blobs(self, place: str, pace: Pace) -> AsyncGenerator[Step, None]:
        while True:
            with ExitStack() as stack:
                with self.store.readers.lookup():
                    page = await self.store.index.inspection.needed(after=place, limit=_BLOBS_AT_ONCE)
                    stack.enter_context(self.store.readers.hold(one.blob for one in page))
                for one in page:
                    yield await self._blob(one, pace)
                    place = one.blob
            if not page:
                yield Step(position="")
                return

    async def _blob(self, one: Needed, pace: Pace) -> Step:
        """It is held, so what is not there is missing."""
        done = 0
        try:
            async with self.store.blobs.opened(one.blob) as file:
                while done < file.size:
                    end = min(done + _STEP_BYTES, file.size)
                    await file.verify(done, end, fresh=True)
                    await pace.spend(end - done)
                    done = end
                if file.size < one.size:
                    raise BlobDamaged(f"it is {file.size} bytes long where {one.size} were written")
                return Step(position=one.blob, scrubbed_bytes=done, compared=1)
        except BlobMissing as error:
            kind, why = Kind.MISSING, str(error)
        except BlobDamaged as error:
            kind, why = Kind.DAMAGED, str(error)
        owners = await (self._owners_of_pack(one.blob) if one.pack else self.store.index.inspection.owners(one.blob))
        finding = Finding(kind=kind, what=f"blob {one.blob}", owners=owners, why=why)
        return Step(position=one.blob, scrubbed_bytes=done, compared=1, findings=[finding])

    async def _owners_of_pack(self, pack: BlobId) -> list[str]:
        """Who has those blocks of it that are damaged. The next upload that brings one puts it right."""
        damaged = []
        for block in await self.store.index.blocks.blocks_of(pack):
            try:
                await verified(self.store, block)
            except DataLoss:
                damaged.append(block.digest)
        return await self.store.index.inspection.owners_of_blocks(damaged)

    async def _pins(self, place: str, pace: Pace) -> AsyncGenerator[Step, None]:
        pins = await self.store.index.inspection.pins()
        for sha256 in sorted({pin.sha256 for pin in pins if pin.sha256 > place}):
            images = [f"image {pin.image_id}" for pin in pins if pin.sha256 == sha256]
            size = next(pin.size for pin in pins if pin.sha256 == sha256)
            kind, why, done = await self._pin(sha256, size, pace)
            findings = [Finding(kind=kind, what=f"pin {sha256}", owners=images, why=why)] if kind else []
            # One that was let go meanwhile is not missing.
            if findings and sha256 not in await self.store.index.pinned_contents():
                findings = []
            yield Step(position=sha256, scrubbed_bytes=done, compared=1, findings=findings)
        yield Step(position="")

    async def _pin(self, sha256: str, size: int, pace: Pace) -> tuple[Kind | None, str, int]:
        """What is wrong with it, or nothing; and how many bytes were read."""
        digest, done = hashlib.sha256(), 0
        try:
            with (self.pins / sha256).open("rb") as file:
                while done < size and (chunk := await self.store.in_thread(file.read, min(_CHUNK_BYTES, size - done))):
                    await self.store.in_thread(digest.update, chunk)
                    done += len(chunk)
                    await pace.spend(len(chunk))
        except FileNotFoundError:
            return Kind.MISSING, "it is not there", done
        except OSError as error:
            return Kind.DAMAGED, f"it cannot be read: {error.strerror}", done
        same = digest.hexdigest() == sha256
        return (None, "", done) if same else (Kind.DAMAGED, "it is not what its name says", done)

    async def _surplus(self, place: str, pace: Pace) -> AsyncGenerator[Step, None]:
        async for blobs in self.store.blobs.scan():
            named = await self.store.index.named(blobs)
            # One that was let go meanwhile was reclaimed before the index was asked.
            surplus = [blob for blob in blobs if blob not in named and await self._is_there(blob)]
            findings = [Finding(kind=Kind.SURPLUS, what=f"blob {blob}", why="nothing needs it") for blob in surplus]
            if findings:
                yield Step(position="again", findings=findings)
        yield Step(position="")

    async def _is_there(self, blob: BlobId) -> bool:
        try:
            async with self.store.blobs.opened(blob):
                return True
        except BlobMissing:
            return False
        except BlobDamaged:
            return True


def _first(names: Sequence[str], number: int) -> str:
    return f"{names[number]}:" if number < len(names) else ""


def _told(finding: Finding) -> None:
    _FINDINGS.labels(finding.kind.value).inc()
    _log.error("the scrub found", kind=finding.kind.value, what=finding.what, owners=finding.owners, why=finding.why)
