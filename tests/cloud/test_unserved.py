"""Services that this cloud does not have: whatever protocol a client speaks, it is told so in words it understands."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cloud.refusal import refused
from tests.cloud_fixture import RunningCloud


@pytest.mark.parametrize(
    ("service", "action", "given"),
    [
        # JSON
        ("dynamodb", "list_tables", {}),
        ("ecs", "list_clusters", {}),
        ("kms", "list_keys", {}),
        ("sqs", "list_queues", {}),
        ("ssm", "describe_parameters", {}),
        # CBOR
        ("cloudwatch", "list_metrics", {}),
        # JSON over REST
        ("lambda", "list_functions", {}),
        ("lambda", "invoke", {"FunctionName": "f", "Payload": b"{}"}),
        # XML over REST
        ("cloudfront", "list_distributions", {}),
        ("route53", "list_hosted_zones", {}),
        # forms
        ("cloudformation", "list_stacks", {}),
        ("iam", "list_users", {}),
    ],
)
def test_a_service_that_is_not_there_says_so(
    fake_cloud: RunningCloud, service: str, action: str, given: dict[str, Any]
) -> None:
    client = fake_cloud.client(service)
    with refused("UnsupportedOperation") as refusal:
        getattr(client, action)(**given)
    name = client.meta.service_model.signing_name
    assert refusal.message == f"The service {name} is not served by this cloud."
