"""Who may do what in a bucket, by S3's clients: its owner, another account, and nobody at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore import UNSIGNED

from tests.cloud.refusal import in_turn, refused
from tests.cloud_fixture import RunningCloud

ALL_USERS = "http://acs.amazonaws.com/groups/global/AllUsers"


@pytest.fixture(scope="module")
def owner(fake_cloud: RunningCloud) -> Any:
    return fake_cloud.client("s3", "access-owner")


@pytest.fixture(scope="module")
def other(fake_cloud: RunningCloud) -> Any:
    return fake_cloud.client("s3", "access-other")


@pytest.fixture(scope="module")
def nobody(fake_cloud: RunningCloud) -> Any:
    return fake_cloud.client("s3", "access-other", signature_version=UNSIGNED)


def policy(*statements: Any) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def says(action: str | list[str], resource: str, principal: Any = "*", *, effect: str = "Allow", **more: Any) -> Any:
    arn = f"arn:aws:s3:::{resource}"
    return {"Effect": effect, "Principal": principal, "Action": action, "Resource": arn} | more


def opened(s3: Any, bucket: str) -> None:
    """Its policy and its ACLs may be public."""
    s3.create_bucket(Bucket=bucket)
    s3.delete_public_access_block(Bucket=bucket)


def _is_kept_out(s3: Any) -> None:
    for call in in_turn(
        lambda: s3.get_object(Bucket="access-closed", Key="k"),
        lambda: s3.get_object(Bucket="access-closed", Key="missing"),
        lambda: s3.put_object(Bucket="access-closed", Key="k", Body=b""),
        lambda: s3.delete_object(Bucket="access-closed", Key="k"),
        lambda: s3.list_objects_v2(Bucket="access-closed"),
        lambda: s3.get_bucket_policy(Bucket="access-closed"),
        lambda: s3.get_bucket_acl(Bucket="access-closed"),
        lambda: s3.get_object_acl(Bucket="access-closed", Key="k"),
        lambda: s3.delete_public_access_block(Bucket="access-closed"),
        lambda: s3.delete_bucket(Bucket="access-closed"),
    ):
        with refused("AccessDenied", 403, "Access Denied"):
            call()


def test_a_new_bucket_is_its_owners_alone(owner: Any, other: Any, nobody: Any) -> None:
    owner.create_bucket(Bucket="access-closed")
    owner.put_object(Bucket="access-closed", Key="k", Body=b"x")
    block = owner.get_public_access_block(Bucket="access-closed")["PublicAccessBlockConfiguration"]
    assert set(block.values()) == {True}
    rules = owner.get_bucket_ownership_controls(Bucket="access-closed")["OwnershipControls"]["Rules"]
    assert rules == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    for client in (other, nobody):
        _is_kept_out(client)
        with refused("403", 403):
            client.head_object(Bucket="access-closed", Key="k")
        with refused("403", 403):
            client.head_bucket(Bucket="access-closed")
        with refused("NoSuchBucket", 404):
            client.list_objects_v2(Bucket="access-nowhere")


def test_a_policy_goes_as_it_came_and_lets_another_account_in(
    owner: Any, other: Any, nobody: Any, fake_cloud: Any
) -> None:
    owner.create_bucket(Bucket="access-shared")
    owner.put_object(Bucket="access-shared", Key="open/k", Body=b"x")
    owner.put_object(Bucket="access-shared", Key="closed/k", Body=b"x")
    with refused("NoSuchBucketPolicy", 404, "The bucket policy does not exist"):
        owner.get_bucket_policy(Bucket="access-shared")
    them = {"AWS": f"arn:aws:iam::{fake_cloud.account('access-other').account_id}:root"}
    prefix = {"StringLike": {"s3:prefix": "open/*"}}
    text = policy(
        says(["s3:GetObject", "s3:PutObject"], "access-shared/open/*", them),
        says("s3:ListBucket", "access-shared", them, Condition=prefix),
    )
    owner.put_bucket_policy(Bucket="access-shared", Policy=text)
    assert owner.get_bucket_policy(Bucket="access-shared")["Policy"] == text
    assert not owner.get_bucket_policy_status(Bucket="access-shared")["PolicyStatus"]["IsPublic"]
    assert other.get_object(Bucket="access-shared", Key="open/k")["Body"].read() == b"x"
    assert other.head_object(Bucket="access-shared", Key="open/k")["ContentLength"] == 1
    other.put_object(Bucket="access-shared", Key="open/theirs", Body=b"y")
    assert owner.get_object(Bucket="access-shared", Key="open/theirs")["Body"].read() == b"y"
    listed = other.list_objects_v2(Bucket="access-shared", Prefix="open/")["Contents"]
    assert [one["Key"] for one in listed] == ["open/k", "open/theirs"]
    for call in in_turn(
        lambda: other.get_object(Bucket="access-shared", Key="closed/k"),
        lambda: other.list_objects_v2(Bucket="access-shared"),
        lambda: other.delete_object(Bucket="access-shared", Key="open/k"),
        lambda: other.delete_bucket_policy(Bucket="access-shared"),
        lambda: nobody.get_object(Bucket="access-shared", Key="open/k"),
    ):
        with refused("AccessDenied", 403):
            call()
    # Whoever may list it is told that it is not there.
    with refused("NoSuchKey", 404):
        other.get_object(Bucket="access-shared", Key="open/missing")
    with refused("AccessDenied", 403):
        other.get_object(Bucket="access-shared", Key="closed/missing")
    gone = other.delete_objects(Bucket="access-shared", Delete={"Objects": [{"Key": "open/k"}]})
    assert [(one["Key"], one["Code"]) for one in gone["Errors"]] == [("open/k", "AccessDenied")]
    owner.delete_bucket_policy(Bucket="access-shared")
    with refused("AccessDenied", 403):
        other.get_object(Bucket="access-shared", Key="open/k")


def test_a_bucket_is_opened_to_the_world_in_two_steps(owner: Any, nobody: Any) -> None:
    owner.create_bucket(Bucket="access-public")
    owner.put_object(Bucket="access-public", Key="index.html", Body=b"hello")
    text = policy(says("s3:GetObject", "access-public/*"))
    with refused("AccessDenied", 403, "because public policies are prevented by the BlockPublicPolicy setting"):
        owner.put_bucket_policy(Bucket="access-public", Policy=text)
    owner.delete_public_access_block(Bucket="access-public")
    with refused("NoSuchPublicAccessBlockConfiguration", 404):
        owner.get_public_access_block(Bucket="access-public")
    owner.put_bucket_policy(Bucket="access-public", Policy=text)
    assert owner.get_bucket_policy_status(Bucket="access-public")["PolicyStatus"]["IsPublic"]
    assert nobody.get_object(Bucket="access-public", Key="index.html")["Body"].read() == b"hello"
    with refused("AccessDenied", 403):
        nobody.get_object(Bucket="access-public", Key="missing.html")
    restricted = {"RestrictPublicBuckets": True}
    owner.put_public_access_block(Bucket="access-public", PublicAccessBlockConfiguration=restricted)
    with refused("AccessDenied", 403):
        nobody.get_object(Bucket="access-public", Key="index.html")
    owner.get_object(Bucket="access-public", Key="index.html")


def test_what_a_policy_denies_its_owner_cannot_do_but_repair(owner: Any) -> None:
    owner.create_bucket(Bucket="access-locked")
    owner.put_object(Bucket="access-locked", Key="k", Body=b"x")
    insecure = {"Bool": {"aws:SecureTransport": "false"}}
    whole = ["arn:aws:s3:::access-locked", "arn:aws:s3:::access-locked/*"]
    deny = says("s3:*", "", effect="Deny", Condition=insecure) | {"Resource": whole}
    owner.put_bucket_policy(Bucket="access-locked", Policy=policy(deny))
    for call in in_turn(
        lambda: owner.get_object(Bucket="access-locked", Key="k"),
        lambda: owner.put_object(Bucket="access-locked", Key="k", Body=b""),
        lambda: owner.list_objects_v2(Bucket="access-locked"),
        lambda: owner.delete_bucket(Bucket="access-locked"),
    ):
        with refused("AccessDenied", 403):
            call()
    owner.get_bucket_policy(Bucket="access-locked")
    owner.delete_bucket_policy(Bucket="access-locked")
    owner.get_object(Bucket="access-locked", Key="k")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("aws:SourceIp", "127.0.0.0/8"),
        ("aws:UserAgent", "Boto3*"),
        ("s3:authType", "REST-HEADER"),
        ("s3:signatureversion", "AWS4-HMAC-SHA256"),
        ("aws:PrincipalType", "Account"),
        ("s3:x-amz-storage-class", "STANDARD_IA"),
    ],
)
def test_conditions_hold_for_what_the_request_was(
    owner: Any, other: Any, fake_cloud: Any, key: str, value: str
) -> None:
    owner.create_bucket(Bucket="access-conditions")
    operator = "IpAddress" if key == "aws:SourceIp" else "StringLike"
    them = {"AWS": fake_cloud.account("access-other").account_id}
    allow = says("s3:PutObject", "access-conditions/*", them, Condition={operator: {key: value}})
    deny = says("s3:PutObject", "access-conditions/not/*", them, effect="Deny", Condition={operator: {key: value}})
    owner.put_bucket_policy(Bucket="access-conditions", Policy=policy(allow, deny))
    other.put_object(Bucket="access-conditions", Key="k", Body=b"", StorageClass="STANDARD_IA")
    with refused("AccessDenied", 403):
        other.put_object(Bucket="access-conditions", Key="not/k", Body=b"", StorageClass="STANDARD_IA")


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("{", "MalformedPolicy", "This policy contains invalid Json"),
        (policy(says("s3:GetObject", "access-closed")), "MalformedPolicy", "Action does not apply to any resource(s)"),
        (policy(says("s3:GetObject", "another/*")), "MalformedPolicy", "Policy has invalid resource"),
        (policy(says("s3:Get", "access-closed/*")), "MalformedPolicy", "Policy has invalid action"),
        (
            policy(says("s3:GetObject", "access-closed/*", {"AWS": "x"})),
            "MalformedPolicy",
            "Invalid principal in policy",
        ),
    ],
)
def test_a_bad_policy_is_refused(owner: Any, text: str, code: str, message: str) -> None:
    owner.create_bucket(Bucket="access-closed")
    with refused(code, 400, message):
        owner.put_bucket_policy(Bucket="access-closed", Policy=text)


def test_acls_are_off_until_they_are_turned_on(owner: Any, other: Any, nobody: Any, fake_cloud: Any) -> None:
    opened(owner, "access-acls")
    me, them = (fake_cloud.account(name).canonical_user_id for name in ("access-owner", "access-other"))
    for call in in_turn(
        lambda: owner.put_bucket_acl(Bucket="access-acls", ACL="public-read"),
        lambda: owner.put_object(Bucket="access-acls", Key="k", Body=b"", ACL="public-read"),
    ):
        with refused("AccessControlListNotSupported", 400, "The bucket does not allow ACLs"):
            call()
    owner.put_object(Bucket="access-acls", Key="k", Body=b"mine", ACL="bucket-owner-full-control")
    owner.put_bucket_ownership_controls(
        Bucket="access-acls", OwnershipControls={"Rules": [{"ObjectOwnership": "ObjectWriter"}]}
    )
    owner.put_object(Bucket="access-acls", Key="open", Body=b"open", ACL="public-read")
    assert nobody.get_object(Bucket="access-acls", Key="open")["Body"].read() == b"open"
    with refused("AccessDenied", 403):
        nobody.get_object(Bucket="access-acls", Key="k")
    owner.put_object_acl(Bucket="access-acls", Key="k", GrantRead=f'id="{them}"', GrantFullControl=f'id="{me}"')
    shown = owner.get_object_acl(Bucket="access-acls", Key="k")
    assert shown["Owner"]["ID"] == me
    assert {(one["Grantee"]["ID"], one["Permission"]) for one in shown["Grants"]} == {
        (me, "FULL_CONTROL"),
        (them, "READ"),
    }
    assert other.get_object(Bucket="access-acls", Key="k")["Body"].read() == b"mine"
    with refused("AccessDenied", 403):
        other.get_object_acl(Bucket="access-acls", Key="k")
    group = {"Grantee": {"Type": "Group", "URI": ALL_USERS}, "Permission": "READ"}
    mine = {"Grantee": {"Type": "CanonicalUser", "ID": me}, "Permission": "FULL_CONTROL"}
    owner.put_bucket_acl(Bucket="access-acls", AccessControlPolicy={"Owner": {"ID": me}, "Grants": [mine, group]})
    assert [one["Key"] for one in nobody.list_objects_v2(Bucket="access-acls")["Contents"]] == ["k", "open"]
    found = owner.get_bucket_acl(Bucket="access-acls")["Grants"]
    assert [one["Grantee"].get("URI") for one in found] == [None, ALL_USERS]
    # Who may not learn that a key is missing is told by the right to list alone.
    with refused("NoSuchKey", 404):
        nobody.get_object(Bucket="access-acls", Key="missing")
    with refused("InvalidBucketAclWithObjectOwnership", 400):
        owner.put_bucket_ownership_controls(
            Bucket="access-acls", OwnershipControls={"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
        )


def test_an_object_is_its_writers_where_the_bucket_says_so(owner: Any, other: Any, fake_cloud: Any) -> None:
    opened(owner, "access-writers")
    rules = [{"ObjectOwnership": "ObjectWriter"}]
    owner.put_bucket_ownership_controls(Bucket="access-writers", OwnershipControls={"Rules": rules})
    owner.put_bucket_acl(Bucket="access-writers", ACL="public-read-write")
    them = fake_cloud.account("access-other").canonical_user_id
    other.put_object(Bucket="access-writers", Key="theirs", Body=b"t")
    upload = other.create_multipart_upload(Bucket="access-writers", Key="parts")["UploadId"]
    part = other.upload_part(Bucket="access-writers", Key="parts", UploadId=upload, PartNumber=1, Body=b"p")
    assert len(other.list_parts(Bucket="access-writers", Key="parts", UploadId=upload)["Parts"]) == 1
    other.complete_multipart_upload(
        Bucket="access-writers",
        Key="parts",
        UploadId=upload,
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
    )
    for key in ("theirs", "parts"):
        assert other.get_object_acl(Bucket="access-writers", Key=key)["Owner"]["ID"] == them
        with refused("AccessDenied", 403):
            owner.get_object(Bucket="access-writers", Key=key)
    other.put_object_acl(Bucket="access-writers", Key="theirs", ACL="bucket-owner-full-control")
    assert owner.get_object(Bucket="access-writers", Key="theirs")["Body"].read() == b"t"
    owner.delete_object(Bucket="access-writers", Key="parts")


def test_requesters_pay_where_they_are_asked_to(owner: Any, other: Any, fake_cloud: Any) -> None:
    owner.create_bucket(Bucket="access-paid")
    owner.put_object(Bucket="access-paid", Key="k", Body=b"x")
    them = {"AWS": fake_cloud.account("access-other").account_id}
    for strangers in ({"AWS": "999999999999"}, {"AWS": f"{them['AWS']}", "CanonicalUser": "f" * 64}):
        with refused("MalformedPolicy", 400):
            owner.put_bucket_policy(
                Bucket="access-paid", Policy=policy(says("s3:GetObject", "access-paid/*", strangers))
            )
    everything = [says("s3:*Object*", "access-paid/*", them), says("s3:ListBucket", "access-paid", them)]
    owner.put_bucket_policy(Bucket="access-paid", Policy=policy(*everything))
    assert owner.get_bucket_request_payment(Bucket="access-paid")["Payer"] == "BucketOwner"
    owner.put_bucket_request_payment(Bucket="access-paid", RequestPaymentConfiguration={"Payer": "Requester"})
    assert owner.get_bucket_request_payment(Bucket="access-paid")["Payer"] == "Requester"
    with refused("AccessDenied", 403):
        other.get_object(Bucket="access-paid", Key="k")
    with refused("403", 403):
        other.head_object(Bucket="access-paid", Key="k")
    paying = {"Bucket": "access-paid", "RequestPayer": "requester"}
    assert other.get_object(Key="k", **paying)["Body"].read() == b"x"
    other.create_bucket(Bucket="access-paid-copies")
    source = "access-paid/k"
    copying = {"Bucket": "access-paid-copies", "Key": "k", "CopySource": source}
    with refused("AccessDenied", 403):
        other.copy_object(**copying)
    begun = other.create_multipart_upload(Key="parts", **paying)
    part = {"Key": "parts", "UploadId": begun["UploadId"], "PartNumber": 1, **paying}
    uploaded = other.upload_part(Body=b"part", **part)
    whole = {"Parts": [{"PartNumber": 1, "ETag": uploaded["ETag"]}]}
    answers = [
        begun,
        uploaded,
        other.upload_part_copy(CopySource=source, **part | {"PartNumber": 2}),
        other.list_parts(Key="parts", UploadId=begun["UploadId"], **paying),
        other.complete_multipart_upload(Key="parts", UploadId=begun["UploadId"], MultipartUpload=whole, **paying),
        other.get_object(Key="k", **paying),
        other.head_object(Key="k", **paying),
        other.get_object_attributes(Key="k", ObjectAttributes=["ETag"], **paying),
        other.put_object(Key="new", Body=b"", **paying),
        other.copy_object(RequestPayer="requester", **copying),
        other.list_objects(**paying),
        other.list_objects_v2(**paying),
        other.delete_object(Key="new", **paying),
        other.delete_objects(Delete={"Objects": [{"Key": "parts"}]}, **paying),
    ]
    assert [answer.get("RequestCharged") for answer in answers] == ["requester"] * len(answers)
    # Nothing of the kind where the owner pays, and for the owner.
    assert "RequestCharged" not in owner.get_object(Key="k", **paying)
    assert "RequestCharged" not in other.head_object(Bucket="access-paid-copies", Key="k", RequestPayer="requester")
