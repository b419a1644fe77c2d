"""Walrus' pure rules: names, ranges, conditions, checksums, and what images' first bytes say."""

from __future__ import annotations

import base64
import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.disk_image import qcow2_virtual_size
from common.errors import CloudError, InvalidArgument
from services.walrus import bucket, conditions, copy_source, digests, image, ranges
from services.walrus.drivers.base import Attributes, Inline, Object
from services.walrus.drivers.embedded.scans import after_all, common_prefix


@pytest.mark.parametrize("name", ["abc", "a-b.c", "1" * 63, "my.bucket-1"])
def test_good_bucket_names_pass(name: str) -> None:
    bucket.check_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "ab", "a" * 64, "Abc", "a_b", ".ab", "ab-", "a..b", "10.0.0.1", "xn--abc", "a-s3alias", "ab\n", "ключ"],
)
def test_bad_bucket_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        bucket.check_name(name)
    assert caught.value.code == "InvalidBucketName"


@pytest.mark.parametrize(
    ("constraint", "region", "good"),
    [
        ("", "us-east-1", True),
        ("us-east-1", "us-east-1", True),
        ("eu-west-1", "us-east-1", False),
        ("", "eu-west-1", False),
        ("eu-west-1", "eu-west-1", True),
    ],
)
def test_a_bucket_is_made_in_the_region_that_was_asked(constraint: str, region: str, good: bool) -> None:
    if good:
        bucket.check_location(constraint, region)
    else:
        with pytest.raises(InvalidArgument):
            bucket.check_location(constraint, region)


@given(st.integers(0, 50), st.text(alphabet="bytes=-, 0123456789x", max_size=15))
def test_any_range_header_is_a_span_within_the_object_or_refused_or_ignored(size: int, tail: str) -> None:
    try:
        span = ranges.span_of("bytes=" + tail, size)
    except InvalidArgument as refusal:
        code = refusal.code
    else:
        code = "InvalidRange"
        assert span is None or 0 <= span.start < span.end <= size
    assert code == "InvalidRange"


def test_a_range_of_very_many_digits_is_no_bug() -> None:
    assert ranges.span_of(f"bytes=0-{'9' * 400}", 5) == ranges.Span(0, 5)
    assert ranges.span_of(f"bytes=0-{'9' * 5000}", 5) is None
    with pytest.raises(InvalidArgument):
        copy_source.span_of(f"bytes=0-{'9' * 5000}", 5)


def an_object(etag: str = "e" * 32, modified_ms: int = 5_500) -> Object:
    return Object(
        key=b"k",
        size=0,
        etag=etag,
        modified_ms=modified_ms,
        checksum=None,
        attributes=Attributes(),
        content=Inline(body=b""),
    )


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({}, ""),
        ({"if_match": f'"{"e" * 32}"'}, ""),
        ({"if_match": "*"}, ""),
        ({"if_match": '"x", W/"' + "e" * 32 + '"'}, ""),
        ({"if_match": '"x"'}, "PreconditionFailed"),
        ({"if_match": "*", "if_unmodified_since_s": 1}, ""),
        ({"if_unmodified_since_s": 4}, "PreconditionFailed"),
        ({"if_unmodified_since_s": 5}, ""),
        ({"if_none_match": "e" * 32}, "NotModified"),
        ({"if_none_match": '"x"', "if_modified_since_s": 9}, ""),
        ({"if_modified_since_s": 5}, "NotModified"),
        ({"if_modified_since_s": 10}, "NotModified"),
        ({"if_modified_since_s": 11}, ""),
        ({"if_modified_since_s": 4}, ""),
        ({"if_match": '"x"', "if_none_match": "*"}, "PreconditionFailed"),
    ],
)
def test_conditions_are_weighed_in_the_order_of_the_standard(members: dict[str, str | int], code: str) -> None:
    asked = conditions.ReadConditions(**members)  # type: ignore[arg-type]
    if not code:
        asked.check(an_object(), now_ms=10_000)
        return
    with pytest.raises(CloudError) as caught:
        asked.check(an_object(), now_ms=10_000)
    assert caught.value.code == code


# https://reveng.sourceforge.io/crc-catalogue/ for the check values of "123456789".
@pytest.mark.parametrize(
    ("algorithm", "value"),
    [
        ("CRC32", struct.pack(">I", 0xCBF43926)),
        ("CRC32C", struct.pack(">I", 0xE3069283)),
        ("CRC64NVME", struct.pack(">Q", 0xAE8B14860A799888)),
        ("SHA1", hashlib.sha1(b"123456789").digest()),
        ("SHA256", hashlib.sha256(b"123456789").digest()),
    ],
)
def test_checksums_are_the_standard_ones(algorithm: str, value: bytes) -> None:
    found = digests.Digests({algorithm})
    found.update(b"1234")
    found.update(b"56789")
    assert found.value(algorithm) == base64.b64encode(value).decode()


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=5), st.sampled_from(["CRC32", "CRC32C", "CRC64NVME"]))
def test_checksums_of_parts_combine_to_that_of_the_whole(parts: list[bytes], algorithm: str) -> None:
    def of(body: bytes) -> str:
        found = digests.Digests({algorithm})
        found.update(body)
        return found.value(algorithm)

    combined = digests.checksum_of_parts(algorithm, [(of(part), len(part)) for part in parts], composite=False)
    assert combined.value == of(b"".join(parts))


@given(st.binary(max_size=6), st.binary(max_size=6))
def test_everything_under_a_prefix_sorts_before_what_follows_it(prefix: bytes, tail: bytes) -> None:
    following = after_all(prefix)
    assert following is None or prefix + tail < following
    if following is not None and tail < following:
        assert tail < prefix or tail.startswith(prefix)


def test_a_common_prefix_ends_with_the_first_delimiter_behind_the_prefix() -> None:
    assert common_prefix(b"a/b/c", b"a/", b"/") == b"a/b/"
    assert common_prefix(b"a/b", b"a/", b"/") == b""
    assert common_prefix(b"x/b", b"a/", b"/") == b""


@given(st.binary(max_size=300), st.booleans(), st.sampled_from([None, *image.Kind]))
def test_hostile_headers_are_refused_and_never_a_bug(tail: bytes, qcow2: bool, wanted: image.Kind | None) -> None:
    head = (b"QFI\xfb\x00\x00\x00\x03" if qcow2 else b"") + tail
    try:
        found = image.looks(head, max(len(head), 512), wanted)
    except InvalidArgument as refusal:
        message = refusal.message
    else:
        message = "What to do"
        assert (found.format == "qcow2") == (qcow2 and found.kind is image.Kind.MACHINE)
    assert "What to do" in message


def qcow2(*, features: int = 0, backing: int = 0, snapshots: int = 0, extension: int = 0) -> bytes:
    head = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, backing, 0, 16, 1 << 20, 0, 1, 0x30000, 0x10000, 1, snapshots, 0
    )
    head += struct.pack(">QQQII", features, 0, 0, 4, 104)
    return head + struct.pack(">II", extension, 8 if extension else 0) + b"/etc/pwd" + bytes(64)


def test_a_plain_qcow2_passes() -> None:
    assert qcow2_virtual_size(qcow2()) == 1 << 20
    assert qcow2_virtual_size(qcow2(features=0b11000)) == 1 << 20


@pytest.mark.parametrize(
    "members",
    [{"features": 1 << bit} for bit in (0, 1, 2, 5, 63)]
    + [{"backing": 104}, {"snapshots": 1}]
    + [{"extension": kind} for kind in (0xE2792ACA, 0x44415441, 0x0537BE77)],
)
def test_a_qcow2_that_is_more_than_its_own_bytes_is_refused(members: dict[str, int]) -> None:
    with pytest.raises(InvalidArgument):
        qcow2_virtual_size(qcow2(**members))
