"""A mall's live counter: who is in which shop now, how many visits there were, and how long they were.

    python examples/mall.py                          # starts a broker of its own; open the address that it prints
    python examples/mall.py --seconds 20 --port 8000 --stay

The mall is simulated: 200 visitors with telephones, from ten to ten, played in a minute. While a telephone is in a shop,
the shop sees it every two minutes or so. Some sightings come up to ten minutes late.

What it shows of Streams: `session` windows. A visit is a session: sightings of one telephone in one shop without a gap of
more than six minutes. It grows while sightings come: the result with the old end is deleted, one with the new end is
written. A sighting that comes late may make one visit of two. The table of visits is grouped by shop and counted, so the
count of a shop goes down when two of its visits become one. The visits are compared with those of a plain loop: the exit
code is 0 if they are equal, else 1.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import defaultdict
from datetime import UTC, datetime

from live_app import Event, Program, main, running, yesterday
from live_page import Bar, LivePage, Panel, Snapshot

from ottla.streams import App, session

SHOPS = {"bakery": 8, "books": 30, "cinema": 110, "groceries": 25, "shoes": 20}
MINUTE_MS = 60_000
GAP_MS = 6 * MINUTE_MS
#: (shop/telephone, start, end)
Visit = tuple[str, int, int]


def make_app(servers: str, state_dir: str) -> App:
    """Make visits of the topic "sightings" into "visits", and count them by shop into "shops"."""
    app = App("mall", servers, processing_guarantee="exactly_once_v2", state_dir=state_dir, commit_interval_ms="200ms")
    sightings = app.stream("sightings", key=str, value="json").group_by_key()
    visits = sightings.windowed_by(session("6m", grace="30m")).count(store="visits")
    visits.to_stream().map(
        # The end of a session is the time of its last sighting. None as count: it has become another one.
        lambda visit, count: (visit.key, {"start": visit.window.start, "end": visit.window.end, "sightings": count})
    ).to("visits", key=str, value="json")
    shops = visits.group_by(
        lambda visit, count: (visit.key.partition("/")[0], count), key=str, value=int, name="by-shop"
    )
    shops.count(store="shops").to_stream().to("shops", key=str, value="json")
    return app


def day(seed: int) -> list[Event]:
    """Return the sightings of a day, in the order in which they are sent."""
    dice = random.Random(seed)
    open_ms, events = yesterday(10), []
    for number in range(200):
        at = open_ms + int(dice.triangular(0, 11 * 60, 7 * 60) * MINUTE_MS)
        for shop in dice.sample(list(SHOPS), dice.randint(1, 3)):
            until = at + int(dice.gammavariate(4, SHOPS[shop] / 4) * MINUTE_MS)
            while at < min(until, open_ms + 12 * 60 * MINUTE_MS):
                late = dice.choices([0, dice.randrange(10)], [9, 1])[0] * MINUTE_MS
                events.append(Event(at + late, "sightings", f"{shop}/{number}", {}, at))
                at += int(dice.uniform(1, 3) * MINUTE_MS)
            at += 4 * MINUTE_MS
    return sorted(events, key=lambda event: event.sent_ms)


def plain_loop(events: list[Event]) -> dict[Visit, int]:
    """Return all visits, and how many sightings each has."""
    times = defaultdict(list)
    for event in events:
        times[event.key].append(event.time_ms or event.sent_ms)
    visits: dict[Visit, int] = {}
    for key, seen in times.items():
        seen.sort()
        start, count = seen[0], 0
        for at, following in zip(seen, [*seen[1:], sys.maxsize], strict=True):
            count += 1
            if following - at > GAP_MS:
                visits[key, start, at] = count
                start, count = following, 0
    return visits


class Show:
    """What the application has said, and how the page shows it."""

    def __init__(self) -> None:
        self.visits: dict[Visit, int] = {}
        self.shops: dict[str, int] = {}
        self.inside = self.most = 0

    def take_visit(self, key: str, start: int, end: int, sightings: int | None) -> None:
        """Take a visit as it is now; one without sightings is no more."""
        if sightings is None:
            self.visits.pop((key, start, end), None)
        else:
            self.visits[key, start, end] = sightings

    def draw(self, now_ms: int) -> list[Panel]:
        """Return who is in the shops now, visits, and their mean lengths."""
        inside, minutes = dict.fromkeys(SHOPS, 0), defaultdict(list)
        for key, start, end in self.visits:
            shop = key.partition("/")[0]
            inside[shop] += now_ms - end < GAP_MS
            minutes[shop].append((end - start) / MINUTE_MS)
        self.inside = sum(inside.values())
        self.most = max(self.most, self.inside)
        mean = {shop: round(sum(found) / len(found)) for shop, found in minutes.items()}
        panels = {"in the shops now": inside, "visits today": self.shops, "minutes of a visit": mean}
        return [
            Panel(title=title, bars=[Bar(label=shop, parts=[counts.get(shop, 0)]) for shop in SHOPS])
            for title, counts in panels.items()
        ]


def play(page: LivePage, options: argparse.Namespace) -> bool:
    """Send the sightings, show, and compare with the plain loop."""
    events, show = day(options.seed), Show()
    expected = plain_loop(events)

    def is_complete() -> bool:
        return show.visits == expected and sum(show.shops.values()) == len(expected)

    with running("mall", sightings={"partitions": 3}, visits={}, shops={}) as application:
        for now in application.play(events, options.seconds, is_complete):
            for record in application.read("visits"):
                show.take_visit(record.key, **record.value)
            show.shops |= {record.key: record.value for record in application.read("shops")}
            clock = datetime.fromtimestamp(now.now_ms / 1000, UTC)
            panels = show.draw(now.now_ms)
            figures = [
                ("visits", f"{len(show.visits):,}"),
                ("inside", f"{show.inside:,}"),
                ("at most", f"{show.most:,}"),
            ]
            page.show(Snapshot(status=f"{clock:%H:%M}", progress=now.progress, figures=figures, panels=panels))
        is_right = is_complete()
    end = "they are those of a plain loop" if is_right else "they are WRONG"
    page.show(Snapshot(status=f"closed; {end}", progress=1, is_done=True, figures=figures, panels=panels))
    print(f"{len(events):,} sightings, {len(show.visits):,} visits: {end}", flush=True)
    return is_right


if __name__ == "__main__":
    sys.exit(
        main(
            Program(
                name="mall",
                doc=__doc__,
                title="A mall's live counter",
                about="Simulated visitors, seen by the shops that they are in. Their visits are session "
                "windows of ottla.streams.",
                legend=[],
                seconds=60,
                make_app=make_app,
                play=play,
            )
        )
    )
