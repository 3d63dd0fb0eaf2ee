"""Tables for people and one line of JSON for programs."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from typing import Any

MIB = 1 << 20


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under their headings, numbers to the right."""
    cells = [[_text(value) for value in row] for row in rows]
    widths = [max(len(line[index]) for line in [list(columns), *cells]) for index in range(len(columns))]
    print(f"\n{title}")
    print("  ".join(name.ljust(width) for name, width in zip(columns, widths, strict=True)).rstrip())
    for row, line in zip(rows, cells, strict=True):
        print(
            "  ".join(
                text.ljust(width) if isinstance(value, str) else text.rjust(width)
                for value, text, width in zip(row, line, widths, strict=True)
            ).rstrip()
        )


def figures(name: str, values: dict[str, Any]) -> None:
    """Print everything measured as one line of JSON, with the machine it was measured on."""
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
    print(f"\n{json.dumps({'benchmark': name, 'machine': machine, **values})}", flush=True)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def times_less(ours: float, theirs: float) -> float | str:
    """Return how many times smaller our figure is; "-" where it is too small to be measured."""
    return theirs / ours if ours > 0 else "-"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 10 else f"{value:,.1f}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)
