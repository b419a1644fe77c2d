"""ModifyInstanceMetadataOptions, and what an account's launches begin with: Modify- and GetInstanceMetadataDefaults."""

from __future__ import annotations

from common.errors import WrongState
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import instance_pb2 as ec2
from services.clc.instance import metadata_options, rules
from services.clc.lookup import INSTANCE, own
from services.clc.store import Changes, Stored, until_committed
from services.clc.use_case import Call, Cloud, end_dry_run, use_case


@use_case("ec2.ModifyInstanceMetadataOptions")
async def modify_instance_metadata_options(
    cloud: Cloud, call: Call, request: ec2.ModifyInstanceMetadataOptionsRequest
) -> ec2.ModifyInstanceMetadataOptionsResult:
    async def attempt() -> ec2.ModifyInstanceMetadataOptionsResult:
        instance = own(cloud.store, INSTANCE, call.account_id, request.instance_id)
        if instance.record.state in (rules.SHUTTING_DOWN, rules.TERMINATED):
            raise WrongState(
                f"The instance '{request.instance_id}' is not in a state in which its metadata options can change.",
                code="IncorrectInstanceState",
            )
        draft = instance.draft()
        metadata_options.change(draft.metadata_options, request)
        metadata_options.check_tag_keys(draft.metadata_options, draft.tags)
        end_dry_run(request)
        if draft != instance.record:
            changes = Changes()
            changes.update(instance, draft)
            await cloud.store.commit(changes)
        return ec2.ModifyInstanceMetadataOptionsResult(
            instance_id=draft.instance_id, instance_metadata_options=metadata_options.shown(draft)
        )

    return await until_committed(attempt)


@use_case("ec2.ModifyInstanceMetadataDefaults")
async def modify_instance_metadata_defaults(
    cloud: Cloud, call: Call, request: ec2.ModifyInstanceMetadataDefaultsRequest
) -> ec2.ModifyInstanceMetadataDefaultsResult:
    async def attempt() -> ec2.ModifyInstanceMetadataDefaultsResult:
        account = _account(cloud, call)
        draft = account.draft()
        metadata_options.take_over(draft.metadata_defaults, request, or_no_preference=True)
        end_dry_run(request)
        if draft != account.record:
            changes = Changes()
            changes.update(account, draft)
            await cloud.store.commit(changes)
        return ec2.ModifyInstanceMetadataDefaultsResult(return_value=True)

    return await until_committed(attempt)


@use_case("ec2.GetInstanceMetadataDefaults")
async def get_instance_metadata_defaults(
    cloud: Cloud, call: Call, request: ec2.GetInstanceMetadataDefaultsRequest
) -> ec2.GetInstanceMetadataDefaultsResult:
    end_dry_run(request)
    defaults = _account(cloud, call).record.metadata_defaults
    return ec2.GetInstanceMetadataDefaultsResult(
        account_level=ec2.InstanceMetadataDefaultsResponse(
            http_tokens=defaults.http_tokens or None,
            http_put_response_hop_limit=defaults.http_put_response_hop_limit or None,
            http_endpoint=defaults.http_endpoint or None,
            instance_metadata_tags=defaults.instance_metadata_tags or None,
            managed_by="account",
        )
    )


def _account(cloud: Cloud, call: Call) -> Stored[record_pb2.AccountRecord]:
    account = cloud.store.get(record_pb2.AccountRecord, call.account_id)
    assert account is not None
    return account
