"""Card payments counted by card and minute, and an alarm for cards that pay too often: exactly once, although it is killed.

    python examples/fraud.py                         # starts a broker of its own
    python examples/fraud.py --payments 5000 --kills 5

The payments are simulated: most cards pay now and then, three are used by thieves, many times within a minute. A stream
application counts payments by card and minute, and writes an alarm when a card comes to its fifth payment in a
minute. It runs in a process of its own, which is killed in the middle of its work and started again. At the end the
alarms are compared with a plain loop over all payments, and a table says which cards to block.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress

from rich.console import Console
from rich.table import Table

import ottla
from ottla.streams import App, tumbling
from ottla.testing import Broker

#: So many payments of one card in a minute are an alarm.
LIMIT = 5
CARDS = [f"card-{number:03}" for number in range(200)]
THIEVES = ["card-007", "card-119", "card-131"]
MINUTE_MS = 60_000
#: Between two payments.
STEP_MS = 400


def make_app(servers: str, state_dir: str) -> App:
    """Count payments by card and minute, and tell which counts are alarms."""
    app = App(
        "fraud",
        servers,
        processing_guarantee="exactly_once_v2",
        state_dir=state_dir,
        # A record cache would keep all but the last count of a card between two commits, and the fifth payment with them.
        config={"statestore.cache.max.bytes": 0},
    )
    payments = app.stream("payments", key=str, value="json")
    counts = payments.group_by_key().windowed_by(tumbling("1m", grace="1h")).count(store="by-minute")
    (
        counts.to_stream()
        .filter(lambda window, count: count == LIMIT)
        .map(lambda window, count: (window.key, {"minute": window.window.start, "payments": count}))
        .to("alarms", key=str, value="json")
    )
    return app


def send_payments(servers: str, count: int) -> list[tuple[str, int]]:
    """Send payments; return (card, time in ms) of each."""
    dice = random.Random(7)
    sent = []
    # They end about now: records older than a topic's retention would not stay.
    start = (int(time.time() * 1000) - count * STEP_MS) // MINUTE_MS * MINUTE_MS
    with ottla.Producer(servers, value_serializer=ottla.serde.json(), key_serializer=ottla.serde.string) as producer:
        for number in range(count):
            when = start + number * STEP_MS
            thief = THIEVES[(when // MINUTE_MS) % len(THIEVES)]
            card = thief if dice.random() < 0.1 else dice.choice(CARDS)
            producer.send("payments", {"cents": dice.randint(100, 50_000)}, key=card, timestamp=when)
            sent.append((card, when))
    return sent


def read_alarms(servers: str) -> list[tuple[str, int]]:
    """Return (card, minute) of each alarm that is committed."""
    with ottla.Consumer(
        servers,
        topics=["alarms"],
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        key_deserializer=ottla.serde.string,
        value_deserializer=ottla.serde.json(),
    ) as reader:
        return [(record.key or "", record.value["minute"]) for record in reader.records(until="end") if record.value]


def expected_alarms(payments: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return the same by a plain loop."""
    counts = Counter((card, when - when % MINUTE_MS) for card, when in payments)
    return sorted(window for window, count in counts.items() if count >= LIMIT)


def run_and_kill(servers: str, state_dir: str, wanted: list[tuple[str, int]], kills: int) -> int:
    """Run the application in a process until all alarms are there; kill it now and then. Return how often."""
    done = 0
    command = [sys.executable, os.path.abspath(__file__), "--serve", servers, "--state", state_dir]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 240
    try:
        while len(found := read_alarms(servers)) < len(wanted) or done < kills:
            if time.monotonic() > deadline:
                sys.exit(f"only {len(found)} of {len(wanted)} alarms came")
            time.sleep(0.5)
            if done < kills and (found or done):
                process.kill()
                process.wait()
                done += 1
                process = subprocess.Popen(command)
        process.terminate()  # it commits, hands over, and ends
        process.wait(60)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    return done


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--payments", type=int, default=3000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--serve", metavar="HOST:PORT", help=argparse.SUPPRESS)
    parser.add_argument("--state", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        make_app(chosen.serve, chosen.state).run()
        return
    settings = {"group.initial.rebalance.delay.ms": 0, "group.min.session.timeout.ms": 1000}
    with Broker(settings) as broker, tempfile.TemporaryDirectory() as state_dir:
        servers = broker.bootstrap_servers
        broker.create_topic("payments", partitions=2)
        broker.create_topic("alarms")
        payments = send_payments(servers, chosen.payments)
        wanted = expected_alarms(payments)
        kills = run_and_kill(servers, state_dir, wanted, chosen.kills)
        found = read_alarms(servers)
    table = Table(title=f"{LIMIT} payments in a minute, or more")
    table.add_column("card")
    table.add_column("alarms", justify="right")
    for card, count in Counter(card for card, _ in found).most_common(8):
        table.add_row(card, str(count), style="bold red" if card in THIEVES else "")
    Console().print(table)
    right = (
        "as a plain loop over all payments finds them" if sorted(found) == wanted else "NOT as a plain loop finds them"
    )
    print(f"{len(payments)} payments, {len(found)} alarms, {kills} kills: {right}")
    if sorted(found) != wanted:
        sys.exit(1)


if __name__ == "__main__":
    main()
