"""`etcd3`, the synchronous client, over stubs that today's protobuf can load. For the admin tool, and for tests as a
witness independent of our own client. Its watch dies for good with its connection: follow nothing with it.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import etcdrpc
from common.pki import Identity

# Before `import etcd3`, which would import its own stubs otherwise and fail.
sys.modules["etcd3.etcdrpc"] = etcdrpc

import etcd3  # noqa: E402

from common.etcd.client import SERVER_NAME  # noqa: E402


@contextlib.contextmanager
def connected(endpoint: str, identity: Identity | None = None, *, timeout_s: float = 5.0) -> Iterator[Any]:
    """An etcd3.Etcd3Client of one member, `host:port`."""
    host, _, port = endpoint.rpartition(":")
    if identity is None:
        client = etcd3.client(host=host, port=int(port), timeout=timeout_s)
        with contextlib.closing(client):
            yield client
        return
    # It takes files only.
    with tempfile.TemporaryDirectory(prefix="mallee-etcd-") as folder:
        paths = {name: Path(folder) / name for name in ("ca", "certificate", "key")}
        for name, content in (
            ("ca", identity.ca_pem), ("certificate", identity.certificate_pem), ("key", identity.key_pem)
        ):  # fmt: skip
            paths[name].touch(mode=0o600)
            paths[name].write_bytes(content)
        client = etcd3.client(
            host=host,
            port=int(port),
            ca_cert=str(paths["ca"]),
            cert_cert=str(paths["certificate"]),
            cert_key=str(paths["key"]),
            timeout=timeout_s,
            grpc_options=(("grpc.ssl_target_name_override", SERVER_NAME),),
        )
    with contextlib.closing(client):
        yield client
