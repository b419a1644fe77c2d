"""Makes a backup the store of a Walrus that does not run, for the operator's command.

python -m services.walrus.restore --config FILE --member ID [--check | --replace] FOLDER

It prints JSON lines: {"kind":, "what":, "owners":, "why":} for each finding, then {"restored": blobs, "made": when} or
{"refused": why}. With --check it changes nothing: {"whole": when} or {"refused": why}.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from common import shard_file
from common.config import load
from services.walrus.backup import FORMAT, MANIFEST
from services.walrus.drivers.embedded.restore import Refused, restore


def main() -> int:
    arguments = _arguments()
    config = load(arguments.config)
    shard = config.walrus.shards.number(arguments.member)
    part = shard_file.text_of(shard, config.walrus.processes)
    try:
        source, manifest = _manifest(arguments.folder, arguments.member, part)
        if arguments.check:
            _say({"whole": manifest["made"]})
            return 0
        root = config.walrus_path(shard)
        count = restore(source, manifest, root, part=part, replace=arguments.replace, tell=_tell)
    except (Refused, OSError) as error:
        _say({"refused": str(error)})
        return 1
    _say({"restored": count, "made": manifest["made"]})
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--member", required=True)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--replace", action="store_true")
    parser.add_argument("folder", type=Path)
    return parser.parse_args()


def _manifest(folder: Path, member: str, part: str) -> tuple[Path, dict[str, Any]]:
    source = folder / member
    try:
        manifest: dict[str, Any] = json.loads((source / MANIFEST).read_text())
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise Refused(f"{source} holds no whole backup: {error}") from error
    if manifest.get("format") != FORMAT:
        raise Refused(f"{source} is a backup of another format: {manifest.get('format')}")
    held = manifest.get("part", shard_file.WHOLE)
    if held != part:
        raise Refused(
            f"{source} has part {held} of the buckets, and part {part} is to be restored: restore it into a cloud with "
            f"--walrus-processes {held.rpartition(' ')[2]}"
        )
    return source, manifest


def _tell(kind: str, what: str, owners: list[str], why: str) -> None:
    _say({"kind": kind, "what": what, "owners": owners, "why": why})


def _say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
