"""The flights of 2013 in five minutes, counted in windows of the time at which they arrive, on a page that updates.

    python examples/flights_live.py                  # starts a broker of its own; open the address that it prints
    python examples/flights_live.py --seconds 60 --port 8000 --stay

The year's 336,776 departures from New York go into a topic at the pace at which they left, made faster. The broker
stamps each with its wall clock (message.timestamp.type=LogAppendTime), and a stream application, in a process of its own,
counts them by airport in windows of 30 seconds, 1 and 2 minutes of that time, exactly once. The page shows what it
writes. At the end all counts are compared with a plain loop over the topic: the exit code is 0 if they are equal, 1 if
not; 130 after Ctrl-C and 143 after SIGTERM.

The data are those of flights.py (U.S. Bureau of Transportation Statistics). Needs: pip install ottla[demo].
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

from flights import NEW_YORK, Flight, read_flights
from live_app import Application, Program, main, results, running
from live_page import Bar, LivePage, Panel, Snapshot

import ottla
from ottla.streams import App, tumbling

AIRPORTS = {"EWR": "Newark", "JFK": "Kennedy", "LGA": "LaGuardia"}
#: Seconds of each window.
SIZES = {30: "30 seconds", 60: "1 minute", 120: "2 minutes"}
#: So many windows of a size are on the page, the newest first.
SHOWN = 12


Reader = ottla.Consumer[Any, Any]


class Window(NamedTuple):
    """A window of one airport: its size in seconds, its start in ms."""

    size: int
    start_ms: int
    airport: str


def make_app(servers: str, state_dir: str) -> App:
    """Count flights by airport, in three sizes of windows, into the topic "counts"."""
    app = App(
        "flights-live",
        servers,
        processing_guarantee="exactly_once_v2",
        state_dir=state_dir,
        commit_interval_ms="500ms",  # how often the page has news
    )
    by_airport = app.stream("flights", key=str).group_by_key()
    for size in SIZES:
        counts = by_airport.windowed_by(tumbling(size, grace="10s")).count(store=f"by-{size}s")
        counts.to_stream().map(partial(_row, size)).to("counts", key=str, value="json")
    return app


def _row(size: int, window: Any, count: int) -> tuple[str, dict[str, int]]:
    return window.key, {"size": size, "start_ms": window.window.start, "count": count}


class Show:
    """What was sent and what was counted, and how the page shows it."""

    def __init__(self, page: LivePage) -> None:
        self.page = page
        self.sent = 0
        self.flown_ms = 0
        self.progress = 0.0
        self.counts: dict[Window, int] = {}

    def read(self, reader: Reader) -> bool:
        """Take the counts that have come; whether there were any."""
        records = reader.poll(10_000, timeout=0.05)
        for record in records:
            row = record.value
            self.counts[Window(row["size"], row["start_ms"], record.key or "")] = row["count"]
        return bool(records)

    def counted(self, size: int) -> int:
        """How many flights are in the windows of a size."""
        return sum(count for window, count in self.counts.items() if window.size == size)

    def all_counted(self) -> bool:
        """Whether the windows of each size have all flights that were sent."""
        return all(self.counted(size) == self.sent for size in SIZES)

    def draw(self, status: str, *, is_done: bool = False) -> None:
        """Send it to the page."""
        figures = [("flights sent", f"{self.sent:,}"), ("counted", f"{min(map(self.counted, SIZES)):,}")]
        if self.flown_ms:
            figures.append(("date in New York", f"{_new_york(self.flown_ms):%d %B %Y}"))
        panels = [Panel(title=f"windows of {name}", bars=self._bars(size, is_done)) for size, name in SIZES.items()]
        self.page.show(Snapshot(status=status, progress=self.progress, is_done=is_done, figures=figures, panels=panels))

    def _bars(self, size: int, is_done: bool) -> list[Bar]:
        starts = sorted({window.start_ms for window in self.counts if window.size == size}, reverse=True)
        now_ms = time.time() * 1000
        return [
            Bar(
                label=f"{datetime.fromtimestamp(start / 1000):%H:%M:%S}",
                parts=[self.counts.get(Window(size, start, airport), 0) for airport in AIRPORTS],
                is_open=not is_done and now_ms < start + size * 1000,
            )
            for start in starts[:SHOWN]
        ]


def _new_york(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1000, UTC) + NEW_YORK


def play(
    flights: list[Flight],
    seconds: float,
    producer: ottla.Producer[str, Any],
    application: Application,
    reader: Reader,
    show: Show,
) -> None:
    """Send the flights within `seconds`, and keep the page new meanwhile."""
    begun = time.monotonic()
    first_ms = flights[0].time_ms
    span_ms = max(1, flights[-1].time_ms - first_ms)
    while show.sent < len(flights):
        show.progress = min(1.0, (time.monotonic() - begun) / seconds)
        due_ms = first_ms + span_ms * show.progress
        while show.sent < len(flights) and (flight := flights[show.sent]).time_ms <= due_ms:
            producer.send("flights", {"aircraft": flight.aircraft, **flight.event}, key=flight.event["from"])
            show.flown_ms = flight.time_ms
            show.sent += 1
        application.check()
        show.read(reader)
        show.draw("playing")
    producer.flush()


def plain_loop(servers: str) -> Counter[Window]:
    """Count what lies in the topic, without any streams."""
    counts: Counter[Window] = Counter()
    with ottla.Consumer(
        servers, topics=["flights"], auto_offset_reset="earliest", key_deserializer=ottla.serde.string
    ) as reader:
        for record in reader.records(until="end"):
            for size in SIZES:
                counts[Window(size, record.timestamp_ms - record.timestamp_ms % (size * 1000), record.key or "")] += 1
    return counts


def report(show: Show, flights: int, expected: Counter[Window]) -> bool:
    """Print the windows' sums; whether all is as it should be."""
    print(f"\n{'windows of':<12}{'windows':>8}{'flights':>10}" + "".join(f"{airport:>10}" for airport in AIRPORTS))
    for size, name in SIZES.items():
        mine = {window: count for window, count in show.counts.items() if window.size == size}
        by_airport = Counter[str]()
        for window, count in mine.items():
            by_airport[window.airport] += count
        sums = "".join(f"{by_airport[airport]:>10,}" for airport in AIRPORTS)
        starts = len({window.start_ms for window in mine})
        print(f"{name:<12}{starts:>8}{sum(mine.values()):>10,}{sums}")
    is_right = show.counts == dict(expected) and all(show.counted(size) == flights for size in SIZES)
    told = (
        "as a plain loop over the topic counts them" if is_right else "NOT as a plain loop over the topic counts them"
    )
    print(f"{flights:,} flights sent, {len(show.counts)} counts of windows: {told}", flush=True)
    return is_right


def run(page: LivePage, options: argparse.Namespace) -> bool:
    """Start broker and application, play, and compare; whether the counts are right."""
    show = Show(page)
    show.draw("reading the flights, which takes some seconds")
    flights = read_flights(options.limit)

    def read() -> bool:
        has_news = show.read(reader)
        show.draw("all flights are sent; the last ones are being counted")
        return has_news

    show.draw("starting a broker")
    settings = {"message.timestamp.type": "LogAppendTime"}
    with (
        running(
            "flights-live", flights={"partitions": 3, "configs": settings}, counts={"partitions": 1}
        ) as application,
        results(application.servers, "counts") as reader,
    ):
        with ottla.Producer(
            application.servers, key_serializer=ottla.serde.string, value_serializer=ottla.serde.json()
        ) as producer:
            play(flights, options.seconds, producer, application, reader, show)
        application.wait_until(show.all_counted, read)
        is_right = report(show, len(flights), plain_loop(application.servers))
        end = "the counts are those of a plain loop over the topic" if is_right else "the counts are WRONG"
        show.draw(f"all flights are played; {end}", is_done=True)
    return is_right


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N rows of the data")


if __name__ == "__main__":
    sys.exit(
        main(
            Program(
                name="flights-live",
                doc=__doc__,
                title="Flights of 2013, live",
                about="All departures from New York City in 2013, played faster, and counted by ottla.streams in windows of "
                "the time at which they arrive at the broker. Pale bars are windows that still fill.",
                legend=[f"{code} {name}" for code, name in AIRPORTS.items()],
                seconds=300,
                make_app=make_app,
                play=run,
                add_options=add_options,
            )
        )
    )
