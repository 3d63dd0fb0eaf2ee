"""Services that talk through topics: requests and replies, and an outbox, so that an order is never half made.

    python examples/shop.py                          # starts a broker of its own
    python examples/shop.py --orders 200

The shop keeps its orders in SQLite. An order and the event about it are written in one database transaction, the event into
the table `outbox`; a relay sends what is in there to the topic `orders`, and forgets it once it is acknowledged. Sent twice
after a crash, an event is recognised by its id. The stock service answers each order in the topic the order names, with
the order's correlation id; the shop matches replies to orders, however late they come. Halfway the relay is killed between
sending and forgetting, and the broker is restarted.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import sys
import tempfile
import threading
import uuid
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import ottla
from ottla.testing import Broker

GOODS = {"chair": 60, "table": 20, "lamp": 90}
ORDERS, REPLIES = "orders", "order-replies"


class Shop:
    """Takes orders, and learns from replies what became of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with closing(self._open()) as database:
            database.executescript(
                """
                CREATE TABLE orders (id TEXT PRIMARY KEY, goods TEXT, pieces INTEGER, state TEXT);
                CREATE TABLE outbox (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT, event TEXT);
                """
            )

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, isolation_level=None, timeout=30)

    def order(self, goods: str, pieces: int) -> str:
        """Take an order: the order and the event about it are there together, or neither is."""
        order_id = str(uuid.uuid4())
        event = json.dumps({"order": order_id, "goods": goods, "pieces": pieces})
        with closing(self._open()) as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("INSERT INTO orders VALUES (?, ?, ?, 'waiting')", [order_id, goods, pieces])
            database.execute("INSERT INTO outbox (id, event) VALUES (?, ?)", [order_id, event])
            database.execute("COMMIT")
        return order_id

    def relay(self, servers: str, stop: threading.Event, *, forget_after: int | None = None) -> None:
        """Send what is in the outbox, in order, until `stop`; die after so many events without forgetting the last ones."""
        sent = 0
        with closing(self._open()) as database, ottla.Producer(servers) as producer:
            while not stop.is_set():
                rows = database.execute("SELECT number, id, event FROM outbox ORDER BY number LIMIT 50").fetchall()
                if not rows:
                    stop.wait(0.02)
                    continue
                for _, order_id, event in rows:
                    headers = {"correlation-id": order_id.encode(), "reply-to": REPLIES.encode()}
                    producer.send(ORDERS, event, key=order_id, headers=headers)
                producer.flush()  # raises if any was not acknowledged: then nothing is forgotten
                sent += len(rows)
                if forget_after is not None and sent >= forget_after:
                    return  # killed here: these events will be sent again
                database.execute("DELETE FROM outbox WHERE number <= ?", [rows[-1][0]])

    def listen(self, servers: str, stop: threading.Event) -> None:
        """Note what the replies say."""
        with (
            closing(self._open()) as database,
            ottla.Consumer(servers, group_id="shop", topics=[REPLIES], auto_offset_reset="earliest") as consumer,
        ):
            while not stop.is_set():
                for record in consumer.poll(timeout=0.1):
                    order_id = (record.headers["correlation-id"] or b"").decode()
                    state = (record.value or b"").decode()
                    database.execute("UPDATE orders SET state = ? WHERE id = ?", [state, order_id])

    def states(self) -> Counter[tuple[str, str]]:
        """Return how many orders there are, by goods and state."""
        with closing(self._open()) as database:
            rows = database.execute(
                "SELECT goods, state, count(*), sum(pieces) FROM orders GROUP BY goods, state"
            ).fetchall()
        return Counter({(goods, state): count for goods, state, count, _ in rows})

    def pieces(self, goods: str) -> int:
        """Return how many pieces were promised."""
        with closing(self._open()) as database:
            row = database.execute(
                "SELECT coalesce(sum(pieces), 0) FROM orders WHERE goods = ? AND state = 'promised'", [goods]
            ).fetchone()
        return int(row[0])


def stock(servers: str, stop: threading.Event) -> None:
    """Promise what is there; an order that comes again gets the same answer."""
    left = dict(GOODS)
    answers: dict[str, str] = {}
    with (
        ottla.Producer(servers, linger_ms=0) as producer,
        ottla.Consumer(servers, group_id="stock", topics=[ORDERS], auto_offset_reset="earliest") as consumer,
    ):
        while not stop.is_set():
            for record in consumer.poll(timeout=0.1):
                order: Any = json.loads(record.value or b"{}")
                order_id = order["order"]
                if order_id not in answers:
                    enough = left[order["goods"]] >= order["pieces"]
                    left[order["goods"]] -= order["pieces"] if enough else 0
                    answers[order_id] = "promised" if enough else "sold out"
                reply_to = (record.headers["reply-to"] or b"").decode()
                headers = {"correlation-id": record.headers["correlation-id"]}
                producer.send(reply_to, answers[order_id], key=order_id, headers=headers)


def run(broker: Broker, path: Path, count: int) -> Shop:
    """Have the services work until every order has an answer."""
    dice = random.Random(3)
    shop = Shop(path)
    for topic in (ORDERS, REPLIES):
        broker.create_topic(topic, partitions=3)
    stop = threading.Event()
    servers = broker.bootstrap_servers
    services = [threading.Thread(target=target, args=[servers, stop]) for target in (shop.listen, stock)]
    first = threading.Thread(target=shop.relay, args=[servers, stop], kwargs={"forget_after": count // 2})
    for thread in (*services, first):
        thread.start()
    for number in range(count):
        shop.order(dice.choice(list(GOODS)), dice.randint(1, 3))
        if number == count // 2:
            broker.restart()
    first.join(60)
    second = threading.Thread(target=shop.relay, args=[servers, stop])
    second.start()
    waiting = threading.Event()
    while any(state == "waiting" for _, state in shop.states()):
        waiting.wait(0.05)
    stop.set()
    for thread in (*services, second):
        thread.join(60)
    return shop


def main() -> int:
    """Run it; return 0 if every order has an answer and nothing was promised twice."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--orders", type=int, default=150)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, Broker() as broker:
        shop = run(broker, Path(directory) / "shop.sqlite", options.orders)
        sent = len(broker.topic(ORDERS).records())
        states, pieces = shop.states(), {goods: shop.pieces(goods) for goods in GOODS}
    print(f"{'goods':<8}{'promised':>10}{'sold out':>10}{'pieces':>8} of{'':>2}stock")
    for goods, stocked in GOODS.items():
        promised, refused = states[goods, "promised"], states[goods, "sold out"]
        print(f"{goods:<8}{promised:>10}{refused:>10}{pieces[goods]:>8}{stocked:>10}")
    answered = sum(states.values())
    print(f"{answered} orders answered; {sent - options.orders} events were sent twice after the relay was killed")
    too_many = [goods for goods in GOODS if pieces[goods] > GOODS[goods]]
    return int(answered != options.orders or bool(too_many))


if __name__ == "__main__":
    sys.exit(main())
