"""What a bucket says to browsers: the calls of its CORS and website configurations, and both for the facade."""

from __future__ import annotations

from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import cors_pb2, website_pb2
from mallee.s3.v1.cors_pb2 import CORSConfiguration
from mallee.s3.v1.website_pb2 import WebsiteConfiguration
from mallee.walrus.v1 import service_pb2
from services.walrus import configs, cors, errors, website
from services.walrus.store import Store


async def put_cors(
    store: Store, request: cors_pb2.PutBucketCorsRequest, caller: Caller | None
) -> cors_pb2.PutBucketCorsResponse:
    bucket = await store.bucket_for(request, caller)
    await configs.put(store, bucket, cors.checked(request.cors_configuration))
    return cors_pb2.PutBucketCorsResponse()


async def get_cors(
    store: Store, request: cors_pb2.GetBucketCorsRequest, caller: Caller | None
) -> cors_pb2.GetBucketCorsOutput:
    bucket = await store.bucket_for(request, caller)
    found = configs.find(bucket, CORSConfiguration)
    if found is None:
        raise errors.not_configured(bucket.name, "NoSuchCORSConfiguration", "The CORS configuration does not exist")
    return cors_pb2.GetBucketCorsOutput(cors_rules=found.cors_rules)


async def delete_cors(
    store: Store, request: cors_pb2.DeleteBucketCorsRequest, caller: Caller | None
) -> cors_pb2.DeleteBucketCorsResponse:
    bucket = await store.bucket_for(request, caller)
    await configs.delete(store, bucket, CORSConfiguration)
    return cors_pb2.DeleteBucketCorsResponse()


async def put_website(
    store: Store, request: website_pb2.PutBucketWebsiteRequest, caller: Caller | None
) -> website_pb2.PutBucketWebsiteResponse:
    bucket = await store.bucket_for(request, caller)
    await configs.put(store, bucket, website.checked(request.website_configuration))
    return website_pb2.PutBucketWebsiteResponse()


async def get_website(
    store: Store, request: website_pb2.GetBucketWebsiteRequest, caller: Caller | None
) -> website_pb2.GetBucketWebsiteOutput:
    bucket = await store.bucket_for(request, caller)
    found = configs.find(bucket, WebsiteConfiguration)
    if found is None:
        raise errors.not_configured(
            bucket.name, "NoSuchWebsiteConfiguration", "The specified bucket does not have a website configuration"
        )
    return website_pb2.GetBucketWebsiteOutput(
        redirect_all_requests_to=found.redirect_all_requests_to if found.HasField("redirect_all_requests_to") else None,
        index_document=found.index_document if found.HasField("index_document") else None,
        error_document=found.error_document if found.HasField("error_document") else None,
        routing_rules=found.routing_rules,
    )


async def delete_website(
    store: Store, request: website_pb2.DeleteBucketWebsiteRequest, caller: Caller | None
) -> website_pb2.DeleteBucketWebsiteResponse:
    bucket = await store.bucket_for(request, caller)
    await configs.delete(store, bucket, WebsiteConfiguration)
    return website_pb2.DeleteBucketWebsiteResponse()


async def web_configuration(store: Store, name: str) -> service_pb2.GetWebConfigurationResponse:
    bucket = await store.index.find_bucket(name)
    if bucket is None:
        raise errors.no_such_bucket(name)
    return service_pb2.GetWebConfigurationResponse(
        cors=configs.find(bucket, CORSConfiguration), website=configs.find(bucket, WebsiteConfiguration)
    )
