"""All benchmarks, one after the other: `python -m bench [NAME …]`. Each is a module here that prints its numbers beside
their goals and exits with 0 when they are met."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> int:
    folder = Path(__file__).parent
    names = sys.argv[1:] or sorted(
        path.stem for path in folder.glob("*.py") if "__main__" in path.read_text() and not path.stem.startswith("_")
    )
    missed = []
    for name in names:
        print(f"\n== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"bench.{name}"], check=False).returncode:
            missed.append(name)
    print(f"\ngoals missed: {', '.join(missed)}" if missed else "\nevery goal is met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
