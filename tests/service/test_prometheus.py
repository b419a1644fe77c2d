"""A real Prometheus reads what our processes show. `scraped` takes any targets: the whole cloud's as well."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientConnectionError, ClientSession

from common import metrics
from tests.ports import free_port

CONFIG = """
global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}
scrape_configs:
  - job_name: mallee
    static_configs: [{{targets: [{targets}]}}]
"""


@asynccontextmanager
async def prometheus(targets: Sequence[str], folder: Path) -> AsyncIterator[str]:
    """Runs it on `targets` (host:port of /metrics) until the end of the body; yields its URL."""
    (folder / "prometheus.yml").write_text(CONFIG.format(targets=", ".join(f"'{target}'" for target in targets)))
    address = f"127.0.0.1:{free_port()}"
    child = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={address}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield f"http://{address}"
    finally:
        child.kill()
        await child.wait()


async def scraped(url: str, query: str, *, series: int = 1, within_s: float = 60) -> list[dict[str, Any]]:
    """The result of an instant query as soon as it has that many series."""
    async with asyncio.timeout(within_s), ClientSession() as http:
        while True:
            try:
                async with http.get(f"{url}/api/v1/query", params={"query": query}) as answer:
                    if answer.status == 200:
                        result: list[dict[str, Any]] = (await answer.json())["data"]["result"]
                        if len(result) >= series:
                            return result
            except ClientConnectionError:
                pass
            await asyncio.sleep(0.1)


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Debian's prometheus is not installed")
async def test_a_real_prometheus_scrapes_our_metrics(tmp_path: Path) -> None:
    metrics.counter("test_apples", "Apples", ("kind",)).labels("red").inc(3)
    metrics.gauge("test_pears", "Pears", read=lambda: 7.0)
    metrics.RPCS.of("/test/Prometheus", "OK").add(0.02)
    async with metrics.serve("127.0.0.1:0") as port, prometheus([f"127.0.0.1:{port}"], tmp_path) as url:
        (apples,) = await scraped(url, "test_apples_total")
        assert apples["metric"]["kind"] == "red"
        assert apples["value"][1] == "3"
        (pears,) = await scraped(url, "test_pears")
        assert pears["value"][1] == "7"
        quantile = 'histogram_quantile(0.5, sum by (le) (mallee_rpc_seconds_bucket{method="/test/Prometheus"}))'
        (latency,) = await scraped(url, quantile)
        assert 0.01 < float(latency["value"][1]) < 0.025
        (up,) = await scraped(url, "up == 1")
        assert up["metric"]["job"] == "mallee"
