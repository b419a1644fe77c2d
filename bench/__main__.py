"""All benchmarks, one after the other: `python -m bench [NAME …]`. Each is a module here that prints its figures beside
their goals and exits with 0 when they are met. A table of all of them comes last."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.figures import HEADING, is_row


def main() -> int:
    folder = Path(__file__).parent
    names = sys.argv[1:] or sorted(
        path.stem for path in folder.glob("*.py") if "__main__" in path.read_text() and not path.stem.startswith("_")
    )
    rows: list[str] = []
    missed: list[str] = []
    for name in names:
        print(f"\n== {name}", flush=True)
        process = subprocess.Popen([sys.executable, "-m", f"bench.{name}"], stdout=subprocess.PIPE, text=True)
        found = [line for line in _passed_on(process) if is_row(line)]
        if process.wait() or any("MISSED" in line for line in found):
            missed.append(name)
        rows += found
    print(f"\n{HEADING}\n{''.join(rows)}")
    print(f"goals missed: {', '.join(missed)}" if missed else "every goal is met")
    return 1 if missed else 0


def _passed_on(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        yield line


if __name__ == "__main__":
    sys.exit(main())
