"""Single acts on one domain, as libvirt has them, and what its errors mean. They block: the driver's pool runs them."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import threading
from pathlib import Path
from typing import Any, Final

import libvirt

from common.errors import CloudError, NoCapacity

GONE_CODES: Final = frozenset({libvirt.VIR_ERR_NO_DOMAIN})
# More than any mode of the screen's memory (domain_xml.SCREEN_KIB) has, as three bytes a pixel.
_MAX_SCREEN_BYTES: Final = 16 << 20
# Of the Linux key codes (input-event-codes.h): left shift, which types nothing.
_LEFT_SHIFT: Final = 42
_HELD_MS: Final = 50
_UNDEFINE: Final = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
)


@contextlib.contextmanager
def gone_is_fine() -> Any:
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() not in GONE_CODES:
            raise


def stop(domain: libvirt.virDomain) -> None:
    """At once. It may end by itself at the same moment."""
    try:
        if domain.isActive():
            domain.destroy()
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
            raise


def undefine(domain: libvirt.virDomain) -> None:
    """With all that libvirt keeps of it."""
    domain.undefineFlags(_UNDEFINE)


def press_power(domain: libvirt.virDomain) -> bool:
    """Whether it is up, and so was asked to shut down."""
    if not domain.isActive():
        return False
    with contextlib.suppress(libvirt.libvirtError):
        domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
    return True


def drop_logs(folder: Path, domain: str) -> None:
    """libvirt never deletes them; virtlogd numbers those that are full."""
    for log in folder.glob(f"{domain}.log*"):
        log.unlink(missing_ok=True)


def press_a_key(domain: libvirt.virDomain) -> None:
    domain.sendKey(libvirt.VIR_KEYCODE_SET_LINUX, _HELD_MS, [_LEFT_SHIFT], 1, 0)


def screen_of(connection: libvirt.virConnect, domain: libvirt.virDomain) -> bytes:
    """Its first screen, as QEMU draws it: PNG or PPM, by QEMU's version."""
    stream = connection.newStream(0)
    read = bytearray()

    def abort() -> None:
        with contextlib.suppress(libvirt.libvirtError):
            stream.abort()

    with contextlib.ExitStack() as unless_read:
        unless_read.callback(abort)
        domain.screenshot(stream, 0)
        while chunk := stream.recv(1 << 18):
            read += chunk
            if len(read) > _MAX_SCREEN_BYTES:
                raise CloudError("the guest's screen is larger than its memory")
        stream.finish()
        unless_read.pop_all()
    return bytes(read)


def cloud_error(error: libvirt.libvirtError) -> CloudError:
    text = str(error.get_error_message() or error)
    if "Cannot allocate memory" in text or "cannot set up guest memory" in text:
        return NoCapacity(f"the host has no memory for it: {text}")
    if os.strerror(errno.ENOSPC) in text:
        return NoCapacity(f"the host has no disk space for it: {text}")
    return CloudError(f"libvirt: {text}")


@functools.cache
def start_event_thread() -> None:
    """Once per process, before the first connection: https://libvirt.org/html/libvirt-libvirt-event.html"""
    libvirt.virEventRegisterDefaultImpl()
    # Errors reach us as exceptions; without this libvirt also prints them.
    libvirt.registerErrorHandler(lambda opaque, error: None, None)

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, name="libvirt-events", daemon=True).start()
