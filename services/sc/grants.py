"""Who may use a volume: one node at a time, by a grant whose generation only grows. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from common.errors import Denied, Stale, WrongState


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Of a grant."""

    generation: int
    # Member id of the node.
    node: str
    instance_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grants:
    """Of one volume."""

    standing: Holder | None = None
    # `standing` ends; until its node is known to be cut off, nobody else gets the volume.
    revoking: bool = False
    # The highest generation that was ever granted or revoked.
    newest: int = 0


def grant(grants: Grants, holder: Holder) -> Grants:
    """Raises Stale (a newer one was granted or revoked), WrongState (another one stands)."""
    standing = grants.standing
    if standing == holder and not grants.revoking:
        return grants
    if standing is not None and holder.generation > standing.generation:
        raise WrongState(f"the volume is granted to {standing.node} for {standing.instance_id}", code="VolumeInUse")
    if holder.generation <= grants.newest:
        raise Stale(f"generation {holder.generation} of the volume's grants is over: {grants.newest} was here")
    return Grants(standing=holder, newest=holder.generation)


def begin_revoke(grants: Grants, generation: int) -> Grants:
    """What is to be written before the node is cut off: from then on the grant is redeemed no more."""
    ends = grants.standing is not None and grants.standing.generation <= generation
    return replace(grants, revoking=grants.revoking or ends, newest=max(grants.newest, generation))


def end_revoke(grants: Grants, generation: int) -> Grants:
    """What is to be written when the node is cut off."""
    if grants.standing is None or grants.standing.generation > generation:
        return grants
    return replace(grants, standing=None, revoking=False)


def redeem(grants: Grants, generation: int, node: str) -> Holder | None:
    """The grant, if this node holds it now. None: it may still come. Raises Denied."""
    standing = grants.standing
    if generation > grants.newest:
        return None
    if standing is None or standing.generation != generation or grants.revoking:
        raise Denied(f"grant {generation} of the volume was revoked")
    if standing.node != node:
        raise Denied(f"grant {generation} of the volume is not for {node}")
    return standing
