"""Access control lists: canned, in headers, in XML, and those of new objects."""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import CloudError, Denied
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import acl_pb2, bucket_pb2
from mallee.s3.v1.acl_pb2 import AccessControlPolicy
from services.walrus import acl, ownership
from tests.unit.walrus_access import ANN, BOB, NOBODY, bucket


def test_what_a_new_object_gets() -> None:
    def of(owned: str, caller: Caller, **members: Any) -> tuple[str, bytes]:
        request = acl_pb2.PutObjectAclRequest(**members)
        where = bucket(owned=owned, blocks={"block_public_acls": True})
        return ownership.of_new_object(where, request, caller)

    assert of("", BOB) == of(ownership.ENFORCED, BOB) == ("", b"")
    assert of(ownership.ENFORCED, BOB, acl="bucket-owner-full-control") == ("", b"")
    assert of(ownership.ENFORCED, BOB, grant_full_control=f'id="{"a" * 64}"') == ("", b"")
    assert of(ownership.ENFORCED, ANN, acl="private") == ("", b"")
    assert of(ownership.WRITER, ANN, acl="private") == ("", b"")
    assert of(ownership.WRITER, BOB) == ("b" * 64, b"")
    assert of(ownership.WRITER, NOBODY) == (acl.ANONYMOUS_ID, b"")
    assert of(ownership.PREFERRED, BOB) == ("b" * 64, b"")
    assert of(ownership.PREFERRED, BOB, acl="bucket-owner-full-control") == ("", b"")
    kept_owner, body = of(ownership.WRITER, BOB, acl="bucket-owner-full-control")
    assert kept_owner == "b" * 64
    shown = [(grant.grantee.id, grant.permission) for grant in acl.read(body, kept_owner).grants]
    assert shown == [("b" * 64, "FULL_CONTROL"), ("a" * 64, "FULL_CONTROL")]
    for caller, members, code in (
        (ANN, {"acl": "public-read"}, "AccessControlListNotSupported"),
        (BOB, {"acl": "private"}, "AccessControlListNotSupported"),
        (ANN, {"grant_read": f'id="{"b" * 64}"'}, "AccessControlListNotSupported"),
        (ANN, {"acl": "mine"}, "InvalidArgument"),
    ):
        with pytest.raises(CloudError) as caught:
            of(ownership.ENFORCED, caller, **members)
        assert caught.value.code == code
    with pytest.raises(Denied):
        of(ownership.WRITER, ANN, acl="public-read")


@pytest.mark.parametrize(
    "name", ["private", "public-read", "public-read-write", "authenticated-read", "log-delivery-write"]
)
def test_a_canned_acl_of_a_bucket_begins_with_its_owner(name: str) -> None:
    made = acl.of_headers(acl_pb2.PutBucketAclRequest(acl=name), owner_id="a" * 64, bucket=None, on_bucket=True)
    assert made is not None
    assert (made.grants[0].grantee.id, made.grants[0].permission) == ("a" * 64, "FULL_CONTROL")
    assert acl.is_public(made) is (name.startswith(("public", "auth")))


def test_grant_headers_are_read_as_clients_write_them() -> None:
    text = f'id="{"b" * 64}", uri={acl.ALL_USERS},ID={"c" * 64}'
    request = acl_pb2.PutBucketAclRequest(grant_read=text, grant_write_acp=f"id={'d' * 64}")
    made = acl.of_headers(request, owner_id="a" * 64, bucket=None)
    assert made is not None
    assert [(grant.grantee.id or grant.grantee.uri, grant.permission) for grant in made.grants] == [
        ("b" * 64, "READ"),
        (acl.ALL_USERS, "READ"),
        ("c" * 64, "READ"),
        ("d" * 64, "WRITE_ACP"),
    ]


@pytest.mark.parametrize(
    ("members", "code", "name"),
    [
        ({"acl": "mine"}, "InvalidArgument", "x-amz-acl"),
        ({"acl": "bucket-owner-read"}, "InvalidArgument", "x-amz-acl"),
        ({"acl": "private", "grant_read": f"id={'b' * 64}"}, "InvalidRequest", None),
        ({"grant_read": "id=xyz"}, "InvalidArgument", "id"),
        ({"grant_read": "uri=http://x"}, "InvalidArgument", "uri"),
        ({"grant_read_acp": "somebody"}, "InvalidArgument", "x-amz-grant-read-acp"),
        ({"grant_read": 'emailAddress="a@b.c"'}, "UnresolvableGrantByEmailAddress", None),
        ({"grant_read": ",".join([f"id={'b' * 64}"] * 101)}, "InvalidRequest", None),
    ],
)
def test_wrong_acl_headers_are_refused(members: Any, code: str, name: str | None) -> None:
    with pytest.raises(CloudError) as caught:
        acl.of_headers(acl_pb2.PutBucketAclRequest(**members), owner_id="a" * 64, bucket=None, on_bucket=True)
    assert (caught.value.code, caught.value.details.get("ArgumentName")) == (code, name)


@pytest.mark.parametrize(
    ("grantee", "permission", "code"),
    [
        ({"type": "CanonicalUser", "id": "b" * 64}, "READ", ""),
        ({"type": "Group", "uri": acl.LOG_DELIVERY}, "WRITE", ""),
        ({"type": "CanonicalUser", "id": "b" * 64}, "EAT", "MalformedACLError"),
        ({"id": "b" * 64}, "READ", "MalformedACLError"),
        ({"type": "CanonicalUser"}, "READ", "InvalidArgument"),
        ({"type": "Group", "uri": "x"}, "READ", "InvalidArgument"),
        ({"type": "AmazonCustomerByEmail", "email_address": "a@b.c"}, "READ", "UnresolvableGrantByEmailAddress"),
    ],
)
def test_an_acl_in_xml_is_taken_or_refused(grantee: Any, permission: str, code: str) -> None:
    sent = AccessControlPolicy(owner=bucket_pb2.Owner(id="a" * 64))
    sent.grants.add(grantee=acl_pb2.Grantee(**grantee), permission=permission)
    if not code:
        assert acl.of_body(sent, owner_id="a" * 64).grants[0].permission == permission
        with pytest.raises(Denied):
            acl.of_body(sent, owner_id="b" * 64)
        return
    with pytest.raises(CloudError) as caught:
        acl.of_body(sent, owner_id="a" * 64)
    assert caught.value.code == code


def test_an_acl_in_xml_names_its_owner() -> None:
    with pytest.raises(CloudError) as caught:
        acl.of_body(AccessControlPolicy(), owner_id="a" * 64)
    assert caught.value.code == "MalformedACLError"
    with pytest.raises(CloudError) as caught:
        acl.of_body(AccessControlPolicy(owner=bucket_pb2.Owner(id="x")), owner_id="a" * 64)
    assert caught.value.code == "InvalidArgument"
