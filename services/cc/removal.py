"""Taking instances away: ordered until the node says that nothing is left, then the placement is released."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable

from common.errors import CloudError
from common.reconcile import Reconciler
from mallee.cc.v1.service_pb2 import InstanceGeneration
from mallee.nc.v1 import instance_pb2, service_pb2
from services.cc.feeds import InstanceFeed
from services.cc.ledger import Ledger, Placement
from services.cc.nodes import ORDER_TIMEOUT_S, Nodes
from services.cc.plans import Plans
from services.cc.store import PlacementStore


class Removal:
    """Also of what a node runs without a placement there. `run` works, without end."""

    def __init__(
        self, nodes: Nodes, ledger: Ledger, store: PlacementStore, *, plans: Plans, feed: InstanceFeed, epoch: int
    ) -> None:
        self._nodes = nodes
        self._ledger = ledger
        self._store = store
        self._plans = plans
        self._feed = feed
        self._epoch = epoch
        # (node, instance) → generation, of what has no placement on that node.
        self._orphans: dict[tuple[str, str], int] = {}
        self._releasing: set[str] = set()
        self._reconciler = Reconciler("cc-removal", self._step)

    async def run(self) -> None:
        await self._reconciler.run()

    async def terminate(self, instances: Iterable[InstanceGeneration]) -> list[str]:
        """Orders each, all at once. Returns the ids of which nothing is left."""
        orders = {order.instance_id: order for order in instances}
        async with asyncio.TaskGroup() as tasks:
            done = {i: tasks.create_task(self._terminate(order)) for i, order in orders.items()}
        return [instance_id for instance_id, task in done.items() if task.result()]

    def start(self, placement: Placement) -> None:
        """Until it is gone."""
        placement.terminating = True
        self._reconciler.nudge(f"{placement.node}/{placement.instance_id}")

    def remove_orphan(self, node: str, instance_id: str, generation: int) -> None:
        self._orphans[node, instance_id] = generation
        self._reconciler.nudge(f"{node}/{instance_id}")

    def is_gone(self, node: str, instance_id: str) -> None:
        """The node says that nothing of it is left there."""
        self._orphans.pop((node, instance_id), None)
        placement = self._ledger.placements.get(instance_id)
        if placement is not None and placement.node == node:
            self.start(placement)

    def node_connected(self, node: str) -> None:
        for placement in self._ledger.on_node(node):
            if placement.terminating:
                self._reconciler.nudge(f"{node}/{placement.instance_id}")
        for orphan_node, instance_id in self._orphans:
            if orphan_node == node:
                self._reconciler.nudge(f"{node}/{instance_id}")

    async def release(self, placement: Placement) -> None:
        """Raises Unavailable; releasing again is safe."""
        if placement.instance_id in self._releasing:
            return
        self._releasing.add(placement.instance_id)
        try:
            await self._store.delete(placement)
        finally:
            self._releasing.discard(placement.instance_id)
        self._ledger.release(placement.instance_id)
        self._feed.publish(
            instance_pb2.InstanceObservation(
                instance_id=placement.instance_id,
                generation=placement.generation,
                state=instance_pb2.VM_STATE_GONE,
                node=placement.node,
            )
        )
        self._plans.nudge(placement.vpc_id, placement.node)

    async def _terminate(self, order: InstanceGeneration) -> bool:
        instance_id = order.instance_id
        placement = self._ledger.placements.get(instance_id)
        if placement is None:
            return not any(instance_id == orphan for _, orphan in self._orphans)
        until_s = time.monotonic() + order.grace_s
        placement.grace_until_s = min(placement.grace_until_s, until_s) if placement.terminating else until_s
        placement.terminating = True
        placement.generation = max(placement.generation, order.generation)
        try:
            return await self._remove(placement)
        except CloudError:
            # Its node is away: ordered again, later and when it comes back.
            self._reconciler.nudge(f"{placement.node}/{instance_id}")
            return False

    async def _step(self, key: str) -> None:
        node, _, instance_id = key.partition("/")
        if node not in self._nodes.connected:
            return  # It is ordered when it is back.
        placement = self._ledger.placements.get(instance_id)
        if placement is not None and placement.node == node:
            self._orphans.pop((node, instance_id), None)
            if placement.terminating:
                await self._remove(placement)
        elif (generation := self._orphans.get((node, instance_id))) is not None and await self._order(
            node, instance_id, generation
        ):
            self._orphans.pop((node, instance_id), None)

    async def _remove(self, placement: Placement) -> bool:
        grace_s = max(0, math.ceil(placement.grace_until_s - time.monotonic()))
        gone = await self._order(placement.node, placement.instance_id, placement.generation, grace_s=grace_s)
        if gone:
            await self.release(placement)
        return gone and placement.instance_id not in self._ledger.placements

    async def _order(self, node: str, instance_id: str, generation: int, *, grace_s: int = 0) -> bool:
        order = service_pb2.TerminateInstanceRequest(
            epoch=self._epoch, instance_id=instance_id, generation=generation, grace_s=grace_s
        )
        answer = await self._nodes.stub(node).TerminateInstance(order, timeout=ORDER_TIMEOUT_S)
        return answer.gone
