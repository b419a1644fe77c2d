"""Browser forms as they stream, in pieces of any size, and what is none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from urllib3.filepost import encode_multipart_formdata

from common.errors import CloudError
from ec2_facade.errors import Refused
from ec2_facade.protocol import RestXmlProtocol
from ec2_facade.s3.form import FIELDS_BYTES, Form, boundary_of
from ec2_facade.s3.post import put_request
from ec2_facade.wire import WireRequest

BOUNDARY = "--x--x"
Fields = list[tuple[str, object]]


def encoded(fields: Fields) -> bytes:
    return encode_multipart_formdata(fields, BOUNDARY)[0]  # type: ignore[arg-type]


async def in_pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(body), size):
        yield body[at : at + size]


async def read(body: bytes, size: int = 7) -> tuple[dict[str, str], str, bytes]:
    form = Form(in_pieces(body, size), BOUNDARY.encode())
    await form.read_fields()
    file = b"".join([part async for part in form.file()])
    await form.read_rest()
    return form.fields, form.filename, file


@given(
    st.dictionaries(st.sampled_from(["key", "Acl", "x-amz-meta-ü"]), st.text(st.characters(exclude_categories=["Cs"]))),
    st.lists(st.sampled_from([b"\r", b"\n", b"-", b"--x", b"\r\n--", b"\r\n--x--x", BOUNDARY.encode(), b"abc"])),
    st.integers(1, 50),
)
def test_fields_and_file_come_out_as_they_went_in(fields: dict[str, str], parts: list[bytes], size: int) -> None:
    content = b"".join(parts)
    if f"\r\n--{BOUNDARY}".encode() in b"\r\n" + content or any(BOUNDARY in value for value in fields.values()):
        return
    body = encoded([*fields.items(), ("file", ("n", content))])
    found = asyncio.run(read(body, size))
    assert found == ({name.lower(): value for name, value in fields.items()}, "n", content)


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('form-data; name="file"', ""),
        ('form-data; name=file; filename="a b.txt"', "a b.txt"),
        ('form-data; name="FILE"; filename="C:\\dir\\b.txt"', "b.txt"),
        ('form-data; name="file"; filename="/home/me/c.txt"', "c.txt"),
        ("form-data; name=\"file\"; filename*=utf-8''%C3%BC", "ü"),
        ('form-data; name="file"; filename="ü"', "ü"),
        ('form-data; filename="a\\"; name=b"; name="file"', 'a"; name=b'),
    ],
)
async def test_a_file_is_called_as_its_last_part(disposition: str, name: str) -> None:
    body = f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\nbytes\r\n--{BOUNDARY}--\r\n".encode()
    assert await read(body) == ({}, name, b"bytes")


async def test_any_field_may_come_as_a_file_and_what_follows_the_file_is_ignored() -> None:
    body = encoded([("key", ("k.txt", b"a/b")), ("file", b"bytes"), ("acl", b"public-read"), ("key", b"other")])
    assert await read(body) == ({"key": "a/b"}, "", b"bytes")


async def test_what_stands_before_the_first_part_is_ignored() -> None:
    assert await read(b"preamble\r\n" + encoded([("file", b"bytes")])) == ({}, "", b"bytes")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "MalformedPOSTRequest"),
        (b"--x", "MalformedPOSTRequest"),
        (encoded([("key", b"k")]), "InvalidArgument"),
        (encoded([("key", b"k"), ("KEY", b"k"), ("file", b"")]), "MalformedPOSTRequest"),
        (encoded([("key", b"\xff"), ("file", b"")]), "MalformedPOSTRequest"),
        (encoded([("key", b"k" * FIELDS_BYTES), ("file", b"")]), "MaxPostPreDataLengthExceeded"),
        (b"x" * (FIELDS_BYTES + 100), "MaxPostPreDataLengthExceeded"),
        (encoded([("file", b"bytes")]).replace(b"form-data", b"attachment"), "MalformedPOSTRequest"),
        (encoded([("file", b"bytes")]).replace(b"Content-Disposition", b"X"), "MalformedPOSTRequest"),
        (encoded([("file", b"bytes")])[:-9], "MalformedPOSTRequest"),
        (f"--{BOUNDARY}\r\n".encode() + b"h" * 20000, "MalformedPOSTRequest"),
        (f"--{BOUNDARY}\r\n".encode() + b"h: 1\r\n" * 9000, "MaxPostPreDataLengthExceeded"),
        (f"--{BOUNDARY}nonsense\r\n".encode(), "MalformedPOSTRequest"),
    ],
)
async def test_what_is_no_form_is_refused(body: bytes, code: str) -> None:
    with pytest.raises(Refused) as caught:
        await read(body)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('Multipart/Form-Data; charset=x; boundary="a b=c"', b"a b=c"),
        ("application/x-www-form-urlencoded", None),
        ("", None),
    ],
)
def test_a_form_is_known_by_its_type(content_type: str, boundary: bytes | None) -> None:
    headers = (("content-type", content_type),)
    assert boundary_of(WireRequest(method="POST", raw_path="/", raw_query="", headers=headers)) == boundary


@pytest.mark.parametrize("given", ["", "; boundary=", f"; boundary={'x' * 71}", "; boundary=ü"])
def test_a_form_without_a_boundary_is_refused(given: str) -> None:
    headers = (("content-type", f"multipart/form-data{given}"),)
    with pytest.raises(Refused):
        boundary_of(WireRequest(method="POST", raw_path="/", raw_query="", headers=headers))


@pytest.mark.parametrize("name", ["a b", "a:b", "a\nb", "a\rb", "ü"])
async def test_metadata_whose_name_no_answer_could_show_is_refused(name: str) -> None:
    s3 = RestXmlProtocol("s3")
    disposition = f'form-data; name="x-amz-meta-{name}"'
    body = f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n1\r\n".encode()
    fields, _, _ = await read(body + encoded([("key", "k"), ("file", ("n", b""))]))
    assert f"x-amz-meta-{name}" in fields
    with pytest.raises(CloudError) as caught:
        put_request(s3, s3.contract.operations["PutObject"], "bucket", fields)
    assert caught.value.code == "InvalidArgument"
