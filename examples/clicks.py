"""Clicks and log lines of a web site, counted by minute: each minute once, when it is over, late records included.

    python examples/clicks.py                        # starts a broker of its own; open the address that it prints
    python examples/clicks.py --seconds 20 --port 8000 --stay

The visitors are simulated: 20 minutes of a small shop's web site, played in one. Browsers send clicks; the web server
writes a line in the common log format for each request. For five minutes the server answers some requests with 503. Some
phones are out of reach now and then and send their clicks later: up to two minutes, or, when the train stands in a tunnel,
ten.

What it shows of Streams: `grace` (a minute stays open for two more, for the records that come late), `suppress` (so nothing
comes out before the count of a minute is final, and then once), and that what comes later than that is dropped. A plain loop
over the same records must come to the same counts: the exit code is 0 then, else 1.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from datetime import UTC, datetime
from functools import partial
from typing import Any

from live_app import Event, Program, main, running, yesterday
from live_page import Bar, LivePage, Panel, Snapshot

from ottla.streams import App, Windowed, tumbling

MINUTE_MS, GRACE_MS = 60_000, 120_000
PAGES = {"/": 10, "/bread": 6, "/cakes": 5, "/basket": 3, "/opening-hours": 2}


def make_app(servers: str, state_dir: str) -> App:
    """Count clicks by page and lines by status, each minute, into the topic "minutes"."""
    app = App(
        "clicks", servers, processing_guarantee="exactly_once_v2", state_dir=state_dir, commit_interval_ms="200ms"
    )
    by_page = app.stream("clicks", key=str, value="json").group_by(lambda user, click: click["page"], name="by-page")
    by_status = app.stream("log", key=str, value=str).group_by(lambda host, line: status(line), name="by-status")
    for kind, grouped in {"clicks": by_page, "log": by_status}.items():
        minutes = grouped.windowed_by(tumbling("1m", grace="2m")).count(store=f"{kind}-by-minute")
        final = minutes.suppress("until_window_closes", name=f"{kind}-final").to_stream()
        final.map(partial(row, kind)).to("minutes", key=str, value="json")
    return app


def row(kind: str, minute: Windowed, count: int) -> tuple[str, dict[str, Any]]:
    """Return what is written of a minute."""
    return minute.key, {"kind": kind, "start": minute.window.start, "count": count}


def status(line: str) -> str:
    """Return the first digit of the status of a line in the common log format.

    >>> status('10.0.0.7 - - [01/Dec/2026:10:00:00 +0000] "GET /bread HTTP/1.1" 200 5123')
    '2xx'
    """
    return line.rsplit('"', 1)[1].split()[0][0] + "xx"


def visitors(seed: int, minutes: int = 20) -> list[Event]:
    """Return the clicks and lines of some minutes, in the order in which they are sent."""
    dice = random.Random(seed)
    start, events = yesterday(10), []
    for second in range(minutes * 60):
        at = start + second * 1000
        for _ in range(dice.choice([0, 1, 1, 2, 4]) if second % 600 > 120 else 4):
            user = f"10.0.0.{dice.randrange(250)}"
            page = dice.choices(list(PAGES), list(PAGES.values()))[0]
            late = 1000 * dice.choices([0, dice.randrange(120), 600], [93, 6, 1])[0]
            events.append(Event(at + late, "clicks", user, {"page": page}, at))
            answer = 503 if second // 300 == 2 and dice.random() < 0.4 else dice.choices([200, 304, 404], [8, 2, 1])[0]
            when = f"{datetime.fromtimestamp(at / 1000, UTC):%d/%b/%Y:%H:%M:%S %z}"
            line = f'{user} - - [{when}] "GET {page} HTTP/1.1" {answer} {dice.randrange(200, 9000)}'
            events.append(Event(at, "log", user, line))
    return sorted(events, key=lambda event: event.sent_ms)


def plain_loop(events: list[Event]) -> tuple[dict[tuple[str, str, int], int], int]:
    """Return the count of each (kind, page or status, minute) that is over in the end, and how many came too late."""
    counts: Counter[tuple[str, str, int]] = Counter()
    stream_time, too_late = {"clicks": 0, "log": 0}, 0
    for event in events:
        kind, time_ms = event.topic, event.sent_ms if event.time_ms is None else event.time_ms
        stream_time[kind] = max(stream_time[kind], time_ms)
        start = time_ms - time_ms % MINUTE_MS
        if start + MINUTE_MS + GRACE_MS <= stream_time[kind]:
            too_late += 1
            continue
        name = event.value["page"] if kind == "clicks" else status(event.value)
        counts[kind, name, start] += 1
    over = {place: n for place, n in counts.items() if place[2] + MINUTE_MS + GRACE_MS <= stream_time[place[0]]}
    return over, too_late


def draw(counts: dict[tuple[str, str, int], int]) -> list[Panel]:
    """Return a bar for each minute: clicks; lines by status (good, failed, not found)."""
    starts = sorted({start for _, _, start in counts})[-15:]
    names = {"clicks": [[*PAGES]], "log": [["2xx", "3xx"], ["5xx"], ["4xx"]]}
    panels = []
    for kind, groups in names.items():
        bars = [
            Bar(
                label=f"{datetime.fromtimestamp(start / 1000, UTC):%H:%M}",
                parts=[sum(counts.get((kind, name, start), 0) for name in group) for group in groups],
            )
            for start in starts
        ]
        panels.append(Panel(title={"clicks": "clicks", "log": "lines of the log"}[kind], bars=bars))
    return panels


def play(page: LivePage, options: argparse.Namespace) -> bool:
    """Send, show, and compare with the plain loop."""
    events = visitors(options.seed)
    expected, too_late = plain_loop(events)
    results: list[Any] = []
    # One partition: with several, each has a stream time of its own, and what is too late in one is not in another.
    with running("clicks", clicks={"partitions": 1}, log={"partitions": 1}, minutes={"partitions": 1}) as application:
        for now in application.play(events, options.seconds, lambda: len(results) >= len(expected)):
            results.extend(application.read("minutes"))
            counts = {
                (record.value["kind"], record.key, record.value["start"]): record.value["count"] for record in results
            }
            clock = datetime.fromtimestamp(now.now_ms / 1000, UTC)
            figures = [("sent", f"{now.sent:,}"), ("in minutes that are over", f"{sum(counts.values()):,}")]
            page.show(Snapshot(status=f"{clock:%H:%M}", progress=now.progress, figures=figures, panels=draw(counts)))
        is_right = counts == expected and len(results) == len(expected)
    end = "each came once, as a plain loop counts it" if is_right else "they are WRONG"
    figures = [*figures, ("dropped, too late", str(too_late))]
    page.show(Snapshot(status=end, progress=1, is_done=True, figures=figures, panels=draw(counts)))
    print(f"{len(events):,} records, {too_late} too late, {len(results)} counts of minutes: {end}", flush=True)
    return is_right


if __name__ == "__main__":
    sys.exit(
        main(
            Program(
                name="clicks",
                doc=__doc__,
                title="Clicks and logs by minute",
                about="Simulated visitors of a web site. A minute appears when its count is final: two minutes after "
                "its end.",
                legend=["clicks; answers that are fine", "failed", "not found"],
                seconds=60,
                make_app=make_app,
                play=play,
            )
        )
    )
