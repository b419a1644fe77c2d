"""Bytes of a file to a client without passing through this process (sendfile(2)). uvloop has no such call."""

from __future__ import annotations

import asyncio
import os

from common.rpc.uploads import RawExtent

# In one system call: so long the loop does nothing else.
_STEP_BYTES = 1 << 20


async def flushed(transport: asyncio.Transport) -> None:
    """What was written to the transport has gone to the kernel. Raises ConnectionResetError."""
    loop = asyncio.get_running_loop()
    while transport.get_write_buffer_size():
        if transport.is_closing():
            raise ConnectionResetError("the client is gone")
        descriptor = os.dup(transport.get_extra_info("socket").fileno())
        try:
            await _writable(loop, descriptor)
        finally:
            os.close(descriptor)


async def send_file(transport: asyncio.Transport, extent: RawExtent, idle_s: float) -> None:
    """Everything of it, while the transport itself has nothing to send.

    Raises TimeoutError when nothing went out for so long, ConnectionResetError.
    """
    loop = asyncio.get_running_loop()
    # A copy: the loop lets nobody else wait for the descriptor of a transport.
    descriptor = os.dup(transport.get_extra_info("socket").fileno())
    try:
        start = extent.start
        while start < extent.end:
            if transport.is_closing():
                raise ConnectionResetError("the client is gone")
            try:
                sent = os.sendfile(descriptor, extent.descriptor, start, min(extent.end - start, _STEP_BYTES))
            except BlockingIOError:
                async with asyncio.timeout(idle_s):
                    await _writable(loop, descriptor)
                continue
            except OSError as error:
                raise ConnectionResetError("the client is gone") from error
            if not sent:
                raise ConnectionResetError("the file is shorter than that")
            start += sent
            # Others have their turn.
            await asyncio.sleep(0)
    finally:
        os.close(descriptor)


async def _writable(loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
    ready = loop.create_future()
    loop.add_writer(descriptor, _settle, ready)
    try:
        await ready
    finally:
        loop.remove_writer(descriptor)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
