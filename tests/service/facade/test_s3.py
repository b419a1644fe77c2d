"""S3 through the facade, driven by boto3: bodies, addresses, checksums, errors."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from google.protobuf.timestamp_pb2 import Timestamp

from common.errors import NotFound, WrongState
from ec2_facade.limits import MIB
from mallee.s3.v1 import bucket_pb2, multipart_pb2, object_pb2
from tests.eventually import eventually
from tests.service.facade.conftest import Stage, in_thread
from tests.service.facade.signing_client import Wire, raw_exchange
from tests.unit.facade.signing import ACCESS_KEY, REGION, SECRET, sign_headers


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 5 * MIB + 123])
async def test_an_object_goes_in_and_comes_out(stage: Stage, size: int) -> None:
    body = os.urandom(size)
    client = stage.client("s3")
    put = await in_thread(client.put_object, Bucket="b", Key="k", Body=body, Metadata={"a": "1"}, ContentType="x/y")
    assert put["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
    assert put["ResponseMetadata"]["HTTPHeaders"]["x-amz-id-2"]
    got = await in_thread(client.get_object, Bucket="b", Key="k")
    assert await in_thread(got["Body"].read) == body
    assert (got["Metadata"], got["ContentType"], got["ContentLength"]) == ({"a": "1"}, "x/y", size)


async def test_a_range_is_206(stage: Stage) -> None:
    client = stage.client("s3")
    await in_thread(client.put_object, Bucket="b", Key="k", Body=b"0123456789")
    got = await in_thread(client.get_object, Bucket="b", Key="k", Range="bytes=2-4")
    assert (await in_thread(got["Body"].read), got["ContentRange"]) == (b"234", "bytes 2-4/10")
    assert got["ResponseMetadata"]["HTTPStatusCode"] == 206


@pytest.mark.parametrize("key", ["a/b", "a%2Fb", "/a", "a//b", "a/../b", "./a", "ü ñ+&=?#~!'()*", "a" * 900, " x "])
async def test_keys_stay_byte_for_byte(stage: Stage, key: str) -> None:
    await in_thread(stage.client("s3").put_object, Bucket="bucket", Key=key, Body=b"x")
    assert list(stage.backstage.walrus.objects) == [("bucket", key)]


@pytest.mark.parametrize("host", ["bucket.s3.localhost", "BUCKET.localhost:8773", "bucket.s3.localhost."])
async def test_a_bucket_may_stand_in_the_host_name(stage: Stage, host: str) -> None:
    request = sign_headers("PUT", f"{stage.url}/a//b%2Fc", service="s3", body=b"x", headers={"Host": host})
    assert (await in_thread(Wire(request, b"x").send, stage.port))[0] == 200
    assert list(stage.backstage.walrus.objects) == [("bucket", "a//b/c")]


async def test_a_presigned_url_needs_no_credentials(stage: Stage) -> None:
    client = stage.client("s3", signature_version="s3v4")
    put = client.generate_presigned_url("put_object", Params={"Bucket": "b", "Key": "a b/c"})
    status, _ = await in_thread(raw_exchange, stage.port, "PUT", put, b"hello")
    assert status == 200
    get = client.generate_presigned_url("get_object", Params={"Bucket": "b", "Key": "a b/c"})
    assert await in_thread(raw_exchange, stage.port, "GET", get) == (200, b"hello")
    status, text = await in_thread(raw_exchange, stage.port, "GET", get.replace("a%20b", "a%20d"))
    assert (status, b"<Code>SignatureDoesNotMatch</Code>" in text, b"<CanonicalRequest>GET\n/b/a%20d/c" in text) == (
        403,
        True,
        True,
    )


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
async def test_checksums_in_headers_reach_walrus(stage: Stage, algorithm: str) -> None:
    client = stage.client("s3")
    await in_thread(client.put_object, Bucket="b", Key="k", Body=b"x", ChecksumAlgorithm=algorithm)
    ((_, header, _, _),) = stage.backstage.walrus.seen
    fields = {
        "CRC32": "checksum_crc32",
        "CRC32C": "checksum_crc32_c",
        "CRC64NVME": "checksum_crc64_nvme",
        "SHA1": "checksum_sha1",
        "SHA256": "checksum_sha256",
    }
    assert getattr(header, fields[algorithm])


async def test_a_stream_without_a_known_hash_comes_with_a_trailer(stage: Stage) -> None:
    """What boto3 sends for a body it cannot rewind, over https."""
    body = os.urandom(200_000)
    wire = Wire.trailing(f"{stage.url}/b/k", body, signed=False)
    status, _ = await in_thread(wire.send, stage.port)
    assert status == 200
    stored, header = stage.backstage.walrus.objects["b", "k"]
    assert (stored, header.content_length, header.content_encoding) == (body, len(body), "")
    assert list(stage.backstage.walrus.trailers) == ["x-amz-checksum-crc32"]
    # Named for Walrus, which computes no other.
    assert header.checksum_algorithm == "CRC32"


async def test_signed_chunks_are_verified_to_the_last(stage: Stage) -> None:
    body = os.urandom(200_000)
    wire = Wire.trailing(f"{stage.url}/b/k", body, signed=True)
    assert (await in_thread(wire.send, stage.port))[0] == 200
    assert stage.backstage.walrus.objects.pop(("b", "k"))[0] == body
    broken = Wire.trailing(f"{stage.url}/b/k", body, signed=True)
    broken.body = broken.body.replace(body[150_000:150_010], b"0123456789")
    status, text = await in_thread(broken.send, stage.port)
    assert (status, b"SignatureDoesNotMatch" in text) == (403, True)
    assert stage.backstage.walrus.objects == {}
    await asyncio.wait_for(stage.backstage.walrus.broken_off.wait(), 5)


async def test_a_body_that_differs_from_its_signed_hash_is_not_stored(stage: Stage) -> None:
    request = sign_headers("PUT", f"{stage.url}/b/k", service="s3", body=b"12345")
    status, text = await in_thread(Wire(request, b"54321").send, stage.port)
    assert (status, b"XAmzContentSHA256Mismatch" in text) == (400, True)
    assert stage.backstage.walrus.objects == {}


async def test_a_client_that_goes_away_stores_nothing(stage: Stage) -> None:
    body = os.urandom(3 * MIB)
    request = sign_headers("PUT", f"{stage.url}/b/k", service="s3", body=body)
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
    writer.write(Wire(request, body).head() + body[: 2 * MIB])
    await writer.drain()
    await eventually(lambda: stage.backstage.walrus.most_received > 0)
    writer.close()
    await asyncio.wait_for(stage.backstage.walrus.broken_off.wait(), 5)
    assert stage.backstage.walrus.objects == {}
    del reader


async def test_a_refusal_by_walrus_reaches_a_client_that_still_sends(stage: Stage) -> None:
    stage.backstage.walrus.refuse_upload = NotFound(
        "The specified bucket does not exist", code="NoSuchBucket", details={"BucketName": "b"}
    )
    with pytest.raises(ClientError) as caught:
        await in_thread(stage.client("s3").put_object, Bucket="b", Key="k", Body=os.urandom(8 * MIB))
    assert caught.value.response["Error"]["Code"] == "NoSuchBucket"
    assert dict(caught.value.response["Error"])["BucketName"] == "b"


async def test_nobody_is_invited_to_send_a_body_before_he_is_known(stage: Stage) -> None:
    for secret, expected in ((SECRET, b"HTTP/1.1 100 Continue"), (SECRET + "x", b"HTTP/1.1 403 Forbidden")):
        request = sign_headers(
            "PUT", f"{stage.url}/b/k", service="s3", body=b"12345", secret=secret, headers={"Expect": "100-continue"}
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
        writer.write(Wire(request, b"12345").head())
        assert (await asyncio.wait_for(reader.readline(), 5)).rstrip() == expected
        if secret == SECRET:
            writer.write(b"12345")
            await reader.readline()
            assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_a_slow_walrus_slows_the_client(stage: Stage) -> None:
    """Backpressure: what the facade takes from the client beyond what Walrus took is bounded."""
    stage.backstage.walrus.hold_upload = asyncio.Event()
    body = os.urandom(64 * MIB)
    request = sign_headers("PUT", f"{stage.url}/b/k", service="s3", body=body)
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
    writer.write(Wire(request, body).head())
    sent = 0
    view = memoryview(body)
    while sent < len(body):
        writer.write(view[sent : sent + MIB])
        sent += MIB
        try:
            await asyncio.wait_for(writer.drain(), 1.0)
        except TimeoutError:
            break
    # Kernel buffers on both sides included.
    assert sent < 32 * MIB
    stage.backstage.walrus.hold_upload.set()
    writer.write(view[sent:])
    assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_a_download_that_breaks_is_not_taken_for_whole(stage: Stage) -> None:
    client = stage.client("s3")
    await in_thread(client.put_object, Bucket="b", Key="k", Body=os.urandom(4 * MIB))
    stage.backstage.walrus.break_download_at = 2 * MIB
    connection = http.client.HTTPConnection("127.0.0.1", stage.port, timeout=10)
    request = sign_headers("GET", f"{stage.url}/b/k", service="s3")

    def fetch() -> None:
        connection.request("GET", "/b/k", headers=dict(request.headers))
        connection.getresponse().read()

    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        await in_thread(fetch)
    connection.close()


async def test_missing_objects(stage: Stage) -> None:
    client = stage.client("s3")
    with pytest.raises(client.exceptions.NoSuchKey):
        await in_thread(client.get_object, Bucket="b", Key="none")

    def absent(request: Any) -> Any:
        raise NotFound("The specified key does not exist.", code="NoSuchKey")

    stage.backstage.walrus.answers["HeadObject"] = absent
    with pytest.raises(ClientError) as caught:
        await in_thread(client.head_object, Bucket="b", Key="none")
    assert caught.value.response["Error"]["Code"] == "404"


async def test_head_tells_the_length_and_304_has_no_body(stage: Stage) -> None:
    stage.backstage.walrus.answers["HeadObject"] = lambda request: object_pb2.HeadObjectOutput(
        content_length=12345, e_tag='"x"'
    )
    client = stage.client("s3")
    assert (await in_thread(client.head_object, Bucket="b", Key="k"))["ContentLength"] == 12345

    def unchanged(request: Any) -> Any:
        raise WrongState("Not Modified", code="NotModified")

    stage.backstage.walrus.answers["HeadObject"] = unchanged
    with pytest.raises(ClientError) as caught:
        await in_thread(client.head_object, Bucket="b", Key="k", IfNoneMatch='"x"')
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 304


async def test_multi_delete_is_checked_against_its_checksum(stage: Stage) -> None:
    stage.backstage.walrus.answers["DeleteObjects"] = lambda request: object_pb2.DeleteObjectsOutput(
        deleted=[object_pb2.DeletedObject(key=item.key) for item in request.delete.objects]  # type: ignore[attr-defined]
    )
    client = stage.client("s3")
    keys = [{"Key": f"k{n}"} for n in range(1000)]
    answer = await in_thread(client.delete_objects, Bucket="b", Delete={"Objects": keys})
    assert len(answer["Deleted"]) == 1000
    body = b"<Delete><Object><Key>k</Key></Object></Delete>"
    for headers, code in (({}, "InvalidRequest"), ({"Content-MD5": "AAAAAAAAAAAAAAAAAAAAAA=="}, "BadDigest")):
        request = sign_headers("POST", f"{stage.url}/b?delete", service="s3", body=body, headers=headers)
        status, text = await in_thread(Wire(request, body).send, stage.port)
        assert (status, f"<Code>{code}</Code>".encode() in text) == (400, True)


async def test_multipart_through_boto3s_transfer(stage: Stage) -> None:
    answers = stage.backstage.walrus.answers
    answers["CreateMultipartUpload"] = lambda request: multipart_pb2.CreateMultipartUploadOutput(
        bucket="b", key="k", upload_id="u"
    )
    answers["CompleteMultipartUpload"] = lambda request: multipart_pb2.CompleteMultipartUploadOutput(e_tag='"x-2"')
    body = os.urandom(17 * MIB)
    await in_thread(stage.client("s3").upload_fileobj, io.BytesIO(body), "b", "k")
    parts = sorted(stage.backstage.walrus.objects)
    assert b"".join(stage.backstage.walrus.objects[part][0] for part in parts) == body
    complete = next(r for name, r, _, _ in stage.backstage.walrus.seen if name == "CompleteMultipartUpload")
    assert len(complete.multipart_upload.parts) == 3  # type: ignore[attr-defined]


async def test_actions_that_are_not_here_are_refused_by_name(stage: Stage) -> None:
    client = stage.client("s3")
    with pytest.raises(ClientError) as caught:
        await in_thread(client.get_object_torrent, Bucket="b", Key="k")
    assert caught.value.response["Error"]["Code"] == "NotImplemented"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 501


@pytest.mark.parametrize(
    ("options", "code", "status"),
    [
        ({"secret": SECRET + "x"}, "SignatureDoesNotMatch", 403),
        ({"access_key": "AKIAUNKNOWN"}, "InvalidAccessKeyId", 403),
        ({"region": "eu-west-9"}, "AuthorizationHeaderMalformed", 400),
    ],
)
async def test_refusals(stage: Stage, options: dict[str, str], code: str, status: int) -> None:
    client = stage.client("s3", **options)
    with pytest.raises(ClientError) as caught:
        await in_thread(client.list_buckets)
    assert caught.value.response["Error"]["Code"] == code
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status


async def test_uploads_need_a_length_and_a_possible_one(stage: Stage) -> None:
    request = sign_headers("PUT", f"{stage.url}/b/k", service="s3", body=b"x")
    status, text = await in_thread(Wire(request, b"", length=None).send, stage.port)
    assert (status, b"MissingContentLength" in text) == (411, True)
    status, text = await in_thread(Wire(request, b"", length=6 << 30).send, stage.port)
    assert (status, b"EntityTooLarge" in text) == (400, True)


async def test_one_connection_carries_many_requests(stage: Stage) -> None:
    stage.backstage.walrus.answers["ListBuckets"] = lambda request: bucket_pb2.ListBucketsOutput()
    connection = http.client.HTTPConnection("127.0.0.1", stage.port, timeout=10)

    def exchange() -> list[int]:
        statuses = []
        for _ in range(3):
            for method, path, body in (("PUT", "/b/k", b"12345"), ("GET", "/b/k", b""), ("GET", "/b/none", b"")):
                request = sign_headers(method, stage.url + path, service="s3", body=body)
                connection.request(method, path, body=body or None, headers=dict(request.headers))
                answer = connection.getresponse()
                answer.read()
                assert not answer.will_close
                statuses.append(answer.status)
        return statuses

    assert await in_thread(exchange) == [200, 200, 404] * 3
    connection.close()


async def test_the_aws_cli_copies_and_presigns(stage: Stage, tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(os.urandom(2 * MIB))
    stage.backstage.walrus.answers["HeadObject"] = lambda request: object_pb2.HeadObjectOutput(
        content_length=2 * MIB, e_tag='"x"', last_modified=Timestamp(seconds=1700000000)
    )
    await in_thread(aws, stage, "s3", "cp", str(source), "s3://b/k")
    await in_thread(aws, stage, "s3", "cp", "s3://b/k", str(copy))
    assert copy.read_bytes() == source.read_bytes()
    url = (await in_thread(aws, stage, "s3", "presign", "s3://b/k")).strip()
    status, body = await in_thread(raw_exchange, stage.port, "GET", url)
    assert (status, body == source.read_bytes()) == (200, True)


def aws(stage: Stage, *arguments: str) -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "AWS_ENDPOINT_URL": stage.url,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_MAX_ATTEMPTS": "1",
    }
    command = [str(Path(sys.executable).with_name("aws")), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
