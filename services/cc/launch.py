"""Launching: place, write the placements in one transaction, then order all nodes at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Container, Iterable, Mapping, Sequence
from typing import Final

from common import ticket
from common.errors import IMAGE_CACHE_FULL, CloudError, InvalidArgument, NoCapacity, Unavailable, Unsupported
from common.ids import InstanceId
from common.log import get_logger
from common.metrics import counter
from common.rpc import context
from mallee.cc.v1.service_pb2 import Placed
from mallee.nc.v1 import instance_pb2, service_pb2
from services.cc.ledger import Ledger, Placement, Trust
from services.cc.nodes import ORDER_TIMEOUT_S, Listener, Nodes
from services.cc.placement import Room, Want
from services.cc.plans import Plans
from services.cc.removal import Removal
from services.cc.store import PlacementStore

Spec = instance_pb2.InstanceSpec

LAUNCHES: Final = counter("mallee_cc_launches", "Orders to launch, by outcome: OK or an AWS error code", ("code",))

_log = get_logger(__name__)


class Launch:
    def __init__(
        self,
        nodes: Nodes,
        ledger: Ledger,
        store: PlacementStore,
        *,
        plans: Plans,
        removal: Removal,
        listener: Listener,
        epoch: int,
    ) -> None:
        self._nodes = nodes
        self._ledger = ledger
        self._store = store
        self._plans = plans
        self._removal = removal
        self._listener = listener
        self._epoch = epoch
        # Instances in the hands of a call; another call for one of them waits.
        self._busy: dict[str, asyncio.Future[None]] = {}

    async def ensure(
        self, specs: Sequence[Spec], hosts: Mapping[str, str], *, request_ids: Mapping[str, str]
    ) -> list[Placed]:
        """One answer per spec. `hosts`: instance id → the one node that will do, for those that are not placed yet.
        `request_ids`: instance id → the request that its node is ordered under.

        Raises Unavailable when the placements could not be written; asking again is safe.
        """
        wanted = {spec.instance_id: spec for spec in specs}
        async with self.alone(wanted):
            answers = await self._ensure(wanted, hosts, request_ids)
        for answer in answers.values():
            LAUNCHES.labels(answer.error_code or "OK").inc()
        return [answers[spec.instance_id] for spec in specs]

    @contextlib.asynccontextmanager
    async def alone(self, instance_ids: Iterable[str]) -> AsyncIterator[None]:
        """No launch of one of these runs inside."""
        ids = set(instance_ids)
        while waiting := {self._busy[i] for i in ids if i in self._busy}:
            await asyncio.wait(waiting)
        done = asyncio.get_running_loop().create_future()
        self._busy.update(dict.fromkeys(ids, done))
        try:
            yield
        finally:
            for instance_id in ids:
                del self._busy[instance_id]
            done.set_result(None)

    async def _ensure(
        self, wanted: dict[str, Spec], hosts: Mapping[str, str], request_ids: Mapping[str, str]
    ) -> dict[str, Placed]:
        answers: dict[str, Placed] = {}
        refused_by: defaultdict[str, frozenset[str]] = defaultdict(frozenset)
        placements = self._settle(wanted.values(), hosts, answers)
        while placements:
            # Before any node hears of it: whoever leads next must know.
            await self._store.write([placement for placement in placements if not placement.written])
            refused = []
            for placement, error in await self._order_all(placements, wanted, request_ids):
                if isinstance(error, NoCapacity):
                    refused.append((placement, error))
                    refused_by[placement.instance_id] |= {placement.node}
                else:
                    answers[placement.instance_id] = self._answer(placement, error)
            # One that may stand on one node alone is not moved: that node has refused it.
            placements = await self._move(refused, refused_by, answers, but=hosts)
        return answers

    def _settle(self, specs: Iterable[Spec], hosts: Mapping[str, str], answers: dict[str, Placed]) -> list[Placement]:
        """The placements to order: those that stand, and new ones for which there is room."""
        standing: list[Placement] = []
        fresh: dict[str, Spec] = {}
        for spec in specs:
            placement = self._ledger.placements.get(spec.instance_id)
            if not InstanceId.matches(spec.instance_id):
                answers[spec.instance_id] = _failed(spec.instance_id, InvalidArgument("the instance id is malformed"))
            elif placement is None:
                fresh[spec.instance_id] = spec
            elif placement.terminating or spec.generation < placement.generation:
                error = Unavailable("the instance is being taken away, or was ordered anew meanwhile")
                answers[spec.instance_id] = self._answer(placement, error)
            else:
                if spec.generation > placement.generation:
                    placement.generation, placement.written = spec.generation, False
                standing.append(placement)
        wants = [
            Want(instance_id=i, need=Room.needed_by(spec), vpc_id=spec.interface.vpc_id, host=hosts.get(i, ""))
            for i, spec in fresh.items()
        ]
        made = self._ledger.reserve(wants, lambda i, node: _placement(fresh[i], node))
        for instance_id in fresh.keys() - {placement.instance_id for placement in made}:
            answers[instance_id] = self._no_room(instance_id)
        return standing + made

    async def _order_all(
        self, placements: Sequence[Placement], wanted: dict[str, Spec], request_ids: Mapping[str, str]
    ) -> list[tuple[Placement, CloudError | None]]:
        async with asyncio.TaskGroup() as tasks:
            orders = [
                (p, tasks.create_task(self._order(p, wanted[p.instance_id], request_ids.get(p.instance_id))))
                for p in placements
            ]
        return [(placement, order.result()) for placement, order in orders]

    async def _order(self, placement: Placement, spec: Spec, request_id: str | None) -> CloudError | None:
        """What the node said against it."""
        with context.bind(request_id=request_id):
            _log.info("a launch is ordered", instance_id=placement.instance_id, node=placement.node)
            return await self._say(placement, spec)

    async def _say(self, placement: Placement, spec: Spec) -> CloudError | None:
        self._plans.nudge(placement.vpc_id, placement.node)
        order = service_pb2.EnsureInstanceRequest(epoch=self._epoch, spec=_bound_to(placement.node, spec))
        try:
            answer = await self._nodes.stub(placement.node).EnsureInstance(order, timeout=ORDER_TIMEOUT_S)
        except Unavailable as error:
            self._nodes.doubt(placement.node, Trust.SILENT)
            return error
        except CloudError as error:
            return error
        self._listener.answered(placement.node, answer.observation)
        return None

    async def _move(
        self,
        refused: Sequence[tuple[Placement, NoCapacity]],
        refused_by: Mapping[str, frozenset[str]],
        answers: dict[str, Placed],
        *,
        but: Container[str],
    ) -> list[Placement]:
        """To other nodes. Where the nodes count otherwise than we do nothing started, so nothing has to be fenced."""
        wants = []
        for old, error in refused:
            _log.warning("a node refuses", node=old.node, instance_id=old.instance_id, reason=error.message)
            if error.code != IMAGE_CACHE_FULL:
                self._nodes.doubt(old.node, Trust.OVERSTATED)
            if old.instance_id not in but:
                not_on = refused_by[old.instance_id]
                wants.append(Want(instance_id=old.instance_id, need=old.need, vpc_id=old.vpc_id, not_on=not_on))
        moved = self._ledger.move(wants)
        for old, error in refused:
            if self._ledger.placements[old.instance_id] is old:
                await self._store.delete(old)
                self._ledger.release(old.instance_id)
                answers[old.instance_id] = self._no_room(old.instance_id, f" ({old.node}: {error.message})")
            self._plans.nudge(old.vpc_id, old.node)
        return moved

    def _no_room(self, instance_id: str, because: str = "") -> Placed:
        if self._nodes.surveyed:
            return _failed(instance_id, NoCapacity(f"no node of the zone has room for it{because}"))
        return _failed(instance_id, Unavailable("not all nodes of the zone have been heard from yet"))

    def _answer(self, placement: Placement, error: CloudError | None) -> Placed:
        placed = Placed(
            instance_id=placement.instance_id,
            node=placement.node,
            node_address=self._ledger.node(placement.node).underlay_address,
        )
        if isinstance(error, InvalidArgument | Unsupported):
            # For good: nothing of it is to be left, by the way that everything is taken away.
            self._removal.start(placement)
            return _failed(placement.instance_id, error)
        if error is not None:
            placed.error_code, placed.error_message = Unavailable.default_code, error.message
        return placed


def _placement(spec: Spec, node: str) -> Placement:
    return Placement(
        instance_id=spec.instance_id,
        node=node,
        generation=spec.generation,
        need=Room.needed_by(spec),
        vpc_id=spec.interface.vpc_id,
    )


def _failed(instance_id: str, error: CloudError) -> Placed:
    return Placed(instance_id=instance_id, error_code=error.code, error_message=error.message)


def _bound_to(node: str, spec: Spec) -> Spec:
    """With tickets that only this node can use."""
    bound = Spec()
    bound.CopyFrom(spec)
    for image in (bound.boot.machine, bound.boot.kernel, bound.boot.ramdisk):
        if image.ticket:
            image.ticket = ticket.narrow(image.ticket, node=node)
    return bound
