"""What holds of every bucket, request and caller: what lets in, what keeps out, and what never does the other."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import Denied
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import acl_pb2, listing_pb2, object_pb2
from mallee.s3.v1.bucket_access_pb2 import PublicAccessBlockConfiguration
from services.walrus import access, acl, configs, ownership
from services.walrus.actions import RULES, Scope
from services.walrus.drivers.base import Bucket, Object
from tests.unit.walrus_access import ANN, BOB, NOBODY, an_object, bucket, granted, says

CALLERS = st.sampled_from([ANN, BOB, NOBODY])
REQUESTS = st.sampled_from(
    [
        object_pb2.GetObjectRequest(bucket="b", key="k"),
        object_pb2.GetObjectRequest(bucket="b", key="k", version_id="v"),
        object_pb2.PutObjectRequest(bucket="b", key="k"),
        object_pb2.PutObjectRequest(bucket="b", key="k", acl="private", tagging="a=b"),
        object_pb2.DeleteObjectRequest(bucket="b", key="k"),
        listing_pb2.ListObjectsV2Request(bucket="b"),
        acl_pb2.GetBucketAclRequest(bucket="b"),
        acl_pb2.PutObjectAclRequest(bucket="b", key="k"),
    ]
)
PRINCIPALS = st.sampled_from(["*", {"AWS": BOB.account_id}, {"AWS": ANN.account_id}, {"CanonicalUser": "b" * 64}])
ACTIONS = st.sampled_from(["s3:*", "s3:Get*", "s3:GetObject", "s3:Put*", "s3:ListBucket", "s3:PutObjectTagging"])
ALLOWS = st.builds(lambda action, who: says(action, "b*", principal=who), ACTIONS, PRINCIPALS)
DENIES = st.builds(lambda action, who: says(action, "b*", principal=who, effect="Deny"), ACTIONS, PRINCIPALS)
GRANTS = st.lists(
    st.tuples(
        st.sampled_from([acl.ALL_USERS, acl.AUTHENTICATED_USERS, "b" * 64, "c" * 64]),
        st.sampled_from(["READ", "WRITE", "READ_ACP", "WRITE_ACP", "FULL_CONTROL"]),
    ),
    max_size=3,
)
FLAGS = ("block_public_acls", "ignore_public_acls", "block_public_policy", "restrict_public_buckets")
BLOCKS = st.fixed_dictionaries(dict.fromkeys(FLAGS, st.booleans()))
OWNED = st.sampled_from(["", *ownership.OWNERSHIPS])


@st.composite
def buckets(draw: st.DrawFn) -> tuple[Bucket, list[Any]]:
    """With the statements of its policy."""
    statements = draw(st.lists(ALLOWS | DENIES, max_size=3))
    made = bucket(
        statements=statements or None,
        owned=draw(OWNED),
        grants=granted("a" * 64, *draw(GRANTS)),
        blocks=draw(st.none() | BLOCKS),
    )
    return made, statements


def objects() -> st.SearchStrategy[Object | None]:
    owners = st.sampled_from(["", "b" * 64])
    made = st.builds(
        lambda owner, grants: an_object(owner_id=owner, grants=granted(owner or "a" * 64, *grants)), owners, GRANTS
    )
    return st.none() | made


def may(where: Bucket, request: Any, caller: Caller, found: Object | None) -> bool:
    with suppress(Denied):
        access.check(where, request, caller, 0)
        if RULES[request.DESCRIPTOR.name].scope is Scope.OBJECT:
            access.check_object(where, request, caller, 0, found)
        return True
    return False


def with_policy(where: Bucket, statements: list[Any]) -> Bucket:
    policied = bucket(statements=statements)
    return replace(where, configs={**where.configs, **policied.configs})


def with_block(where: Bucket, **flags: bool) -> Bucket:
    kind = configs.kind_of(PublicAccessBlockConfiguration)
    return replace(where, configs={**where.configs, kind: configs.body_of(PublicAccessBlockConfiguration(**flags))})


few = settings(max_examples=150, deadline=None)


@few
@given(buckets(), REQUESTS, CALLERS, objects(), DENIES)
def test_a_denial_lets_nobody_in(
    made: tuple[Bucket, list[Any]], request: Any, caller: Caller, found: Object | None, denial: Any
) -> None:
    where, statements = made
    if may(with_policy(where, [*statements, denial]), request, caller, found):
        assert may(where, request, caller, found)


@few
@given(buckets(), REQUESTS, CALLERS, objects(), ALLOWS)
def test_an_allowance_keeps_nobody_out_where_public_buckets_are_not_restricted(
    made: tuple[Bucket, list[Any]], request: Any, caller: Caller, found: Object | None, allowance: Any
) -> None:
    where, statements = with_block(made[0]), made[1]
    if may(where, request, caller, found):
        assert may(with_policy(where, [*statements, allowance]), request, caller, found)


@few
@given(buckets(), REQUESTS, CALLERS, objects(), BLOCKS, st.sampled_from(FLAGS))
def test_a_block_lets_nobody_in(
    made: tuple[Bucket, list[Any]], request: Any, caller: Caller, found: Object | None, flags: Any, one: str
) -> None:
    where = made[0]
    if may(with_block(where, **(flags | {one: True})), request, caller, found):
        assert may(with_block(where, **(flags | {one: False})), request, caller, found)


@few
@given(buckets(), REQUESTS, CALLERS, objects(), GRANTS)
def test_a_grant_keeps_nobody_out(
    made: tuple[Bucket, list[Any]], request: Any, caller: Caller, found: Object | None, grants: Any
) -> None:
    where = made[0]
    now = ownership.bucket_acl(where)
    more = granted("a" * 64, *grants)
    more.grants.extend(now.grants)
    granting = replace(where, configs={**where.configs, configs.kind_of(type(more)): configs.body_of(more)})
    if may(where, request, caller, found):
        assert may(granting, request, caller, found)


@few
@given(buckets(), REQUESTS, objects())
def test_with_every_block_on_nobody_unknown_gets_in(
    made: tuple[Bucket, list[Any]], request: Any, found: Object | None
) -> None:
    assert not may(with_block(made[0], **dict.fromkeys(FLAGS, True)), request, NOBODY, found)


@few
@given(OWNED, GRANTS, st.none() | BLOCKS, REQUESTS, objects())
def test_without_a_policy_the_owner_may_do_all_with_what_is_the_owners(
    owned: str, grants: Any, blocks: Any, request: Any, found: Object | None
) -> None:
    where = bucket(owned=owned, grants=granted("a" * 64, *grants), blocks=blocks)
    if ownership.owner_of(where, found) == where.owner_id:
        assert may(where, request, ANN, found)
