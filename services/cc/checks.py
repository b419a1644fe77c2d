"""Asking the nodes about the guests of their instances."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from common.errors import CloudError
from mallee.nc.v1 import service_pb2
from services.cc.ledger import Ledger
from services.cc.nodes import Nodes

# A guest has a second; a node that takes longer is in trouble of its own.
_NODE_S: Final = 3.0


async def check(ledger: Ledger, nodes: Nodes, instance_ids: Iterable[str]) -> list[service_pb2.InstanceCheck]:
    """Of those whose nodes answer."""
    by_node: defaultdict[str, list[str]] = defaultdict(list)
    for instance_id in instance_ids:
        if (placement := ledger.placements.get(instance_id)) is not None and placement.node in nodes.connected:
            by_node[placement.node].append(instance_id)

    async def ask(node: str, ids: list[str]) -> list[service_pb2.InstanceCheck]:
        try:
            order = service_pb2.CheckInstancesRequest(instance_ids=ids)
            return list((await nodes.stub(node).CheckInstances(order, timeout=_NODE_S)).checks)
        except CloudError:
            return []

    answers = await asyncio.gather(*(ask(node, ids) for node, ids in by_node.items()))
    return [check for checks in answers for check in checks]
