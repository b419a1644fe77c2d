"""CloudError to trailing metadata and back, for the whole tree."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import errors
from common.errors import CloudError
from common.rpc.errors import DETAILS_KEY, cloud_errors, from_rpc_error, status_of, to_trailer

# Those of the tree itself: other modules, which other tests import, refine them.
KINDS: list[type[CloudError]] = [
    CloudError,
    *(kind for kind in CloudError.__subclasses__() if kind.__module__ == errors.__name__),
]
# What protobuf strings hold: anything but lone surrogates.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def over_the_wire(error: CloudError) -> CloudError:
    trailer = grpc.aio.Metadata(*to_trailer(error))
    return from_rpc_error(grpc.aio.AioRpcError(status_of(error), grpc.aio.Metadata(), trailer, details=error.message))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_comes_back_as_itself_with_a_status_of_its_own(kind: type[CloudError]) -> None:
    back = over_the_wire(kind("said", code="Some.Code", details={"Key": "k"}))
    assert type(back) is kind
    assert (back.code, back.message, back.details) == ("Some.Code", "said", {"Key": "k"})
    assert len({status_of(other("")) for other in KINDS}) == len(KINDS)


@given(kind=st.sampled_from(KINDS), message=TEXT, code=TEXT.filter(bool), details=st.dictionaries(TEXT, TEXT))
def test_any_text_crosses_unchanged(kind: type[CloudError], message: str, code: str, details: dict[str, str]) -> None:
    details.pop("kind", None)
    back = over_the_wire(kind(message, code=code, details=details))
    assert (type(back), back.message, back.code, back.details) == (kind, message, code, details)


def test_a_refined_error_crosses_as_the_kind_it_refines() -> None:
    class NoSuchVolume(errors.NotFound):
        default_code = "InvalidVolume.NotFound"

    back = over_the_wire(NoSuchVolume("gone"))
    assert type(back) is errors.NotFound
    assert back.code == "InvalidVolume.NotFound"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.Unavailable),
        (grpc.StatusCode.CANCELLED, errors.Unavailable),
        (grpc.StatusCode.UNKNOWN, CloudError),
        (grpc.StatusCode.DATA_LOSS, errors.DataLoss),
    ],
)
def test_an_error_of_the_connection_gets_the_kind_of_its_status(
    status: grpc.StatusCode, kind: type[CloudError]
) -> None:
    bare = grpc.aio.AioRpcError(status, grpc.aio.Metadata(), grpc.aio.Metadata(), details="cut off")
    assert type(from_rpc_error(bare)) is kind
    with pytest.raises(kind, match="cut off"), cloud_errors():
        raise bare


def test_details_that_are_not_ours_are_passed_over() -> None:
    trailer = grpc.aio.Metadata((DETAILS_KEY, b"\xff\xff"))
    bare = grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), trailer, details="elsewhere")
    assert type(from_rpc_error(bare)) is errors.NotFound


def test_a_write_to_a_connection_that_breaks_is_no_bug() -> None:
    none = grpc.aio.Metadata()
    broken = grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, none, none, details="Internal error from Core")
    assert type(from_rpc_error(broken)) is errors.Unavailable


async def test_a_call_that_is_cut_off_is_told_from_a_caller_that_is_cancelled() -> None:
    call: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def use() -> None:
        with cloud_errors():
            await call

    cancelled = asyncio.ensure_future(use())
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    # The call has gone with it.
    with pytest.raises(errors.Unavailable):
        await use()
