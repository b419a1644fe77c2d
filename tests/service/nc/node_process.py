"""A node controller as a process of its own, on fake drivers, with images that need no Walrus and no etcd."""

from __future__ import annotations

from common.process import ServiceContext, run_service
from services.nc.drivers.fake import FakeHypervisor, Faults
from services.nc.drivers.network_fake import FakeNetwork
from services.nc.main import Drivers, assemble, paths_of
from services.nc.overlay import ensure_empty_overlay
from tests.service.nc.stage import Grants, Shelf


async def build(ctx: ServiceContext) -> None:
    paths = paths_of(ctx.config, ctx.member)
    drivers = Drivers(
        # Slow enough to be killed in between.
        hypervisor=FakeHypervisor(paths.fake, Faults(prepare_delay_s=0.02, resume_delay_s=0.02)),
        network=FakeNetwork(paths.root / "fake-network", "127.0.0.1"),
        make_overlay=ensure_empty_overlay,
        owner=None,
    )
    await ctx.serve(await assemble(ctx, drivers, Shelf(chunk_bytes=100), Grants(), walrus=lambda: None))


if __name__ == "__main__":
    run_service("nc", build)
