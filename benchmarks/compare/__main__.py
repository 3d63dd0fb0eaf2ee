"""Measure ottla against Apache Kafka and write benchmarks/RESULTS.md.

    make bench                        everything that is not measured yet for this commit
    make bench ARGS="--budget 40"     the most important of it, in about 40 minutes
    make bench ARGS="--only 'produce/1000B.*' --pairs 2"
    make bench ARGS="--list"          the cases, with how long each takes
    make bench ARGS="--report"        only write RESULTS.md from what is there

Apache Kafka comes from the scripts in the directory that OTTLA_KAFKA_ANCHOR names (CONTRIBUTING.md); the Java client from
the same installation, with a JDK; a C compiler makes the programs that stand for the limit. Data is kept in the system's
temporary directory, or under OTTLA_BENCH_DIR: some GB, 10 at the most at a time.

A run with --scale below 0.25 is a rehearsal: it prints the page instead of writing it, and keeps its figures apart.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.compare import java, librdkafka, limit
from benchmarks.compare.arena import KAFKA, OTTLA, REHEARSAL, Arena
from benchmarks.compare.cases import CASES, Case
from benchmarks.compare.report import render
from benchmarks.compare.results import REPOSITORY, Key, Pair, Store, commit, done, key
from benchmarks.compare.schedule import WARM_UP_S, Task, estimate, order, plan, within
from benchmarks.compare.warm_up import warm_up
from benchmarks.support.brokers import ApacheKafka, Ottla
from tests.support.kafka_anchor import missing

import ottla
from ottla.protocol.records import kernels

PAGE = REPOSITORY / "benchmarks" / "RESULTS.md"
RESULTS = REPOSITORY / "benchmarks" / "results"


def main() -> int:
    options = _arguments()
    for number in (signal.SIGINT, signal.SIGTERM):  # in the background, too: brokers end with this process
        signal.signal(number, signal.default_int_handler)
    name = commit()
    rehearsal = options.scale < REHEARSAL
    directory = Path(tempfile.gettempdir()) / "ottla-bench-rehearsal" if rehearsal else RESULTS
    store = Store(options.results or directory, name)
    cases = [case for case in CASES if re.match(options.only, case.name)]
    if options.list:
        for case in cases:
            print(f"{case.name:40} {case.pairs} pairs of about {case.seconds:.0f} s")
        return 0
    failed = 0
    if not options.report:
        if problem := _obstacle(alone=options.alone):
            print(problem, file=sys.stderr)
            return 2
        failed = _run(cases, store, options)
    page = render([pair for pair in store.pairs() if pair.commit == name], name, os.cpu_count() or 1)
    if rehearsal:
        print(page)
    else:
        PAGE.write_text(page, encoding="utf-8")
        print(f"written: {PAGE.relative_to(REPOSITORY)}")
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", metavar="REGEX", help="cases whose name begins with it")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the volume of every case")
    parser.add_argument("--pairs", type=int, help="at most so many pairs of each case")
    parser.add_argument("--budget", type=float, metavar="MINUTES", help="leave out what does not fit")
    parser.add_argument("--alone", action="store_true", help="without Apache Kafka; there will be no ratios")
    parser.add_argument("--results", type=Path, metavar="DIR", help="where the raw figures are kept")
    parser.add_argument("--list", action="store_true", help="print the cases")
    parser.add_argument("--report", action="store_true", help="measure nothing, write the page")
    return parser.parse_args()


def _obstacle(*, alone: bool) -> str | None:
    """Why nothing can be measured, or None."""
    if not Path(ottla.__file__).is_relative_to(REPOSITORY):
        return f"this Python imports ottla from {Path(ottla.__file__).parent}, not from this checkout"
    if reason := java.missing():
        return f"the Java client is needed: {reason}"
    if not alone and (reason := missing()):
        return f"{reason}\nThere is nothing to compare with. --alone measures ottla by itself."
    return None


def _run(cases: list[Case], store: Store, options: argparse.Namespace) -> int:
    """Measure what is missing; the number of pairs that failed."""
    _raise_descriptor_limit()
    earlier = store.pairs()
    finished = done(earlier)
    took: dict[str, list[float]] = defaultdict(list)
    for pair in earlier:
        if pair.scale == options.scale:
            took[pair.case].append(pair.seconds)
    tasks = [task for task in plan(cases, options.pairs) if _key(task, store, options) not in finished]
    if limit.compiler() is None:
        print("No C compiler: what needs one is left out.")
        tasks = [task for task in tasks if not task.case.needs_compiler]

    def estimated(task: Task) -> float:
        return estimate(task, options.scale, took[task.case.name])

    total = sum(map(estimated, tasks)) + (WARM_UP_S if tasks else 0)
    budget = options.budget * 60 if options.budget else float("inf")
    print(
        f"{len(tasks)} pairs to measure for {store.commit}, {len(finished)} are there; "
        f"about {total / 60:.0f} min{f', {options.budget:g} allowed' if options.budget else ''}",
        flush=True,
    )
    began = time.monotonic()
    left_out: list[Task] = []
    failed: list[Task] = []
    arena = Arena(scale=options.scale, contestants=(OTTLA,) if options.alone else (OTTLA, KAFKA), warm_up=warm_up)
    try:
        for task, fits in within(tasks, budget, lambda: time.monotonic() - began, estimated):
            if not fits:
                left_out.append(task)
                continue
            try:
                pair = _measure(arena, task, store.commit, alone=options.alone)
            except Exception:
                failed.append(task)
                print(f"{task.case.name} failed:", file=sys.stderr)
                traceback.print_exc()
                continue
            store.add(pair)
            took[task.case.name].append(pair.seconds)
            print(f"{(time.monotonic() - began) / 60:5.1f} min  {_brief(pair)}", flush=True)
    except KeyboardInterrupt:
        print("Interrupted; what is finished is kept.", file=sys.stderr)
    finally:
        arena.close()
    for what, tasks in (("did not fit", left_out), ("failed", failed)):
        if tasks:
            print(f"{what}: " + ", ".join(f"{task.case.name} #{task.number + 1}" for task in tasks))
    return len(failed)


def _measure(arena: Arena, task: Task, name: str, *, alone: bool) -> Pair:
    """Run one pair."""
    case = task.case
    turns = order(_contestants(case, alone=alone), task.number)
    arena.pair.clear()
    before = os.getloadavg()[0]
    began = time.monotonic()
    figures = {who: case.run(arena, who, **case.parameters) for who in turns}
    return Pair(
        case=case.name,
        parameters=case.parameters,
        number=task.number,
        commit=name,
        scale=arena.scale,
        at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        order=turns,
        load=(before, os.getloadavg()[0]),
        seconds=time.monotonic() - began,
        versions=_versions(alone=alone),
        figures=figures,
    )


def _contestants(case: Case, *, alone: bool) -> list[str]:
    return [who for who in case.contestants if not (alone and who.startswith(KAFKA))]


def _key(task: Task, store: Store, options: argparse.Namespace) -> Key:
    contestants = _contestants(task.case, alone=options.alone)
    return key(store.commit, task.case.name, task.case.parameters, task.number, options.scale, contestants)


def _brief(pair: Pair) -> str:
    """One line of progress: the first figures of everybody."""
    parts = []
    for who, figures in pair.figures.items():
        parts.append(f"{who}: " + ", ".join(f"{name} {value:.4g}" for name, value in list(figures.items())[:3]))
    return f"{pair.case} #{pair.number + 1} ({pair.seconds:.0f} s)  " + "; ".join(parts)


_VERSIONS: dict[str, str] = {}


def _versions(*, alone: bool) -> dict[str, str]:
    if not _VERSIONS:
        _VERSIONS.update(
            {
                OTTLA: f"{Ottla.version()}, kernels {kernels.STATUS}",
                "Apache Kafka": "" if alone else ApacheKafka.version().removeprefix("Apache Kafka "),
                "Java client": java.version(),
                "librdkafka": librdkafka.version(),
                "Python": sys.version.replace("\n", ""),
                "system": platform.platform(),
            }
        )
    return _VERSIONS


def _raise_descriptor_limit() -> None:
    """Thousands of connections and partitions: brokers inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
