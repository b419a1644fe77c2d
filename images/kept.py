"""A build that is kept: its files lie in one folder and are made again only when what shapes them has changed."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# Called at the begin of each step with its name and the share that is done.
Report = Callable[[str, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """`files` stand in `folder`; `parts` are the files and folders beside this package's code that go into them."""

    folder: Path
    files: tuple[Path, ...]
    parts: Path

    def ensure(self, make: Callable[[Path], None], report: Report, *, refresh: bool) -> None:
        """`make` puts files of those names into the folder that it is given, unless they are here already.

        One builder at a time; another waits and then finds the result.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if not refresh and self._is_current():
                report("the guest image is there", 1.0)
                return
            for left in self.folder.glob(".build-*"):
                shutil.rmtree(left)
            with tempfile.TemporaryDirectory(dir=self.folder, prefix=".build-") as work:
                make(Path(work))
                self._take(Path(work))
            report("the guest image is built", 1.0)

    def _take(self, work: Path) -> None:
        self._stamp.unlink(missing_ok=True)
        for file in self.files:
            (work / file.name).replace(file)
        self._stamp.write_text(json.dumps({"sources": _digest(self.parts), "sizes": self._sizes()}))

    def _is_current(self) -> bool:
        try:
            stamp = json.loads(self._stamp.read_text())
            sizes = self._sizes()
        except (FileNotFoundError, json.JSONDecodeError):
            return False
        return bool(stamp.get("sources") == _digest(self.parts) and stamp.get("sizes") == sizes)

    @property
    def _stamp(self) -> Path:
        return self.folder / "build.json"

    def _sizes(self) -> dict[str, int]:
        return {file.name: file.stat().st_size for file in self.files}

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _digest(parts: Path) -> str:
    """Of everything here that shapes an image with these parts."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for path in sorted([*here.glob("*.py"), *(path for path in parts.rglob("*") if path.is_file())]):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(here)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
