"""A figure beside its goal, in the same words for all benchmarks."""

from __future__ import annotations

from typing import Final

HEADING: Final = f"{'what':58} {'figure':>10} {'':5} {'goal':>12}"


def report(
    what: str,
    figure: float,
    unit: str,
    *,
    most: float | None = None,
    least: float | None = None,
    median: float | None = None,
    beside: str = "",
) -> bool:
    """Prints one row, with the median beside a figure that is the best of some; whether the goal is met.

    `beside` is what the figure was made of.
    """
    met = (most is None or figure <= most) and (least is None or figure >= least)
    goal = f"<= {most:g}" if most is not None else f">= {least:g}"
    beside += "" if median is None else f"  best; median {median:.2f}"
    print(f"{what:58} {figure:10.2f} {unit:5} {goal:>12}{beside}  {'met' if met else 'MISSED'}", flush=True)
    return met


def is_row(line: str) -> bool:
    return line.rstrip().endswith(("  met", "  MISSED"))
