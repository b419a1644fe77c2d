"""apache-libcloud's EC2 driver for an account of a running cloud."""

from __future__ import annotations

from typing import Any

from libcloud.compute.providers import get_driver
from libcloud.compute.types import Provider

from tests.cloud_fixture import RunningCloud


def driver_of(cloud: RunningCloud, account: str) -> Any:
    """It signs with Signature Version 2, as it does for us-east-1 unless told otherwise."""
    keys = cloud.account(account)
    driver: Any = get_driver(Provider.EC2)
    return driver(
        keys.access_key_id,
        keys.secret_access_key,
        region=cloud.config.region,
        host="127.0.0.1",
        port=cloud.config.facade.port,
        secure=False,
    )
