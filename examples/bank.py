"""Transfers between accounts, booked exactly once although workers die in the middle of them.

    python examples/bank.py                          # starts a broker of its own
    python examples/bank.py --transfers 2000 --workers 3

Transfers come in through the topic `transfers`. Workers of one group turn each into two entries, a debit and a credit, in the
topic `entries`: both, and the note that the transfer is done, in one Kafka transaction. Now and then a worker dies after
it has written one of the two; the transaction is aborted, and the transfer comes again. At the end the entries are
added up: no money has come or gone, and no transfer is missing or booked twice.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
from collections import Counter
from contextlib import ExitStack
from typing import Any

import ottla
from ottla.testing import Broker

ACCOUNTS = ["anna", "bert", "carla", "dora", "emil"]
PARTITIONS = 4
#: A worker dies once in so many transfers.
DEATH_EVERY = 60


class DiedError(Exception):
    """A worker dies here."""


def send_transfers(servers: str, count: int) -> None:
    """Ask for transfers."""
    dice = random.Random(7)
    with ottla.Producer(servers, value_serializer=ottla.serde.json()) as producer:
        for number in range(count):
            payer, payee = dice.sample(ACCOUNTS, 2)
            transfer = {"id": number, "from": payer, "to": payee, "cents": dice.randint(1, 10_000)}
            producer.send("transfers", transfer, key=payer)


class Bank:
    """The workers, and what they have in common: how much is done, how often one died."""

    def __init__(self, servers: str, total: int) -> None:
        self.servers = servers
        self.total = total
        self.booked = 0
        self.deaths = 0
        self.done = threading.Event()
        self._lock = threading.Lock()

    def work(self, name: str) -> None:
        """Be a worker until everything is booked; after a death be the next worker of that name."""
        dice = random.Random(name)
        while not self.done.is_set():
            try:
                self._life(name, dice)
            except DiedError:
                with self._lock:
                    self.deaths += 1

    def _life(self, name: str, dice: random.Random) -> None:
        with (
            ottla.Producer(
                self.servers, transactional_id=f"bank-{name}", value_serializer=ottla.serde.json()
            ) as producer,
            ottla.Consumer(
                self.servers,
                group_id="bank",
                topics=["transfers"],
                commit="transaction",
                auto_offset_reset="earliest",
                value_deserializer=ottla.serde.json(),
            ) as consumer,
        ):
            while not self.done.is_set():
                batch = consumer.poll(max_records=20, timeout=0.2)
                if not batch:
                    continue
                with producer.transaction(consumer) as transaction:
                    for record in batch:
                        transfer: Any = record.value
                        entry = {"transfer": transfer["id"], "account": transfer["from"], "cents": -transfer["cents"]}
                        transaction.send("entries", entry, key=transfer["from"])
                        if dice.random() < 1 / DEATH_EVERY:
                            raise DiedError
                        entry = {"transfer": transfer["id"], "account": transfer["to"], "cents": transfer["cents"]}
                        transaction.send("entries", entry, key=transfer["to"])
                with self._lock:
                    self.booked += len(batch)
                    if self.booked >= self.total:
                        self.done.set()


def entries(servers: str) -> list[Any]:
    """Return the entries that count: those of committed transactions."""
    with ottla.Consumer(
        servers,
        topics=["entries"],
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        value_deserializer=ottla.serde.json(),
    ) as consumer:
        return [record.value for record in consumer.records(until="end")]


def main() -> int:
    """Run it; return 0 if the books are right."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bootstrap-server", help="a running broker instead of one of its own")
    parser.add_argument("--transfers", type=int, default=1_000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with ExitStack() as stack:
        servers = options.bootstrap_server or stack.enter_context(Broker()).bootstrap_servers
        with ottla.Admin(servers) as admin:
            for topic in ("transfers", "entries"):
                admin.create_topic(topic, partitions=PARTITIONS)
        bank = Bank(servers, options.transfers)
        threads = [threading.Thread(target=bank.work, args=[f"w{number}"]) for number in range(options.workers)]
        for thread in threads:
            thread.start()
        send_transfers(servers, options.transfers)
        for thread in threads:
            thread.join()
        found = entries(servers)
    balances: Counter[str] = Counter()
    booked: Counter[int] = Counter()
    for entry in found:
        balances[entry["account"]] += entry["cents"]
        booked[entry["transfer"]] += 1
    for account in ACCOUNTS:
        print(f"{account:<8}{balances[account] / 100:>12.2f}")
    print(f"{'sum':<8}{sum(balances.values()) / 100:>12.2f}")
    wrong = [number for number in range(options.transfers) if booked[number] != 2]
    print(f"{options.transfers} transfers, {bank.deaths} deaths of workers, {len(wrong)} booked wrongly")
    return int(bool(wrong) or sum(balances.values()) != 0)


if __name__ == "__main__":
    sys.exit(main())
