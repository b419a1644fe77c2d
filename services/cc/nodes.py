"""The leader's connections to the nodes of its zone: who is there, what each has, and what it says of its VMs."""

from __future__ import annotations

import asyncio
import ipaddress
import random
import time
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self

from common.background import Background
from common.errors import CloudError, Unavailable
from common.etcd.membership import Membership
from common.log import get_logger
from common.pki import Identity
from common.rpc.channel import CloudChannel, cloud_errors, connect
from mallee.common.v1.caller_pb2 import Member
from mallee.nc.v1 import instance_pb2, service_pb2
from mallee.nc.v1.service_pb2_grpc import NodeControllerServiceStub
from services.cc.ledger import Ledger, Trust
from services.cc.placement import Room

if TYPE_CHECKING:
    from mallee.nc.v1.service_pb2_grpc import NodeControllerServiceAsyncStub

FIRST_RETRY_S: Final = 0.1
LAST_RETRY_S: Final = 3.0
_DESCRIBE_TIMEOUT_S: Final = 5.0
# An order is on a node's disk in milliseconds; the answer for a whole batch waits no longer for one node that is slow.
# Its part is ordered again.
ORDER_TIMEOUT_S: Final = 2.0
# So many TLS handshakes at a time: all at once they would be too slow for each other, and none would come about.
_GREETINGS: Final = 32
# A node that refused what it should have had room for is left alone for so long, unless others are full.
_REFUSED_PAUSE_S: Final = 3.0
# As long as a membership's time to live: who has not come by then was not just restarted.
SURVEY_S: Final = 10.0

_log = get_logger(__name__)


class Listener(Protocol):
    """Called on the event loop; must neither block nor raise."""

    def observed(self, node: str, observation: instance_pb2.InstanceObservation) -> None: ...

    def answered(self, node: str, observation: instance_pb2.InstanceObservation) -> None:
        """The same in answer to an order: what the node told by itself may be newer."""

    def connected(self, node: str, *, restarted: bool) -> None:
        """The node answers, and its whole state was told. `restarted`: it is another process than before."""


class Nodes:
    """Use as an async context. Every node that was ever there in this term keeps its link: it may come back."""

    def __init__(
        self,
        membership: Membership,
        identity: Identity,
        zone: str,
        *,
        ledger: Ledger,
        underlay_cidr: str,
        survey_s: float = SURVEY_S,
    ) -> None:
        self._membership = membership
        self._identity = identity
        self._zone = zone
        self._ledger = ledger
        self._underlay = ipaddress.ip_network(underlay_cidr)
        self._survey_s = survey_s
        self._began = time.monotonic()
        self._links: dict[str, _Link] = {}
        # A call may outlive the term that it came in.
        self._is_over = False
        self._greetings = asyncio.Semaphore(_GREETINGS)
        self._tasks = Background()
        self._listener: Listener

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over = True
        self._membership.unsubscribe(self._follow)
        await self._tasks.__aexit__(kind, error, trace)
        for link in self._links.values():
            await link.close()

    def start(self, listener: Listener) -> None:
        self._listener = listener
        self._membership.subscribe(self._follow)
        self._follow()

    def stub(self, node: str) -> NodeControllerServiceAsyncStub:
        """Raises Unavailable for a node that has not said in this term what it is: where it is would be missing in what
        is told of its instances."""
        link = self._links.get(node)
        if link is None or not self._ledger.node(node).described:
            raise Unavailable(f"{node} is not there now")
        return link.stub

    @property
    def connected(self) -> set[str]:
        """Those that answer now and whose whole state is known."""
        return {name for name, link in self._links.items() if link.connected}

    @property
    def surveyed(self) -> bool:
        """Whether room that is not there now is not there at all: a new leader has yet to hear from its nodes, and
        after a start of the whole cloud they have yet to come."""
        if time.monotonic() - self._began > self._survey_s:
            return True
        nodes = self._ledger.nodes.values()
        return bool(nodes) and all(node.alive and node.described for node in nodes)

    def doubt(self, name: str, trust: Trust) -> None:
        """It is taken last until it has described itself anew, and has been left alone for a while if it refused."""
        node, link = self._ledger.nodes.get(name), self._links.get(name)
        if node is None or link is None or node.trust is Trust.OVERSTATED or self._is_over:
            return
        node.trust = trust
        self._ledger.node_changed(name)
        if not link.is_questioned:
            link.is_questioned = True
            self._tasks.start(self._question(link), name=f"doubt of {name}")

    def _follow(self) -> None:
        there = {member.id: member for member in self._membership.members("nc", self._zone)}
        for name, node in self._ledger.nodes.items():
            if node.alive and name not in there:
                _log.warning("a node's lease ended", node=name)
                node.alive = False
                self._ledger.node_changed(name)
        for name, member in there.items():
            node = self._ledger.node(name)
            if not node.alive:
                node.alive = True
                self._ledger.node_changed(name)
            link = self._links.get(name)
            if link is None:
                link = self._links[name] = _Link(member, self._identity)
                self._tasks.start(self._keep(link), name=f"node {name}")
            elif link.member != member:
                self._tasks.start(link.move_to(member))

    async def _keep(self, link: _Link) -> None:
        """Follows one node for good: what it is, then its VMs, again after each lost connection."""
        failures = 0
        while True:
            try:
                with cloud_errors():
                    async with self._greetings:
                        await self._describe(link)
                    async for response in link.stub.WatchInstances(service_pb2.WatchInstancesRequest()):
                        failures = 0
                        self._hear(link, response)
            except CloudError as error:
                if failures == 0:
                    _log.warning("a node does not answer", node=link.name, error=error.message)
            finally:
                link.connected = False
            node = self._ledger.node(link.name)
            if node.trust is Trust.FULL:
                node.trust = Trust.SILENT
            failures += 1
            await link.pause(_retry_s(failures))

    async def _describe(self, link: _Link) -> None:
        answer = await link.stub.DescribeNode(service_pb2.DescribeNodeRequest(), timeout=_DESCRIBE_TIMEOUT_S)
        node = self._ledger.node(link.name)
        node.total = Room.of(answer.total)
        node.underlay_address = answer.underlay_address
        node.hypervisor = answer.hypervisor
        node.refused = self._objection(link.name, answer)
        node.described = True
        if node.trust is Trust.SILENT:
            node.trust = Trust.FULL
        if node.refused:
            _log.error("a node is refused", node=link.name, reason=node.refused)
        self._ledger.node_changed(link.name)

    async def _question(self, link: _Link) -> None:
        node, failures = self._ledger.node(link.name), 0
        while node.is_doubted:
            try:
                await self._describe(link)
            except CloudError as error:
                if failures == 0:
                    _log.info("a node does not describe itself", node=link.name, error=error.message)
                failures += 1
                await link.pause(_retry_s(failures))
                continue
            if node.trust is Trust.OVERSTATED:
                await link.pause(_REFUSED_PAUSE_S)
                node.trust = Trust.FULL
                self._ledger.node_changed(link.name)
        link.is_questioned = False

    def _objection(self, name: str, answer: service_pb2.DescribeNodeResponse) -> str:
        if answer.node != name or answer.zone != self._zone:
            return f"it says that it is {answer.node} of {answer.zone}"
        # VXLAN between nodes needs one subnet; pretended nodes have no underlay.
        if answer.hypervisor != "fake" and ipaddress.ip_address(answer.underlay_address) not in self._underlay:
            return f"its underlay address {answer.underlay_address} is not in {self._underlay}"
        return ""

    def _hear(self, link: _Link, response: service_pb2.WatchInstancesResponse) -> None:
        match response.WhichOneof("event"):
            case "observation":
                self._listener.observed(link.name, response.observation)
            case "snapshot_complete":
                boot_id = link.member.boot_id
                link.connected = True
                self._listener.connected(link.name, restarted=link.known_boot_id != boot_id)
                link.known_boot_id = boot_id


def _retry_s(failures: int) -> float:
    return min(FIRST_RETRY_S * (1 << min(failures, 10)), LAST_RETRY_S) * random.uniform(0.5, 1.0)


class _Link:
    """One node's channel. A node that comes back elsewhere gets a new one."""

    def __init__(self, member: Member, identity: Identity) -> None:
        self.name = member.id
        self.member = member
        # Of the process whose whole state we have heard.
        self.known_boot_id: str | None = None
        self.connected = False
        # A doubt of it is being settled.
        self.is_questioned = False
        self._identity = identity
        self._wake = asyncio.Event()
        self._open()

    def _open(self) -> None:
        self._channel: CloudChannel = connect(self.member.address, self._identity, self.name)
        self.stub: NodeControllerServiceAsyncStub = NodeControllerServiceStub(self._channel)

    async def move_to(self, member: Member) -> None:
        moved = member.address != self.member.address
        self.member = member
        old = self._channel
        if moved:
            self._open()
            # Its streams end, so it is followed at the new place.
            await old.close()
        self._wake.set()

    async def pause(self, seconds: float) -> None:
        """Shorter when the node registers afresh."""
        self._wake.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def close(self) -> None:
        await self._channel.close()
