"""PutBucketNotificationConfiguration and GetBucketNotificationConfiguration."""

from __future__ import annotations

from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import notification_pb2
from mallee.s3.v1.notification_pb2 import NotificationConfiguration
from services.walrus import configs, notification
from services.walrus.store import Store


async def put_notification(
    store: Store, request: notification_pb2.PutBucketNotificationConfigurationRequest, caller: Caller | None
) -> notification_pb2.PutBucketNotificationConfigurationResponse:
    bucket = await store.bucket_for(request, caller)
    wanted = request.notification_configuration
    if wanted == NotificationConfiguration():
        await configs.delete(store, bucket, NotificationConfiguration)
    else:
        await configs.put(store, bucket, notification.checked(wanted, store.event_targets))
    return notification_pb2.PutBucketNotificationConfigurationResponse()


async def get_notification(
    store: Store, request: notification_pb2.GetBucketNotificationConfigurationRequest, caller: Caller | None
) -> NotificationConfiguration:
    bucket = await store.bucket_for(request, caller)
    return configs.find(bucket, NotificationConfiguration) or NotificationConfiguration()
