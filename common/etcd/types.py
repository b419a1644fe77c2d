"""What the etcd client takes and gives: key-values, changes, transactions and its errors. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from common.errors import Unavailable
from etcdrpc import kv_pb2, rpc_pb2


class OutcomeUnknown(Unavailable):
    """A write was sent and no answer came: it may or may not have happened. Read before writing again."""


class Compacted(Exception):
    """The revision asked for is gone from etcd's history: list afresh."""

    def __init__(self, revision: int) -> None:
        super().__init__(f"history before revision {revision} is compacted")
        self.revision = revision


class EtcdError(Exception):
    """etcd refused the request itself (too large, no permission, no such lease …): `status` is the gRPC code's name."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class KeyValue:
    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int

    @classmethod
    def from_proto(cls, kv: kv_pb2.KeyValue) -> KeyValue:
        return cls(kv.key.decode(), kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything under a prefix as it stood at one revision."""

    revision: int
    items: tuple[KeyValue, ...]


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """`current` is None when the key was deleted at `revision`."""

    key: str
    current: KeyValue | None
    revision: int


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """Whole revisions in order: a transaction is never torn over two batches.

    Without events it is a sign of life, and `revision` is 0.
    """

    revision: int
    events: tuple[WatchEvent, ...]


@dataclass(frozen=True, slots=True)
class TxnResult:
    """`revision` is that of the store; after success the mod_revision of every key the transaction put.

    `found` holds what the reads of the branch that ran saw: None for an absent key.
    """

    succeeded: bool
    revision: int
    found: Mapping[str, KeyValue | None]


class Txn:
    """A transaction: all comparisons hold → all writes happen, at one revision; else none.

        result = await etcd.txn(Txn().if_mod_revision(key, seen).put(key, value).else_get(key))

    etcd refuses one that puts a key twice, has more operations than --max-txn-ops or is larger than 1.5 MiB.
    """

    def __init__(self) -> None:
        self._request = rpc_pb2.TxnRequest()

    def if_mod_revision(self, key: str, revision: int) -> Self:
        """The key was last written at exactly `revision`; 0: it is absent."""
        self._compare(key, rpc_pb2.Compare.MOD).mod_revision = revision
        return self

    def if_create_revision(self, key: str, revision: int) -> Self:
        """The key has stood since exactly `revision`, whatever was written to it since."""
        self._compare(key, rpc_pb2.Compare.CREATE).create_revision = revision
        return self

    def if_absent(self, key: str) -> Self:
        return self.if_create_revision(key, 0)

    def put(self, key: str, value: bytes, *, lease: int = 0) -> Self:
        self._request.success.add().request_put.CopyFrom(rpc_pb2.PutRequest(key=key.encode(), value=value, lease=lease))
        return self

    def delete(self, key: str) -> Self:
        self._request.success.add().request_delete_range.key = key.encode()
        return self

    def delete_prefix(self, prefix: str) -> Self:
        operation = self._request.success.add().request_delete_range
        operation.key, operation.range_end = prefix.encode(), prefix_end(prefix)
        return self

    def get(self, key: str) -> Self:
        self._request.success.add().request_range.key = key.encode()
        return self

    def else_get(self, key: str) -> Self:
        """Read when a comparison fails, so that the caller need not ask again."""
        self._request.failure.add().request_range.key = key.encode()
        return self

    def __len__(self) -> int:
        """Operations, as --max-txn-ops counts them."""
        request = self._request
        return max(len(request.compare), len(request.success), len(request.failure))

    @property
    def size_bytes(self) -> int:
        return self._request.ByteSize()

    @property
    def request(self) -> rpc_pb2.TxnRequest:
        return self._request

    def result(self, response: rpc_pb2.TxnResponse) -> TxnResult:
        operations = self._request.success if response.succeeded else self._request.failure
        found: dict[str, KeyValue | None] = {}
        for operation, answer in zip(operations, response.responses, strict=True):
            if operation.HasField("request_range"):
                kvs = answer.response_range.kvs
                found[operation.request_range.key.decode()] = KeyValue.from_proto(kvs[0]) if kvs else None
        return TxnResult(response.succeeded, response.header.revision, found)

    def _compare(self, key: str, target: rpc_pb2.Compare.CompareTarget.ValueType) -> rpc_pb2.Compare:
        return self._request.compare.add(key=key.encode(), target=target, result=rpc_pb2.Compare.EQUAL)


def prefix_end(prefix: str) -> bytes:
    """The first key after all those that start with `prefix`."""
    raw = prefix.encode()
    if not raw:
        return b"\0"
    return raw[:-1] + bytes([raw[-1] + 1])
