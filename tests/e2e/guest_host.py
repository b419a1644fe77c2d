"""What a guest finds around it in its test: metadata on 169.254.169.254:80 and a bucket on 169.254.169.250:8773.

Run inside the guest's network: `python -m tests.e2e.guest_host FOLDER`. FOLDER/metadata/ holds the answers by path, so
that a test changes them as it goes; what is PUT into the bucket lies in FOLDER/bucket/.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aiohttp import web

METADATA = "169.254.169.254"
FACADE = "169.254.169.250"
TOKEN = "the-token"


class Host:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def metadata(self, request: web.BaseRequest) -> web.Response:
        path = request.path.removeprefix("/latest/")
        if path == "api/token":
            asked = "X-aws-ec2-metadata-token-ttl-seconds" in request.headers and request.method == "PUT"
            return web.Response(text=TOKEN) if asked else web.Response(status=400)
        if request.headers.get("X-aws-ec2-metadata-token") != TOKEN:
            return web.Response(status=401)
        file = self._folder / "metadata" / path
        return web.Response(body=file.read_bytes()) if file.is_file() else web.Response(status=404)

    async def bucket(self, request: web.BaseRequest) -> web.Response:
        """As S3: what is presigned names the host with its port."""
        if request.headers["Host"] != f"{FACADE}:8773" or request.query.get("X-Amz-Signature") != "a+b/c=":
            return web.Response(status=403, text="SignatureDoesNotMatch")
        file = self._folder / "bucket" / request.path.lstrip("/")
        if request.method == "PUT":
            file.write_bytes(await request.read())
            return web.Response(headers={"ETag": '"made"'})
        return web.Response(body=file.read_bytes()) if file.is_file() else web.Response(status=404, text="NoSuchKey")


async def main(folder: Path) -> None:
    host = Host(folder)
    for handler, address, port in ((host.metadata, METADATA, 80), (host.bucket, FACADE, 8773)):
        runner = web.ServerRunner(web.Server(handler))
        await runner.setup()
        await web.TCPSite(runner, address, port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
