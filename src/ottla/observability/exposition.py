"""Prometheus' text format (version 0.0.4), written line by line.

Knows the format, no metric. Samples of one family must stand together, so a page that walks over topics once keeps one
`Family` open per name and joins them at the end.
"""

from __future__ import annotations

from collections.abc import Iterable

from ottla.observability.metrics import Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Family:
    """One metric with its samples."""

    __slots__ = ("_lines", "name")

    def __init__(self, name: str, kind: str, text: str) -> None:
        """`kind` is counter, gauge, histogram or summary; `text` one sentence for people."""
        self.name = name
        escaped = text.replace("\\", "\\\\").replace("\n", "\\n")
        self._lines = [f"# HELP {name} {escaped}\n# TYPE {name} {kind}\n"]

    def add(self, value: float, labels: str = "", suffix: str = "") -> None:
        """Add a sample; `labels` comes from `label_set`."""
        self._lines.append(f"{self.name}{suffix}{labels} {value}\n")

    def add_histogram(self, histogram: Histogram, labels: Iterable[tuple[str, str]] = (), scale: float = 1.0) -> None:
        """Add cumulative buckets, sum and count; `scale` turns the histogram's unit into the family's."""
        pairs = tuple(labels)
        total = 0
        for bound, count in zip((*histogram.bounds, None), histogram.counts, strict=True):
            total += count
            edge = "+Inf" if bound is None else repr(round(bound * scale, 9))
            self.add(total, label_set(*pairs, ("le", edge)), "_bucket")
        self.add(round(histogram.sum * scale, 9), label_set(*pairs), "_sum")
        self.add(total, label_set(*pairs), "_count")

    def render(self) -> bytes:
        """The family as text; nothing if it has no sample."""
        return "".join(self._lines).encode() if len(self._lines) > 1 else b""


def label_set(*pairs: tuple[str, str]) -> str:
    """`{name="value",...}` with values escaped; "" for none."""
    return "{" + ",".join(f'{name}="{escape(value)}"' for name, value in pairs) + "}" if pairs else ""


def escape(value: str) -> str:
    """A label's value as it stands between the quotes."""
    if "\\" in value or '"' in value or "\n" in value:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return value
