"""What the owner of a bucket configured: messages of S3's API, each kept whole under the name of its type."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from google.protobuf.message import Message

from services.walrus.drivers.base import Bucket

if TYPE_CHECKING:
    # It decides by what is configured.
    from services.walrus.store import Store

Config = TypeVar("Config", bound=Message)
Reader = TypeVar("Reader", bound=Callable[..., Any])

_EVERYDAY: Final = 512
_EVERYDAY_BYTES: Final = 4 << 10


def kind_of(config: type[Message]) -> str:
    return str(config.DESCRIPTOR.name)


def body_of(config: Message) -> bytes:
    return config.SerializeToString(deterministic=True)


def remembered(large: int) -> Callable[[Reader], Reader]:
    """What a body was read to, which is asked for with every request, stays: of everyday bodies of many, of others of
    so many. Read it takes several times its size, and some may be megabytes.
    """

    def remembering(read: Reader) -> Reader:
        everyday, others = lru_cache(_EVERYDAY)(read), lru_cache(large)(read)

        def again(body: bytes, *more: Any) -> Any:
            return (everyday if len(body) <= _EVERYDAY_BYTES else others)(body, *more)

        return cast("Reader", again)

    return remembering


def find(bucket: Bucket, config: type[Config]) -> Config | None:
    """None: it was never configured, or is not any more."""
    body = bucket.configs.get(kind_of(config))
    return None if body is None else config.FromString(body)


def serialized(*configs: Message) -> dict[str, bytes]:
    """For a bucket that is made with them."""
    return {kind_of(type(one)): body_of(one) for one in configs}


async def put(store: Store, bucket: Bucket, config: Message) -> None:
    """Raises NotFound (NoSuchBucket)."""
    await store.index.put_config(bucket, kind_of(type(config)), body_of(config))


async def delete(store: Store, bucket: Bucket, config: type[Message]) -> None:
    """Raises NotFound (NoSuchBucket)."""
    await store.index.put_config(bucket, kind_of(config), None)
