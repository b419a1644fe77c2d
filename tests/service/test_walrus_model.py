"""The store against a plain dictionary: random puts, deletes, uploads, restarts and listings must agree."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from common.errors import NotFound
from mallee.s3.v1 import listing_pb2, object_pb2
from services.walrus import delete, listing
from services.walrus.reclaim import Reclaimer
from services.walrus.store import Store
from tests.walrus_store import (
    ALICE,
    begin_upload,
    complete,
    files_of,
    get_bytes,
    make_bucket,
    opened_store,
    put_bytes,
    upload_part,
)

KEYS = st.text(alphabet="ab/é\U0001f600\x01", min_size=1, max_size=5)
ENCRYPTION = st.sampled_from([{}, {"server_side_encryption": "AES256"}])
BODIES = st.integers(0, 300).map(lambda size: bytes(n % 256 for n in range(size)))


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name) / "walrus"
        self.stack = AsyncExitStack()
        self.model: dict[str, bytes] = {}
        self.store: Store

    @initialize()
    def begin(self) -> None:
        self.runner.run(self._open())
        self.runner.run(make_bucket(self.store))

    @rule(key=KEYS, body=BODIES, asked=ENCRYPTION)
    def put(self, key: str, body: bytes, asked: dict[str, Any]) -> None:
        self.runner.run(put_bytes(self.store, key, body, **asked))
        self.model[key] = body

    @rule(key=KEYS, bodies=st.lists(BODIES, min_size=1, max_size=3), asked=ENCRYPTION)
    def upload(self, key: str, bodies: list[bytes], asked: dict[str, Any]) -> None:
        pieces = [*(body + bytes(100) for body in bodies[:-1]), bodies[-1]]
        self.runner.run(self._upload(key, pieces, asked))
        self.model[key] = b"".join(pieces)

    @rule(keys=st.lists(KEYS, min_size=1, max_size=3))
    def delete(self, keys: list[str]) -> None:
        request = object_pb2.DeleteObjectsRequest(bucket="bucket")
        for key in keys:
            request.delete.objects.add(key=key)
            self.model.pop(key, None)
        self.runner.run(delete.delete_objects(self.store, request, ALICE))

    @rule(key=KEYS, start=st.integers(0, 400), length=st.integers(1, 400))
    def read(self, key: str, start: int, length: int) -> None:
        wanted = self.model.get(key)
        if wanted is None or start < len(wanted):
            header = f"bytes={start}-{start + length - 1}"
            found = self.runner.run(self._read(key, header))
            assert found == (wanted[start : start + length] if wanted is not None else None)

    @rule(
        prefix=st.sampled_from(["", "a", "a/", "b/a"]),
        delimiter=st.sampled_from(["", "/", "a"]),
        size=st.integers(1, 4),
    )
    def listed(self, prefix: str, delimiter: str, size: int) -> None:
        wanted = set()
        for key in self.model:
            if key.startswith(prefix):
                rest = key[len(prefix) :]
                cut = rest.find(delimiter) + len(delimiter) if delimiter and delimiter in rest else len(rest)
                wanted.add(prefix + rest[:cut])
        assert self.runner.run(self._list(prefix, delimiter, size)) == sorted(wanted, key=str.encode)

    @rule()
    def restart(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.run(self._open())

    @rule()
    def reclaim(self) -> None:
        self.runner.run(self._reclaim())

    @invariant()
    def usage_is_exact(self) -> None:
        usage = self.runner.run(self.store.index.usage())
        assert (usage.objects, usage.size) == (len(self.model), sum(map(len, self.model.values())))

    def teardown(self) -> None:
        for key, body in self.model.items():
            assert self.runner.run(get_bytes(self.store, key)) == body
        self.runner.run(self.stack.aclose())
        self.runner.close()
        self.folder.cleanup()

    async def _open(self) -> None:
        self.store = await self.stack.enter_async_context(opened_store(self.root))

    async def _upload(self, key: str, pieces: list[bytes], asked: dict[str, Any]) -> None:
        upload_id = await begin_upload(self.store, key, **asked)
        etags = {n: await upload_part(self.store, key, upload_id, n, piece) for n, piece in enumerate(pieces, 1)}
        await complete(self.store, key, upload_id, etags)

    async def _read(self, key: str, header: str) -> bytes | None:
        try:
            return await get_bytes(self.store, key, range=header)
        except NotFound:
            return None

    async def _list(self, prefix: str, delimiter: str, size: int) -> list[str]:
        request = listing_pb2.ListObjectsV2Request(bucket="bucket", prefix=prefix, delimiter=delimiter, max_keys=size)
        seen: list[str] = []
        while True:
            page = await listing.list_objects_v2(self.store, request, ALICE)
            names = [*(one.key for one in page.contents), *(one.prefix for one in page.common_prefixes)]
            seen += sorted(names, key=str.encode)
            if not page.is_truncated:
                return seen
            request.continuation_token = page.next_continuation_token

    async def _reclaim(self) -> None:
        reclaimer = Reclaimer(self.store)
        assert await reclaimer.sweep_orphans() == 0
        while await reclaimer.collect():
            pass
        named = await self.store.index.garbage(10)
        assert named == []
        inline = self.store.limits.inline_bytes
        assert len(files_of(self.root)) >= sum(len(body) > inline for body in self.model.values())


TestStore = StoreMachine.TestCase
TestStore.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
