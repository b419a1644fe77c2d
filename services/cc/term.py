"""One term of the zone's leader: everything it knows and does, from winning the election to losing it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from common.background import Background
from common.config import PlacementPolicy
from common.etcd.client import Etcd
from common.etcd.election import Leadership
from common.etcd.membership import Membership
from common.pki import Identity
from mallee.nc.v1 import instance_pb2
from services.cc.feeds import CapacityFeed, InstanceFeed
from services.cc.launch import Launch
from services.cc.ledger import Ledger
from services.cc.nodes import Nodes
from services.cc.plans import Plans
from services.cc.removal import Removal
from services.cc.store import PlacementStore


class Term:
    def __init__(self, nodes: Nodes, ledger: Ledger, store: PlacementStore, *, epoch: int) -> None:
        self.epoch = epoch
        self.nodes = nodes
        self.ledger = ledger
        self.instances = InstanceFeed()
        self.capacity = CapacityFeed(ledger)
        self.plans = Plans(nodes, ledger, epoch=epoch)
        self.removal = Removal(nodes, ledger, store, plans=self.plans, feed=self.instances, epoch=epoch)
        self.launch = Launch(nodes, ledger, store, plans=self.plans, removal=self.removal, listener=self, epoch=epoch)
        ledger.changed = self.capacity.publish

    def observed(self, node: str, observation: instance_pb2.InstanceObservation) -> None:
        placement = self.ledger.placements.get(observation.instance_id)
        if observation.state == instance_pb2.VM_STATE_GONE:
            if placement is None or observation.generation >= placement.generation:
                self.removal.is_gone(node, observation.instance_id)
        elif placement is None or placement.node != node:
            # Nothing is ordered without a placement, so it is a leftover.
            self.removal.remove_orphan(node, observation.instance_id, observation.generation)
        elif observation.generation >= placement.generation:
            told = instance_pb2.InstanceObservation()
            told.CopyFrom(observation)
            told.node, told.node_address = node, self.ledger.node(node).underlay_address
            self.instances.publish(told)

    def answered(self, node: str, observation: instance_pb2.InstanceObservation) -> None:
        known = self.instances.get(observation.instance_id)
        if known is None or (known.node, known.generation) != (node, observation.generation):
            self.observed(node, observation)

    def connected(self, node: str, *, restarted: bool) -> None:
        self.plans.node_connected(node, restarted=restarted)
        self.removal.node_connected(node)

    def end(self) -> None:
        """Watchers are told to look for the new leader."""
        self.instances.close()
        self.capacity.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneRules:
    """What the operator configured."""

    underlay_cidr: str
    policy: PlacementPolicy = "round-robin"


@contextlib.asynccontextmanager
async def leading(
    etcd: Etcd, membership: Membership, identity: Identity, *, zone: str, rules: ZoneRules, leadership: Leadership
) -> AsyncIterator[Term]:
    """Entered, every placement is known and every live node is being asked."""
    ledger = Ledger(policy=rules.policy)
    store = PlacementStore(etcd, zone, leadership)
    ledger.load(await store.load())
    async with (
        Nodes(membership, identity, zone, ledger=ledger, underlay_cidr=rules.underlay_cidr) as nodes,
        Background() as tasks,
    ):
        term = Term(nodes, ledger, store, epoch=leadership.epoch)
        tasks.start(term.plans.run())
        tasks.start(term.removal.run())
        nodes.start(term)
        try:
            yield term
        finally:
            term.end()
