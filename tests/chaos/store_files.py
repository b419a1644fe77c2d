"""The files of the object store, held against its index, which SQLite's own command line could read as well."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from common.config import CloudConfig
from tests.chaos.records import difference


def faults(config: CloudConfig) -> list[str]:
    """One line for each file that no object owns, and for each object without its file. Garbage waits to be deleted."""
    root = config.home_path / "walrus"
    with closing(sqlite3.connect(f"file:{root / 'index.sqlite'}?mode=ro", uri=True)) as index:

        def blobs(table: str) -> set[str]:
            found = index.execute(f"SELECT blob FROM {table} WHERE blob IS NOT NULL")
            return {bytes(blob).hex() for (blob,) in found}

        owned, garbage = blobs("objects") | blobs("parts"), blobs("garbage")
    files = {path.stem for path in (root / "blobs").glob("*/*")}
    staged = [f"upload {path.name} is left" for path in (root / "staging").iterdir()]
    return staged + difference("blobs", owned, files - garbage)
