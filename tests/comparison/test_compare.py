"""The comparison's own arithmetic: ratios, verdicts, order, budget, and what a second run finds done."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from benchmarks.compare import raw
from benchmarks.compare.arena import create, written
from benchmarks.compare.cases import CASES, Case
from benchmarks.compare.goals import MET, NOT_MET, NOT_RUN, ROWS, Goal, outcome
from benchmarks.compare.report import number, render
from benchmarks.compare.results import Pair, Store, done, key
from benchmarks.compare.schedule import Task, estimate, order, plan, within
from benchmarks.compare.traffic import PARTITIONS, REPLAY_RECORDS, drain, fill, flow
from benchmarks.support.brokers import Ottla, cpu_seconds, descendants, resident_bytes, running
from benchmarks.support.wire import first_ack

GOAL = Goal(cases="start", figure="start_s", limit=0.1)


def pair(figures: Mapping[str, Mapping[str, float]], *, number: int = 0, case: str = "start") -> Pair:
    return Pair(
        case=case,
        parameters={},
        number=number,
        commit="abc",
        scale=1.0,
        at="2026-01-02 03:04 UTC",
        order=tuple(figures),
        load=(0.5, 1.5),
        seconds=12.0,
        versions={"Python": "3.11"},
        figures=figures,
    )


def starts(*both: tuple[float, float]) -> list[Pair]:
    return [
        pair({"ottla": {"start_s": ours}, "kafka": {"start_s": theirs}}, number=at)
        for at, (ours, theirs) in enumerate(both)
    ]


class TestVerdicts:
    def test_median_of_the_ratios_of_pairs(self) -> None:
        """A pair that was disturbed, on both sides, does not move the median of ratios; it would move a ratio of means."""
        found = outcome(GOAL, "start", starts((0.2, 4.0), (2.0, 40.0), (0.3, 3.0)))
        assert found.ratios == pytest.approx((0.05, 0.05, 0.1))
        assert found.ratio == pytest.approx(0.05)
        assert (found.over, found.under) == (0.3, 4.0)

    @pytest.mark.parametrize(
        ("limit", "at_least", "verdict"),
        [(0.5, False, MET), (0.4, False, NOT_MET), (0.5, True, MET), (0.6, True, NOT_MET)],
    )
    def test_a_bound_itself_is_met(self, limit: float, at_least: bool, verdict: str) -> None:
        goal = Goal(cases="start", figure="start_s", limit=limit, at_least=at_least)
        assert outcome(goal, "start", starts((1.0, 2.0))).verdict == verdict

    def test_other_cases_and_other_figures_are_not_counted(self) -> None:
        pairs = [
            pair({"ottla": {"stop_s": 1.0}, "kafka": {"stop_s": 1.0}}),
            pair({"ottla": {"start_s": 1.0}, "kafka": {"start_s": 1.0}}, case="stop"),
            pair({"ottla": {"start_s": 1.0}, "kafka": {"start_s": 0.0}}),
        ]
        assert outcome(GOAL, "start", pairs).verdict == NOT_RUN

    def test_measured_alone_is_a_figure_without_a_ratio(self) -> None:
        found = outcome(GOAL, "start", [pair({"ottla": {"start_s": 0.25}})])
        assert (found.verdict, found.over) == (NOT_RUN, 0.25)

    def test_a_figure_over_another_of_the_same_broker(self) -> None:
        goal = Goal(cases="x", figure="busy", limit=2, under="ottla", under_figure="quiet")
        assert outcome(goal, "x", [pair({"ottla": {"busy": 3.0, "quiet": 2.0}}, case="x")]).ratios == (1.5,)


class TestTable:
    def test_every_goal_has_cases_and_every_case_a_goal(self) -> None:
        named = [name for row in ROWS for goal in row.goals for name in goal.names()]
        assert all(goal.names() for row in ROWS for goal in row.goals)
        assert {case.name for case in CASES if not case.name.startswith("growth/")} == set(named)

    def test_names_are_unique(self) -> None:
        assert len({case.name for case in CASES}) == len(CASES)


class TestOrder:
    def test_turns_change_from_pair_to_pair(self) -> None:
        assert order(("a", "b", "c"), 0) == ("a", "b", "c")
        assert order(("a", "b", "c"), 1) == ("c", "b", "a")

    def test_important_first_and_everything_once_before_anything_is_complete(self) -> None:
        cases = [case for case in CASES if case.name in ("growth/groups", "beside/deletion", "start")]
        tasks = [(task.case.name, task.number) for task in plan(cases)]
        assert tasks == [
            ("start", 0),
            ("start", 1),
            ("beside/deletion", 0),
            ("growth/groups", 0),
            ("start", 2),
            ("start", 3),
            ("start", 4),
            ("beside/deletion", 1),
        ]
        assert len(plan(CASES)) == sum(case.pairs for case in CASES)
        assert len(plan(CASES, 1)) == len(CASES)

    def test_what_does_not_fit_is_passed_over(self) -> None:
        long, short = (Task(Case(name=name, run=dict, seconds=seconds), 0) for name, seconds in (("l", 50), ("s", 5)))
        ran: list[Task] = []

        def elapsed_s() -> float:
            return sum(task.case.seconds for task in ran)

        for task, fits in within([short, long, short], 20, elapsed_s, lambda task: task.case.seconds):
            if fits:
                ran.append(task)
        assert [task.case.name for task in ran] == ["s", "s"]

    def test_an_estimate_learns(self) -> None:
        task = Task(Case(name="x", run=dict, seconds=100), 1)
        assert estimate(task, 1.0, []) == 100
        assert 35 <= estimate(task, 0.02, []) < 40
        assert estimate(task, 3.0, []) == 300
        assert estimate(task, 1.0, [20.0, 30.0]) == 30.0


class TestStore:
    def test_a_finished_pair_is_found_again(self, tmp_path: Path) -> None:
        store = Store(tmp_path / "results", "abc")
        assert store.pairs() == []
        one, two = starts((0.1, 2.0), (0.123456789, 2.0))
        store.add(one)
        store.add(two)
        assert store.pairs()[0] == one
        assert store.pairs()[1].figures["ottla"]["start_s"] == 0.123457
        there = done(store.pairs())
        assert key("abc", "start", {}, 1, 1.0, ("kafka", "ottla")) in there

    @pytest.mark.parametrize(
        "other",
        [
            ("abd", "start", {}, 0, 1.0, ("kafka", "ottla")),
            ("abc", "start", {"size": 1}, 0, 1.0, ("kafka", "ottla")),
            ("abc", "start", {}, 1, 1.0, ("kafka", "ottla")),
            ("abc", "start", {}, 0, 0.5, ("kafka", "ottla")),
            ("abc", "start", {}, 0, 1.0, ("ottla",)),
        ],
    )
    def test_another_measurement_is_not_the_same(
        self, other: tuple[str, str, dict[str, object], int, float, tuple[str, ...]]
    ) -> None:
        assert key(*other) not in done(starts((0.1, 2.0)))

    def test_a_line_cut_off_by_a_kill_is_left_out(self, tmp_path: Path) -> None:
        store = Store(tmp_path, "abc")
        one, two = starts((0.1, 2.0), (0.2, 2.0))
        store.add(one)
        store.path.write_text(store.path.read_text() + '{"case": "sta')
        assert store.pairs() == [one]
        store.add(two)
        assert store.pairs() == [one, two]


class TestPage:
    def test_what_was_not_run_says_so(self) -> None:
        page = render([], "abc", 2)
        assert page.count(NOT_RUN) >= sum(len(goal.names()) for row in ROWS for goal in row.goals)
        assert "nothing has been measured" in page

    def test_a_line_names_both_figures_the_range_and_the_verdict(self) -> None:
        page = render(starts((0.2, 4.0), (0.4, 4.0), (0.9, 3.0)), "abc", 2)
        line = next(line for line in page.splitlines() if line.startswith("| start |"))
        assert [cell.strip() for cell in line.strip("|").split("|")] == [
            "start",
            "start_s",
            "<= 0.1x",
            "0.1x",
            "0.05-0.3",
            "ottla 0.4 s",
            "kafka 4 s",
            "3",
            MET,
        ]
        assert "load average during the run | 0.5 to 1.5, median 1.0" in page

    def test_growth_is_taken_against_the_broker_that_stayed_small(self) -> None:
        figures = {"produce@1": 10.0, "produce@1/base": 10.0, "produce@100": 30.0, "produce@100/base": 20.0}
        page = render([pair({"ottla": figures}, case="growth/groups")], "abc", 2)
        assert "| produce | 10 | 30 | 1.5x |" in page

    def test_numbers(self) -> None:
        assert [number(value) for value in (0.04321, 1.0, 99.94, 12345.6)] == ["0.0432", "1", "99.9", "12,346"]


class TestMeasuring:
    def test_cpu_and_memory_of_a_process_and_its_children(self) -> None:
        """A child that was waited for stays counted; one that runs is found."""
        spin = "t = time.process_time()\nwhile time.process_time() - t < 0.2: pass"
        code = (
            "import subprocess, sys, time\n"
            f"subprocess.run([sys.executable, '-c', 'import time\\n' + {spin!r}])\n"
            "child = subprocess.Popen([sys.executable, '-c', 'print(flush=True), input()'], stdin=-1, stdout=-1)\n"
            "child.stdout.readline()\n"
            "status = open('/proc/self/status').read()\n"
            "print(status.partition('VmRSS:')[2].split()[0], flush=True)\ninput()\nchild.communicate(b'\\n')"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            parent_alone = int(process.stdout.readline()) * 1024
            assert len(descendants(process.pid)) == 2
            assert 0.2 <= cpu_seconds(process.pid) < 5
            assert parent_alone * 1.1 < resident_bytes(process.pid) < parent_alone * 4
            process.communicate("\n")

    def test_flow(self) -> None:
        figures = flow("produce", 1_000_000, 1000, 4.0, 2.0, 0.5)
        assert figures == {
            "produce_cpu_s_per_gb": 2.0,
            "produce_system_s_per_gb": 0.5,
            "produce_mb_per_s": 250.0,
            "produce_records_per_s": 250_000.0,
        }

    def test_replayed_frames_are_written_and_read(self) -> None:
        """The client that looks at nothing, against a broker: every record arrives, and as many bytes are read."""
        broker = Ottla()
        volume = 3_000_000
        with running(broker):
            broker.spawn()
            first_ack(broker.port, "probe", create=True)
            took = raw.one_by_one(broker.port, "probe", 20, 100)
            assert len(took) == 20
            assert written(broker, "probe", 1) == 22
            create(broker, "replayed", PARTITIONS)
            sent = fill(broker.port, "replayed", PARTITIONS, volume)
            batches = sent.requests + 1  # the first one is not timed
            assert written(broker, "replayed", PARTITIONS) == batches * REPLAY_RECORDS
            assert drain(broker.port, "replayed", PARTITIONS, volume).bytes >= volume
            count, seconds = raw.many_at_once(broker.port, "replayed", 3, PARTITIONS, 0.1, 100)
            assert written(broker, "replayed", PARTITIONS) == batches * REPLAY_RECORDS + count + 3
            assert math.isclose(seconds, 0.1, abs_tol=2)
