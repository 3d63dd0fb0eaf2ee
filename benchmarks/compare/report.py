"""RESULTS.md: the goals one by one, both figures, the ratio of each pair as median and range, and what was not run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.compare.cases import CASES
from benchmarks.compare.goals import MET, NOT_MET, NOT_RUN, ROWS, Outcome, judge
from benchmarks.compare.results import Pair

#: Ending of the figures of the broker that does not grow.
BASE = "/base"
HEAD = """# ottla and Apache Kafka, side by side

Written by `make bench`, by nothing else. Every line compares two figures of one run on one machine: the same client, one
broker right after the other, who goes first changing from pair to pair. The ratio is the median of the pairs' ratios, with
the lowest and the highest behind it; both figures are medians. Broker CPU is that of the process and its descendants, kernel
time included. GB = 1e9 and MB = 1e6 bytes of payload before compression. What each case does: `benchmarks/compare/cases.py`;
every pair measured: `benchmarks/results/{commit}.jsonl`. Where the time goes in the cases that miss their goal, and what was
tried: [MISSES.md](MISSES.md).
"""


def render(pairs: Sequence[Pair], commit: str, cores: int) -> str:
    """Return the page for what has been measured of a commit."""
    outcomes = {row.title: judge(row, pairs) for row in ROWS}
    lines = [HEAD.format(commit=commit), *_circumstances(pairs, commit, cores), "", *_summary(outcomes), ""]
    for row in ROWS:
        lines += _row(row.title, outcomes[row.title], pairs)
    lines += _growth(pairs)
    return "\n".join(lines).rstrip() + "\n"


def _circumstances(pairs: Sequence[Pair], commit: str, cores: int) -> list[str]:
    if not pairs:
        return [f"Commit {commit}: nothing has been measured."]
    loads = [load for pair in pairs for load in pair.load]
    dates = sorted(pair.at for pair in pairs)
    rows = {
        "commit of the broker": commit,
        "measured": f"{dates[0]} to {dates[-1]}, {len(pairs)} pairs, {sum(pair.seconds for pair in pairs) / 60:.0f} min",
        "scale": ", ".join(sorted({f"{pair.scale:g}" for pair in pairs})),
        "machine": f"{cores} cores",
        "load average during the run": f"{min(loads):.1f} to {max(loads):.1f}, median {statistics.median(loads):.1f}"
        " (brokers and clients included)",
    }
    for name in sorted({name for pair in pairs for name in pair.versions}):
        rows[name] = ", ".join(sorted({pair.versions.get(name, "") for pair in pairs} - {""}))
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]


def _summary(outcomes: dict[str, list[Outcome]]) -> list[str]:
    lines = ["| goals | met | not met | not run |", "|---|---|---|---|"]
    for title, found in outcomes.items():
        counts = [sum(outcome.verdict == verdict for outcome in found) for verdict in (MET, NOT_MET, NOT_RUN)]
        lines.append(f"| {title} | {counts[0]} | {counts[1] or ''} | {counts[2] or ''} |")
    return lines


def _row(title: str, outcomes: Sequence[Outcome], pairs: Sequence[Pair]) -> list[str]:
    lines = [
        f"## {title}",
        "",
        "| case | figure | goal | ratio | range | figure of | over | pairs | |",
        "|" + "---|" * 9,
    ]
    lines += map(_line, outcomes)
    return [*lines, "", *_notes(outcomes, pairs)]


def _line(outcome: Outcome) -> str:
    goal = outcome.goal
    if not outcome.ratios:
        alone = f"{goal.over} {number(outcome.over)} {goal.unit}" if outcome.over else ""
        return f"| {outcome.case} | {goal.figure} | {goal.text} | | | {alone} | | 0 | {NOT_RUN} |"
    spread = f"{number(min(outcome.ratios))}-{number(max(outcome.ratios))}"
    below = goal.under if goal.over != goal.under else goal.under_figure
    return (
        f"| {outcome.case} | {goal.figure} | {goal.text} | {number(outcome.ratio)}x | {spread} "
        f"| {goal.over} {number(outcome.over)} {goal.unit} | {below} {number(outcome.under)} {goal.unit} "
        f"| {len(outcome.ratios)} | {outcome.verdict} |"
    )


def _notes(outcomes: Sequence[Outcome], pairs: Sequence[Pair]) -> list[str]:
    """What a reader must know to believe the lines above."""
    names = {outcome.case for outcome in outcomes}
    notes = []
    kept = [
        pair.figures["ottla"]["kept_share"]
        for pair in pairs
        if pair.case in names and "kept_share" in pair.figures["ottla"]
    ]
    if kept:
        notes.append(
            f"Of the topic that was worked on {min(kept):.0%} to {max(kept):.0%} were left at the end, so there was work."
        )
    rates = [pair.figures["ottla"]["rate"] for pair in pairs if pair.case == "end-to-end/half" and pair.case in names]
    if rates:
        notes.append(
            f"Half of the maximum was {number(statistics.median(rates))} records of 1 KB a second: half of what the slower"
            " broker carried from one producer to one consumer just before, the same for both."
        )
    return [*notes, ""] if notes else []


def _growth(pairs: Sequence[Pair]) -> list[str]:
    """CPU per request along each curve, and how much it has grown from the first point to the last.

    Growth is measured against a broker that did not grow and was asked at the same time.
    """
    lines = [
        "## Growth: CPU us per request of ottla",
        "",
        "`grown by` compares the last point with the first, each against a broker that stayed small and was asked in turn.",
        "",
    ]
    for case in (case for case in CASES if case.name.startswith("growth/")):
        measured = [pair.figures["ottla"] for pair in pairs if pair.case == case.name]
        what = case.name.removeprefix("growth/")
        if not measured:
            lines += [f"{what}: {NOT_RUN}", ""]
            continue
        figures = measured[-1]
        points = list(dict.fromkeys(int(name.partition("@")[2]) for name in figures if not name.endswith(BASE)))
        kinds = list(dict.fromkeys(name.partition("@")[0] for name in figures))
        lines += [f"| {what} | " + " | ".join(f"{point:,}" for point in points) + " | grown by |"]
        lines += ["|" + "---|" * (len(points) + 2)]
        for kind in kinds:
            values = [figures[f"{kind}@{point}"] for point in points]
            cells = " | ".join(number(value) for value in values)
            first, last = (
                figures[f"{kind}@{point}"] / figures[f"{kind}@{point}{BASE}"] for point in (points[0], points[-1])
            )
            lines.append(f"| {kind} | {cells} | {number(last / first)}x |")
        lines.append("")
    return lines


def number(value: float) -> str:
    """Return a figure with three significant digits, thousands apart."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
