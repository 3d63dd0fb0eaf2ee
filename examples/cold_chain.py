"""Freezers of a cold chain, and an agent that calls somebody when one gets warm.

    python examples/cold_chain.py                    # starts a broker of its own
    python examples/cold_chain.py --readings 5000

The readings are simulated: twelve freezers say their temperature each minute; now and then the door of one stays open, and
it gets warm until somebody closes it. Operators count warm readings in a row, in a store. An agent, a coroutine, takes each
third one and calls somebody; the call only takes a moment here. A timer says every half second that the application is
alive, once, whichever instance is the leader. There are two instances, and the first one is ended in the middle. At the end
the calls are compared with a plain loop over all readings: the exit code is 0 only if none is missing and none is wrong.
Agents work at least once, so a call may come twice; that is counted.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.table import Table

import ottla
from ottla.streams import App, Record, Records
from ottla.testing import Broker

FREEZERS = [f"{place}/{number}" for place in ("fish", "fruit", "ice cream") for number in range(1, 5)]
#: Above that it is warm, and at so many warm readings in a row somebody is called.
WARM, IN_A_ROW = -15.0, 3
MINUTE_MS = 60_000


def make_app(servers: str, state_dir: str) -> App:
    """Count warm readings of the topic "readings", call somebody (the topic "calls"), and be alive (the topic "beats")."""
    app = App(
        "cold-chain",
        servers,
        state_dir=state_dir,
        commit_interval_ms="200ms",
        # A record cache would keep all but the last count of a freezer between two commits, and the third with them.
        config={"statestore.cache.max.bytes": 0},
    )

    readings = app.stream("readings", key=str, value="json")
    in_a_row = readings.group_by_key().aggregate(
        lambda: 0,
        lambda freezer, reading, warm: warm + 1 if reading["celsius"] > WARM else 0,
        value=int,
        store="warm-in-a-row",
    )
    alarms = in_a_row.to_stream().filter(lambda freezer, warm: warm == IN_A_ROW)

    @app.agent(alarms, to="calls")
    async def call(records: Records) -> AsyncIterator[Any]:
        async for batch in records.take(10, within="50ms"):
            await asyncio.sleep(0.01)  # one call for all of them
            for alarm in batch:
                yield alarm._replace(value=f"please close {alarm.key}")

    @app.timer("500ms", on_leader=True, to="beats")
    async def beat() -> AsyncIterator[Any]:
        yield Record(str(os.getpid()), "alive", round(time.time() * 1000))

    return app


def simulate(count: int) -> list[tuple[str, int, float]]:
    """Return (freezer, time in ms, °C) of each reading."""
    dice = random.Random(11)
    celsius = dict.fromkeys(FREEZERS, -20.0)
    is_open: Counter[str] = Counter()
    # They end about now: records older than a topic's retention would not stay.
    start = (int(time.time() * 1000) - count // len(FREEZERS) * MINUTE_MS) // MINUTE_MS * MINUTE_MS
    readings = []
    for number in range(count):
        freezer = FREEZERS[number % len(FREEZERS)]
        if is_open[freezer]:
            is_open[freezer] -= 1
        elif dice.random() < 0.02:
            is_open[freezer] = dice.randint(2, 7)
        celsius[freezer] += 2.5 if is_open[freezer] else (-20.0 - celsius[freezer]) / 2
        readings.append((freezer, start + number // len(FREEZERS) * MINUTE_MS, round(celsius[freezer], 1)))
    return readings


def plain_loop(readings: list[tuple[str, int, float]]) -> set[tuple[str, int]]:
    """Return (freezer, time) of each alarm."""
    warm: Counter[str] = Counter()
    alarms = set()
    for freezer, when, celsius in readings:
        warm[freezer] = warm[freezer] + 1 if celsius > WARM else 0
        if warm[freezer] == IN_A_ROW:
            alarms.add((freezer, when))
    return alarms


def read(servers: str, topic: str) -> list[tuple[str, int]]:
    """Return (key, time) of each record of a topic."""
    with ottla.Consumer(
        servers, topics=[topic], auto_offset_reset="earliest", key_deserializer=ottla.serde.string
    ) as reader:
        return [(record.key or "", record.timestamp_ms) for record in reader.records(until="end")]


def send(servers: str, readings: list[tuple[str, int, float]]) -> None:
    with ottla.Producer(servers, value_serializer=ottla.serde.json(), key_serializer=ottla.serde.string) as producer:
        for freezer, when, celsius in readings:
            producer.send("readings", {"celsius": celsius}, key=freezer, timestamp=when)


def play(servers: str, directory: str, readings: list[tuple[str, int, float]]) -> None:
    """Run two instances, the first of which is ended after half of the readings, until there is a call for each alarm."""
    half = len(readings) // 2

    def start(name: str) -> subprocess.Popen[bytes]:
        state = os.path.join(directory, name)
        return subprocess.Popen([sys.executable, os.path.abspath(__file__), "--serve", servers, "--state", state])

    def wait_for(alarms: set[tuple[str, int]], leader: subprocess.Popen[bytes]) -> None:
        """Wait until there is a call for each alarm, and the leader was alive."""
        deadline = time.monotonic() + 120
        while not (alarms <= set(read(servers, "calls")) and str(leader.pid) in dict(read(servers, "beats"))):
            if time.monotonic() > deadline:
                sys.exit("not all calls came")
            time.sleep(0.2)

    first = start("first")
    processes = [first]
    try:
        send(servers, readings[:half])
        wait_for(plain_loop(readings[:half]), first)
        second = start("second")
        processes.append(second)
        send(servers, readings[half:])
        first.terminate()  # it commits, hands over, and ends
        first.wait(60)
        wait_for(plain_loop(readings), second)
        second.terminate()
        second.wait(60)
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                process.kill()


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readings", type=int, default=3000)
    parser.add_argument("--serve", metavar="HOST:PORT", help=argparse.SUPPRESS)
    parser.add_argument("--state", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        make_app(chosen.serve, chosen.state).run()
        return
    readings = simulate(chosen.readings)
    settings = {"group.initial.rebalance.delay.ms": 0, "group.min.session.timeout.ms": 1000}
    with Broker(settings) as broker, tempfile.TemporaryDirectory() as directory:
        servers = broker.bootstrap_servers
        for topic, partitions in (("readings", 3), ("calls", 1), ("beats", 1)):
            broker.create_topic(topic, partitions=partitions)
        play(servers, directory, readings)
        calls, beats = read(servers, "calls"), read(servers, "beats")
    expected = plain_loop(readings)
    table = Table(title=f"{IN_A_ROW} readings above {WARM} °C in a row")
    table.add_column("freezer")
    table.add_column("calls", justify="right")
    for freezer, count in Counter(freezer for freezer, _ in set(calls)).most_common(6):
        table.add_row(freezer, str(count))
    Console().print(table)
    right = set(calls) == expected
    print(
        f"{len(readings)} readings, {len(expected)} alarms, {len(calls) - len(set(calls))} calls that came twice, "
        f"{len(dict(beats))} leaders: {'as' if right else 'NOT as'} a plain loop over all readings finds them"
    )
    if not right:
        sys.exit(1)


if __name__ == "__main__":
    main()
