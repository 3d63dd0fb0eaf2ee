"""The goals, and whether figures meet them: a ratio for each pair, its median and range.

A ratio is a figure of one contestant over a figure of another in the same pair. Goals are written as the project set them:
at most, or at least.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.compare.arena import KAFKA, OTTLA
from benchmarks.compare.cases import CASES
from benchmarks.compare.limit import LIMIT
from benchmarks.compare.results import Pair

MET, NOT_MET, NOT_RUN = "met", "**not met**", "not run"


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A bound on the ratio of two figures in every case whose name matches."""

    cases: str
    figure: str
    limit: float
    at_least: bool = False
    unit: str = ""
    over: str = OTTLA
    under: str = KAFKA
    #: The figure below the line, if it is another one.
    under_figure: str = ""

    def names(self) -> list[str]:
        return [case.name for case in CASES if re.fullmatch(self.cases, case.name)]

    @property
    def text(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:g}x"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table of goals."""

    title: str
    goals: tuple[Goal, ...]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A goal in one case."""

    goal: Goal
    case: str
    ratios: tuple[float, ...]
    over: float
    under: float

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def verdict(self) -> str:
        if not self.ratios:
            return NOT_RUN
        return MET if meets(self.ratio, self.goal.limit, at_least=self.goal.at_least) else NOT_MET


def meets(ratio: float, limit: float, *, at_least: bool) -> bool:
    return ratio >= limit if at_least else ratio <= limit


def ratio_of(pair: Pair, goal: Goal) -> tuple[float, float] | None:
    """Return both figures of a pair; None when one is missing or there is nothing to divide by."""
    over = pair.figures.get(goal.over, {}).get(goal.figure)
    under = pair.figures.get(goal.under, {}).get(goal.under_figure or goal.figure)
    if over is None or under is None or under <= 0:
        return None
    return over, under


def outcome(goal: Goal, case: str, pairs: Iterable[Pair]) -> Outcome:
    """Judge one case: the median of the pairs' ratios, not the ratio of medians, for what disturbs a pair disturbs both."""
    mine = [pair for pair in pairs if pair.case == case]
    both = [figures for pair in mine if (figures := ratio_of(pair, goal)) is not None]
    # Measured alone there is no ratio, but a figure.
    over = [pair.figures[goal.over][goal.figure] for pair in mine if goal.figure in pair.figures.get(goal.over, {})]
    return Outcome(
        goal=goal,
        case=case,
        ratios=tuple(over / under for over, under in both),
        over=statistics.median([over for over, _ in both] or over or [0.0]),
        under=statistics.median([under for _, under in both] or [0.0]),
    )


def judge(row: Row, pairs: Sequence[Pair]) -> list[Outcome]:
    return [outcome(goal, name, pairs) for goal in row.goals for name in goal.names()]


def _percentiles(cases: str, limits: tuple[float, float, float]) -> tuple[Goal, ...]:
    return tuple(
        Goal(cases=cases, figure=figure, limit=limit, unit="ms")
        for figure, limit in zip(("p50_ms", "p99_ms", "p999_ms"), limits, strict=True)
    )


_IN, _OUT = "produce_cpu_s_per_gb", "consume_{}_cpu_s_per_gb"
_PLAIN = r"produce/\w+/acks=\w+/(default|tuned)"
ROWS: tuple[Row, ...] = (
    Row(
        title="Broker CPU seconds per GB, produce, default batches",
        goals=(Goal(cases=r"produce/\w+/acks=\w+/default", figure=_IN, limit=0.33, unit="s/GB"),),
    ),
    Row(
        title="The same with tuned batches (256 KiB, linger.ms=20)",
        goals=(Goal(cases=r"produce/\w+/acks=\w+/tuned", figure=_IN, limit=0.5, unit="s/GB"),),
    ),
    Row(
        title="The same with lz4 and zstd",
        goals=(Goal(cases=r"produce/\w+/acks=\w+/\w+/(lz4|zstd)", figure=_IN, limit=1.0, unit="s/GB"),),
    ),
    Row(
        title="Broker CPU seconds per GB, consume, the same topics",
        goals=(
            Goal(cases=r"produce/\w+/acks=all/\w+", figure=_OUT.format("java"), limit=1.0, unit="s/GB"),
            Goal(cases=r"produce/\w+/acks=all/\w+", figure=_OUT.format("librdkafka"), limit=1.15, unit="s/GB"),
        ),
    ),
    Row(
        title="Throughput, one producer or one consumer",
        goals=(
            Goal(cases=_PLAIN, figure="produce_mb_per_s", limit=1.0, at_least=True, unit="MB/s"),
            Goal(
                cases=r"produce/\w+/acks=all/\w+", figure="consume_java_mb_per_s", limit=1.0, at_least=True, unit="MB/s"
            ),
            Goal(
                cases=r"produce/\w+/acks=all/\w+",
                figure="consume_librdkafka_mb_per_s",
                limit=1.0,
                at_least=True,
                unit="MB/s",
            ),
            Goal(cases="librdkafka-produce/1000B", figure="produce_mb_per_s", limit=1.0, at_least=True, unit="MB/s"),
        ),
    ),
    Row(
        title="Throughput where the broker is the bottleneck (replayed frames)",
        goals=(
            Goal(cases="distance", figure="produce_mb_per_s", limit=1.5, at_least=True, unit="MB/s"),
            Goal(cases="distance", figure="consume_mb_per_s", limit=1.5, at_least=True, unit="MB/s"),
        ),
    ),
    Row(
        title="8 producers and 8 consumers at once, 64 partitions, both directions added",
        goals=(Goal(cases=r"crowd/8\+8", figure="records_per_s", limit=1.0, at_least=True, unit="records/s"),),
    ),
    Row(
        title="One record per request, acks=all",
        goals=(
            Goal(cases=r"one-record/\w+", figure="cpu_us_per_request", limit=0.33, unit="us"),
            *_percentiles(r"one-record/\w+", (0.5, 0.5, 0.5)),
        ),
    ),
    Row(
        title="The broker's own time for one record, C client, 1, 16 and 256 in flight",
        goals=(
            Goal(cases=r"service/\d+", figure="service_p50_ms", limit=0.4, unit="ms"),
            Goal(cases="service/16", figure="records_per_s", limit=1.0, at_least=True, unit="records/s"),
        ),
    ),
    Row(
        title="End to end, at 1,000 records/s and at half of the maximum",
        goals=_percentiles(r"end-to-end/.+", (0.5, 0.5, 1.0)),
    ),
    Row(
        title="flush.messages=1, 1 KB, 16 producers",
        goals=(
            Goal(cases="flush/16-producers", figure="records_per_s", limit=10.0, at_least=True, unit="records/s"),
            Goal(
                cases="flush/16-producers",
                figure="records_per_s",
                limit=0.5,
                at_least=True,
                unit="records/s",
                under=f"{KAFKA} without fsync",
            ),
            Goal(
                cases="flush/16-producers", figure="batched_records_per_s", limit=10.0, at_least=True, unit="records/s"
            ),
            Goal(
                cases="flush/16-producers",
                figure="batched_records_per_s",
                limit=0.5,
                at_least=True,
                unit="records/s",
                under=f"{KAFKA} without fsync",
            ),
        ),
    ),
    Row(
        title="The same 16 producers without any fsync, for comparison",
        goals=tuple(
            Goal(
                cases="flush/16-producers",
                figure=figure,
                limit=1.0,
                at_least=True,
                unit="records/s",
                over=f"{OTTLA} without fsync",
                under=f"{KAFKA} without fsync",
            )
            for figure in ("records_per_s", "batched_records_per_s")
        ),
    ),
    Row(
        title="Memory after 20 GB in and out, with 10,000 partitions, with 5,000 connections",
        goals=(
            Goal(cases=r"memory/\w+", figure="rss_mib", limit=0.25, unit="MiB"),
            Goal(
                cases="memory/traffic",
                figure="rss_mib",
                limit=1.1,
                unit="MiB",
                under=OTTLA,
                under_figure="rss_mib_at_a_quarter",
            ),
        ),
    ),
    Row(
        title="Start, restart after a kill with 1 GB of dirty log, restart with 5,000 partitions",
        goals=(
            Goal(cases="start", figure="start_s", limit=0.1, unit="s"),
            Goal(cases="restart/dirty-log", figure="first_ack_s", limit=1.0, unit="s"),
            Goal(cases="restart/partitions", figure="clean_all_s", limit=0.5, unit="s"),
            Goal(cases="restart/partitions", figure="killed_all_s", limit=0.5, unit="s"),
        ),
    ),
    Row(
        title="Distance to the limit: a C program that only moves the bytes, 1 KB in tuned batches",
        goals=(
            Goal(cases="distance", figure="produce_cpu_s_per_gb", limit=1.5, unit="s/GB", under=LIMIT),
            Goal(cases="distance", figure="consume_cpu_s_per_gb", limit=1.5, unit="s/GB", under=LIMIT),
        ),
    ),
    Row(
        title="p99.9 of one record per request during compaction and deletion, over without",
        goals=(
            Goal(
                cases=r"beside/\w+",
                figure="p999_ms_busy",
                limit=2.0,
                unit="ms",
                under=OTTLA,
                under_figure="p999_ms_quiet",
            ),
        ),
    ),
)
