"""The tables of the embedded index, and how an older file becomes one of this version.

Names are bytes in byte order (BLOB keys compare by memcmp). What listings show stands in the objects' rows themselves;
bodies are in a table of their own, so that a listing never walks over them.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from services.walrus.drivers.base import StoreTooNew
from services.walrus.drivers.embedded import quotas, sums, upkeep

# One entry per version, oldest first. Released ones never change: what comes later is appended.
MIGRATIONS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE buckets (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        account_id TEXT NOT NULL,
        owner_id TEXT NOT NULL,
        created_ms INTEGER NOT NULL,
        objects INTEGER NOT NULL DEFAULT 0,
        bytes INTEGER NOT NULL DEFAULT 0
    );
    CREATE INDEX buckets_by_account ON buckets (account_id, name);

    CREATE TABLE objects (
        bucket INTEGER NOT NULL,
        key BLOB NOT NULL,
        size INTEGER NOT NULL,
        etag TEXT NOT NULL,
        modified_ms INTEGER NOT NULL,
        algorithm TEXT NOT NULL,
        composite INTEGER NOT NULL,
        checksum TEXT NOT NULL,
        storage_class TEXT NOT NULL,
        body INTEGER,
        blob BLOB,
        upload TEXT,
        part_count INTEGER NOT NULL,
        attributes TEXT NOT NULL,
        PRIMARY KEY (bucket, key)
    ) WITHOUT ROWID;
    CREATE INDEX objects_by_blob ON objects (blob) WHERE blob IS NOT NULL;

    CREATE TABLE bodies (id INTEGER PRIMARY KEY, body BLOB NOT NULL);

    CREATE TABLE uploads (
        bucket INTEGER NOT NULL,
        key BLOB NOT NULL,
        id TEXT NOT NULL,
        initiator_id TEXT NOT NULL,
        initiator_name TEXT NOT NULL,
        started_ms INTEGER NOT NULL,
        algorithm TEXT NOT NULL,
        composite INTEGER NOT NULL,
        algorithm_chosen INTEGER NOT NULL,
        attributes TEXT NOT NULL,
        PRIMARY KEY (bucket, key, id)
    ) WITHOUT ROWID;

    CREATE TABLE parts (
        upload TEXT NOT NULL,
        number INTEGER NOT NULL,
        size INTEGER NOT NULL,
        etag TEXT NOT NULL,
        modified_ms INTEGER NOT NULL,
        algorithm TEXT NOT NULL,
        checksum TEXT NOT NULL,
        blob BLOB NOT NULL,
        start INTEGER NOT NULL,
        PRIMARY KEY (upload, number)
    ) WITHOUT ROWID;
    CREATE INDEX parts_by_blob ON parts (blob);

    CREATE TABLE completions (
        bucket INTEGER NOT NULL,
        key BLOB NOT NULL,
        upload TEXT NOT NULL,
        etag TEXT NOT NULL,
        algorithm TEXT NOT NULL,
        composite INTEGER NOT NULL,
        checksum TEXT NOT NULL,
        completed_ms INTEGER NOT NULL,
        PRIMARY KEY (bucket, key, upload)
    ) WITHOUT ROWID;

    CREATE TABLE garbage (id INTEGER PRIMARY KEY, blob BLOB NOT NULL UNIQUE);

    CREATE TABLE pins (
        image_id TEXT NOT NULL PRIMARY KEY,
        sha256 TEXT NOT NULL,
        size INTEGER NOT NULL,
        format TEXT NOT NULL,
        virtual_size INTEGER NOT NULL,
        account_id TEXT NOT NULL,
        source TEXT NOT NULL
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE snapshots (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL,
        account_id TEXT NOT NULL DEFAULT '',
        size INTEGER NOT NULL DEFAULT 0,
        full_bytes INTEGER NOT NULL DEFAULT 0,
        -- 0 uploading, 1 sealed, 2 forgotten
        state INTEGER NOT NULL,
        draining INTEGER NOT NULL DEFAULT 0,
        touched_ms INTEGER NOT NULL
    );
    CREATE UNIQUE INDEX snapshots_by_name ON snapshots (name) WHERE state < 2;
    CREATE INDEX snapshots_draining ON snapshots (id) WHERE draining;

    CREATE TABLE manifests (
        snapshot INTEGER NOT NULL,
        number INTEGER NOT NULL,
        page INTEGER,
        PRIMARY KEY (snapshot, number)
    ) WITHOUT ROWID;

    CREATE TABLE pages (
        id INTEGER PRIMARY KEY,
        refs INTEGER NOT NULL,
        blocks INTEGER NOT NULL,
        digests BLOB NOT NULL
    );

    CREATE TABLE packs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        blob BLOB NOT NULL UNIQUE,
        length INTEGER NOT NULL,
        live INTEGER NOT NULL
    );
    CREATE INDEX packs_sparse ON packs (id) WHERE live * 4 <= length * 3;

    CREATE TABLE blocks (
        digest BLOB NOT NULL PRIMARY KEY,
        pack INTEGER NOT NULL,
        start INTEGER NOT NULL,
        length INTEGER NOT NULL,
        size INTEGER NOT NULL,
        compressed INTEGER NOT NULL,
        refs INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX blocks_by_pack ON blocks (pack);

    CREATE TABLE claims (
        snapshot INTEGER NOT NULL,
        digest BLOB NOT NULL,
        PRIMARY KEY (snapshot, digest)
    ) WITHOUT ROWID;
    """,
    "ALTER TABLE blocks ADD COLUMN damaged INTEGER NOT NULL DEFAULT 0;",
    """
    CREATE TABLE bucket_configs (
        bucket INTEGER NOT NULL,
        kind TEXT NOT NULL,
        body BLOB NOT NULL,
        PRIMARY KEY (bucket, kind)
    ) WITHOUT ROWID;
    """,
    # CRC64NVME as SQLite's signed number.
    "ALTER TABLE bodies ADD COLUMN crc INTEGER;",
    # `objects` are the newest versions as far as they are no markers, `versions` all others: the less the rank, the
    # newer.
    """
    ALTER TABLE objects ADD COLUMN version TEXT NOT NULL DEFAULT '';
    ALTER TABLE objects ADD COLUMN rank INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE objects ADD COLUMN owner TEXT NOT NULL DEFAULT '';
    ALTER TABLE objects ADD COLUMN tags TEXT NOT NULL DEFAULT '';
    ALTER TABLE objects ADD COLUMN acl BLOB NOT NULL DEFAULT x'';
    ALTER TABLE objects ADD COLUMN retention TEXT NOT NULL DEFAULT '';
    ALTER TABLE objects ADD COLUMN legal_hold INTEGER;
    ALTER TABLE objects ADD COLUMN encryption BLOB NOT NULL DEFAULT x'';

    CREATE TABLE versions (
        bucket INTEGER NOT NULL,
        key BLOB NOT NULL,
        size INTEGER NOT NULL,
        etag TEXT NOT NULL,
        modified_ms INTEGER NOT NULL,
        algorithm TEXT NOT NULL,
        composite INTEGER NOT NULL,
        checksum TEXT NOT NULL,
        storage_class TEXT NOT NULL,
        body INTEGER,
        blob BLOB,
        upload TEXT,
        part_count INTEGER NOT NULL,
        attributes TEXT NOT NULL,
        version TEXT NOT NULL,
        rank INTEGER NOT NULL,
        owner TEXT NOT NULL,
        tags TEXT NOT NULL,
        acl BLOB NOT NULL,
        retention TEXT NOT NULL,
        legal_hold INTEGER,
        encryption BLOB NOT NULL,
        marker INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (bucket, key, rank)
    ) WITHOUT ROWID;
    CREATE UNIQUE INDEX versions_by_id ON versions (bucket, key, version);
    CREATE INDEX versions_by_blob ON versions (blob) WHERE blob IS NOT NULL;

    ALTER TABLE uploads ADD COLUMN owner TEXT NOT NULL DEFAULT '';
    ALTER TABLE uploads ADD COLUMN tags TEXT NOT NULL DEFAULT '';
    ALTER TABLE uploads ADD COLUMN acl BLOB NOT NULL DEFAULT x'';
    ALTER TABLE uploads ADD COLUMN retention TEXT NOT NULL DEFAULT '';
    ALTER TABLE uploads ADD COLUMN legal_hold INTEGER;
    ALTER TABLE uploads ADD COLUMN encryption BLOB NOT NULL DEFAULT x'';

    ALTER TABLE completions ADD COLUMN version TEXT NOT NULL DEFAULT '';
    """,
    "CREATE TABLE notes (name TEXT NOT NULL PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID;",
    """
    CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, target TEXT NOT NULL, body BLOB NOT NULL);
    CREATE INDEX events_by_target ON events (target, id);
    """,
    # `part_bytes`: of open uploads. Quotas of bucket 0 are the accounts'; NULL is no limit.
    """
    ALTER TABLE buckets ADD COLUMN part_bytes INTEGER NOT NULL DEFAULT 0;
    UPDATE buckets SET part_bytes = (
        SELECT coalesce(sum(p.size), 0) FROM uploads AS u JOIN parts AS p ON p.upload = u.id WHERE u.bucket = buckets.id
    );

    CREATE TABLE quotas (
        account_id TEXT NOT NULL,
        bucket INTEGER NOT NULL,
        bytes INTEGER,
        objects INTEGER,
        PRIMARY KEY (account_id, bucket)
    ) WITHOUT ROWID;
    """,
    # CRC64NVME of what stands in the row.
    "ALTER TABLE objects ADD COLUMN crc INTEGER; ALTER TABLE versions ADD COLUMN crc INTEGER;",
    # The same for all rows that say something by themselves (sums.py), and for all that were written before. `held_crc`
    # is of what changes with each object; it is given when the index is opened.
    """
    UPDATE objects SET crc = row_crc(key, size, etag, modified_ms, algorithm, composite, checksum, body, blob, upload,
        part_count, attributes, version, owner, tags, acl, retention, legal_hold, encryption) WHERE crc IS NULL;
    UPDATE versions SET crc = row_crc(key, size, etag, modified_ms, algorithm, composite, checksum, body, blob, upload,
        part_count, attributes, version, owner, tags, acl, retention, legal_hold, encryption) WHERE crc IS NULL;
    UPDATE bodies SET crc = body_crc(body) WHERE crc IS NULL;

    ALTER TABLE buckets ADD COLUMN crc INTEGER;
    ALTER TABLE buckets ADD COLUMN held_crc INTEGER;
    ALTER TABLE bucket_configs ADD COLUMN crc INTEGER;
    ALTER TABLE uploads ADD COLUMN crc INTEGER;
    ALTER TABLE parts ADD COLUMN crc INTEGER;
    ALTER TABLE completions ADD COLUMN crc INTEGER;
    ALTER TABLE pins ADD COLUMN crc INTEGER;
    ALTER TABLE quotas ADD COLUMN crc INTEGER;
    UPDATE buckets SET crc = row_crc(id, name, account_id, owner_id, created_ms);
    UPDATE bucket_configs SET crc = row_crc(bucket, kind, body);
    UPDATE uploads SET crc = row_crc(bucket, key, id, initiator_id, initiator_name, started_ms, algorithm, composite,
        algorithm_chosen, attributes, owner, tags, acl, retention, legal_hold, encryption);
    UPDATE parts SET crc = row_crc(upload, number, size, etag, modified_ms, algorithm, checksum, blob, start);
    UPDATE completions SET crc = row_crc(bucket, key, upload, etag, algorithm, checksum, composite, completed_ms,
        version);
    UPDATE pins SET crc = row_crc(image_id, sha256, size, format, virtual_size, account_id, source);
    UPDATE quotas SET crc = row_crc(account_id, bucket, bytes, objects);
    """,
    """
    ALTER TABLE snapshots ADD COLUMN crc INTEGER;
    ALTER TABLE manifests ADD COLUMN crc INTEGER;
    ALTER TABLE pages ADD COLUMN crc INTEGER;
    UPDATE snapshots SET crc = row_crc(id, name, account_id, size, full_bytes);
    UPDATE manifests SET crc = row_crc(snapshot, number, page);
    UPDATE pages SET crc = row_crc(blocks, digests);
    """,
    # What accounts hold in other stores, as those said last: asked for anew all the time.
    """
    CREATE TABLE elsewhere (
        account_id TEXT PRIMARY KEY,
        objects INTEGER NOT NULL,
        bytes INTEGER NOT NULL
    ) WITHOUT ROWID;
    """,
    # Of all that a row says, and of the rows that had none. One that is damaged already stays so.
    """
    ALTER TABLE objects ADD COLUMN marker INTEGER NOT NULL DEFAULT 0;
    UPDATE objects SET crc = row_crc(key, size, etag, modified_ms, algorithm, composite, checksum, body, blob, upload,
        part_count, attributes, version, bucket, storage_class, rank, marker, owner, tags, acl, retention, legal_hold,
        encryption)
        WHERE crc = row_crc(key, size, etag, modified_ms, algorithm, composite, checksum, body, blob, upload,
        part_count, attributes, version, owner, tags, acl, retention, legal_hold, encryption);
    UPDATE versions SET crc = row_crc(key, size, etag, modified_ms, algorithm, composite, checksum, body, blob, upload,
        part_count, attributes, version, bucket, storage_class, rank, marker, owner, tags, acl, retention, legal_hold,
        encryption)
        WHERE crc = row_crc(key, size, etag, modified_ms, algorithm, composite, checksum, body, blob, upload,
        part_count, attributes, version, owner, tags, acl, retention, legal_hold, encryption);
    UPDATE snapshots SET crc = row_crc(id, name, account_id, size, full_bytes, state, draining, touched_ms)
        WHERE crc = row_crc(id, name, account_id, size, full_bytes);

    ALTER TABLE events ADD COLUMN crc INTEGER;
    ALTER TABLE notes ADD COLUMN crc INTEGER;
    ALTER TABLE garbage ADD COLUMN crc INTEGER;
    ALTER TABLE elsewhere ADD COLUMN crc INTEGER;
    ALTER TABLE pages ADD COLUMN refs_crc INTEGER;
    ALTER TABLE packs ADD COLUMN crc INTEGER;
    ALTER TABLE blocks ADD COLUMN crc INTEGER;
    ALTER TABLE claims ADD COLUMN crc INTEGER;
    UPDATE events SET crc = row_crc(id, target, body);
    UPDATE notes SET crc = row_crc(name, text);
    UPDATE garbage SET crc = row_crc(blob);
    UPDATE elsewhere SET crc = row_crc(account_id, objects, bytes);
    UPDATE pages SET refs_crc = row_crc(id, refs);
    UPDATE packs SET crc = row_crc(id, blob, length, live);
    UPDATE blocks SET crc = row_crc(digest, pack, start, length, size, compressed, refs, damaged);
    UPDATE claims SET crc = row_crc(snapshot, digest);
    """,
)


def migrate(db: sqlite3.Connection) -> None:
    """Each step is one transaction with its version, so a crash leaves the old one or the new one."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise StoreTooNew(f"the index has schema version {version}, this Walrus knows {len(MIGRATIONS)}: upgrade it")
    sums.know_sums(db)
    for number in range(version, len(MIGRATIONS)):
        db.executescript(f"BEGIN IMMEDIATE; {MIGRATIONS[number]}; PRAGMA user_version = {number + 1}; COMMIT;")
    sums.told(db, quotas.mend)
    sums.told(db, upkeep.mend)
