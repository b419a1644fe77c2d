"""S3 by the clients that people have beside boto3 and the AWS CLI: s3cmd, rclone and MinIO's."""

from __future__ import annotations

import filecmp
import io
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.request import urlopen

import pytest
from minio import Minio
from minio.commonconfig import ENABLED, GOVERNANCE, ComposeSource, CopySource, Tags
from minio.deleteobjects import DeleteObject
from minio.error import S3Error
from minio.retention import Retention
from minio.sse import SseS3
from minio.versioningconfig import VersioningConfig

from tests.cloud_fixture import RunningCloud

LARGE = 17 << 20


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as people have them: nested, empty files, odd names, and one that goes in parts."""
    folder = tmp_path_factory.mktemp("files") / "tree"
    for name in ("a.txt", "sub/b c.txt", "sub/deep/ü+%&.txt", "empty"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("" if name == "empty" else name * 100)
    (folder / "large.bin").write_bytes(os.urandom(LARGE))
    return folder


def same(one: Path, two: Path) -> bool:
    names = [sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()) for root in (one, two)]
    return names[0] == names[1] and filecmp.cmpfiles(one, two, names[0], shallow=False)[0] == names[0]


def run(*command: str, environment: dict[str, str] | None = None) -> str:
    # What the machine says to AWS's clients is not about this cloud.
    own = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(
        command, env=own | (environment or {}), capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("signature", ["v4", "v2"])
def test_s3cmd(fake_cloud: RunningCloud, files: Path, tmp_path: Path, signature: str) -> None:
    keys, host = fake_cloud.account("clients"), fake_cloud.endpoint_url.removeprefix("http://")
    bucket = f"s3cmd-{signature}"
    config = tmp_path / "s3cfg"
    config.write_text(
        f"[default]\naccess_key = {keys.access_key_id}\nsecret_key = {keys.secret_access_key}\nhost_base = {host}\n"
        f"host_bucket = {host}\nuse_https = False\nbucket_location = us-east-1\nmultipart_chunk_size_mb = 5\n"
        f"signature_v2 = {signature == 'v2'}\n"
    )

    def s3cmd(*arguments: str) -> str:
        return run("s3cmd", "-c", str(config), *arguments)

    s3cmd("mb", f"s3://{bucket}")
    assert f"s3://{bucket}" in s3cmd("ls")
    s3cmd("sync", f"{files}/", f"s3://{bucket}/tree/")
    assert len(s3cmd("ls", "-r", f"s3://{bucket}").splitlines()) == 5
    s3cmd("sync", f"s3://{bucket}/tree/", f"{tmp_path}/back/")
    assert same(files, tmp_path / "back")
    assert "Done" not in s3cmd("sync", f"{files}/", f"s3://{bucket}/tree/")
    s3cmd("cp", f"s3://{bucket}/tree/large.bin", f"s3://{bucket}/copy.bin")
    s3cmd("mv", f"s3://{bucket}/copy.bin", f"s3://{bucket}/moved.bin")
    assert str(LARGE) in s3cmd("info", f"s3://{bucket}/moved.bin")
    s3cmd("modify", "--add-header=Cache-Control: no-cache", f"s3://{bucket}/tree/a.txt")
    s3cmd("del", "-r", "-f", f"s3://{bucket}")
    s3cmd("rb", f"s3://{bucket}")


def test_rclone(fake_cloud: RunningCloud, files: Path, tmp_path: Path) -> None:
    keys = fake_cloud.account("clients")
    remote = {
        "RCLONE_CONFIG": str(tmp_path / "none.conf"),
        "RCLONE_CONFIG_M_TYPE": "s3",
        "RCLONE_CONFIG_M_PROVIDER": "Other",
        "RCLONE_CONFIG_M_ACCESS_KEY_ID": keys.access_key_id,
        "RCLONE_CONFIG_M_SECRET_ACCESS_KEY": keys.secret_access_key,
        "RCLONE_CONFIG_M_ENDPOINT": fake_cloud.endpoint_url,
        "RCLONE_CONFIG_M_REGION": "us-east-1",
        "RCLONE_S3_UPLOAD_CUTOFF": "6M",
    }

    def rclone(*arguments: str) -> str:
        return run("rclone", *arguments, environment=remote)

    rclone("mkdir", "m:rclone")
    rclone("sync", str(files), "m:rclone/tree")
    rclone("check", str(files), "m:rclone/tree")
    assert rclone("size", "m:rclone").startswith("Total objects: 5")
    rclone("copy", "m:rclone/tree", "m:rclone/again")
    rclone("copy", "m:rclone/again", str(tmp_path / "back"))
    assert same(files, tmp_path / "back")
    rclone("touch", "m:rclone/touched")
    rclone("moveto", "m:rclone/touched", "m:rclone/moved")
    assert rclone("cat", "m:rclone/tree/sub/b c.txt") == "sub/b c.txt" * 100
    assert "large.bin" in rclone("lsjson", "-R", "m:rclone/again")
    rclone("purge", "m:rclone")
    assert "rclone" not in rclone("lsd", "m:")


def test_minio(fake_cloud: RunningCloud, files: Path, tmp_path: Path) -> None:
    keys, host = fake_cloud.account("clients"), fake_cloud.endpoint_url.removeprefix("http://")
    client = Minio(host, keys.access_key_id, keys.secret_access_key, secure=False)
    client.make_bucket("minio")
    assert client.bucket_exists("minio")
    assert not client.bucket_exists("minio-none")
    client.fput_object("minio", "large", str(files / "large.bin"), part_size=5 << 20, metadata={"Color": "blue"})
    client.fget_object("minio", "large", str(tmp_path / "large"))
    assert filecmp.cmp(files / "large.bin", tmp_path / "large", shallow=False)
    assert (client.stat_object("minio", "large").metadata or {})["x-amz-meta-color"] == "blue"
    client.put_object("minio", "stream", io.BytesIO(b"x" * 100), -1, part_size=5 << 20)
    client.copy_object("minio", "copied", CopySource("minio", "large"))
    client.compose_object("minio", "composed", [ComposeSource("minio", "large"), ComposeSource("minio", "stream")])
    assert client.stat_object("minio", "composed").size == LARGE + 100
    tags = Tags.new_object_tags()
    tags["kind"] = "large"
    client.set_object_tags("minio", "large", tags)
    assert client.get_object_tags("minio", "large") == tags
    with urlopen(client.presigned_get_object("minio", "stream", expires=timedelta(minutes=5))) as answer:
        assert answer.read() == b"x" * 100
    with pytest.raises(S3Error, match="NoSuchKey"):
        client.stat_object("minio", "none")
    client.set_bucket_versioning("minio", VersioningConfig(ENABLED))
    for body in (b"one", b"two"):
        client.put_object("minio", "versions", io.BytesIO(body), 3)
    client.remove_object("minio", "versions")
    found = list(client.list_objects("minio", prefix="versions", include_version=True))
    assert sorted(one.is_delete_marker for one in found) == [False, False, True]
    every = [
        DeleteObject(one.object_name or "", one.version_id)
        for one in client.list_objects("minio", recursive=True, include_version=True)
    ]
    assert list(client.remove_objects("minio", every)) == []
    client.remove_bucket("minio")


def test_minio_locks_and_encrypts(fake_cloud: RunningCloud) -> None:
    keys, host = fake_cloud.account("clients"), fake_cloud.endpoint_url.removeprefix("http://")
    client = Minio(host, keys.access_key_id, keys.secret_access_key, secure=False)
    client.make_bucket("minio-locked", object_lock=True)
    kept = Retention(GOVERNANCE, datetime.now(UTC) + timedelta(days=1))
    # It signs the body's hash, and tells no digest beside it.
    locked = client.put_object("minio-locked", "k", io.BytesIO(b"x"), 1, retention=kept, legal_hold=True, sse=SseS3())
    assert client.is_object_legal_hold_enabled("minio-locked", "k")
    assert (client.stat_object("minio-locked", "k").metadata or {})["x-amz-server-side-encryption"] == "AES256"
    client.disable_object_legal_hold("minio-locked", "k")
    with pytest.raises(S3Error, match="AccessDenied"):
        client.remove_object("minio-locked", "k", version_id=locked.version_id)
    every = [DeleteObject("k", locked.version_id)]
    assert [one.code for one in client.remove_objects("minio-locked", every)] == ["AccessDenied"]
    assert list(client.remove_objects("minio-locked", every, bypass_governance_mode=True)) == []
    client.remove_bucket("minio-locked")
