"""Workers of a share group and the broker are killed, again and again: every record is delivered, and what was acknowledged
is done for good.

Records are sent with acks=all; workers (confluent-kafka's ShareConsumer) write into one journal what they get and what they
are told is acknowledged. In the end every record that was sent was acknowledged by somebody, and no record was delivered
after somebody had been told that it was acknowledged.
OTTLA_SHARE_KILLS sets how many deaths (default 12).
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from confluent_kafka import Producer
from tests.compatibility.test_confluent import create_topic
from tests.compatibility.test_confluent_share import QUICK, set_group
from tests.support.broker_process import BrokerProcess

pytestmark = pytest.mark.crash

KILLS = int(os.environ.get("OTTLA_SHARE_KILLS", "12"))
SEED = int(os.environ.get("OTTLA_SHARE_SEED", "1"))
PARTITIONS = 2
WORKERS = 3
PATIENCE_S = 120.0
SETTINGS = {
    **QUICK,
    "group.share.min.session.timeout.ms": "2000",
    "group.share.session.timeout.ms": "3000",
    "group.share.record.lock.duration.ms": "1500",
    "group.share.max.delivery.count.limit": "25",
    "group.share.delivery.count.limit": "10",
    "offsets.topic.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "4",
}


class Journal:
    """What the workers wrote down."""

    def __init__(self, text: str) -> None:
        self.done: set[tuple[int, int]] = set()
        self.got: Counter[tuple[int, int]] = Counter()
        self.numbers: dict[tuple[int, int], str] = {}
        self.complaints: list[str] = []
        for line in text.splitlines():
            what, name, partition, offset, number, *deliveries = line.split()
            place = (int(partition), int(offset))
            self.numbers[place] = number
            if what == "done":
                self.done.add(place)
            else:
                if place in self.done:
                    self.complaints.append(f"{place} came to {name} ({deliveries[0]}) after it was done")
                self.got[place] += 1


def start(address: str, name: str, journal: Path) -> subprocess.Popen[bytes]:
    worker = Path(__file__).parent / "worker.py"
    with journal.with_name(f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(worker), address, "crew", "jobs", name, str(journal)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def test_nothing_acknowledged_comes_again_and_everything_comes(tmp_path: Path) -> None:
    dice = random.Random(SEED)
    path = tmp_path / "journal"
    path.touch()
    broker = BrokerProcess(SETTINGS, data_dir=tmp_path / "data")
    workers: list[subprocess.Popen[bytes]] = []
    kills: Counter[str] = Counter()
    sent = 0
    try:
        broker.start()
        create_topic(broker, "jobs", PARTITIONS)
        set_group(broker, "crew", share_auto_offset_reset="earliest", share_delivery_count_limit="20")
        producer = Producer(
            {"bootstrap.servers": broker.address, "enable.idempotence": True, "message.timeout.ms": 0, "log_level": 0}
        )
        workers = [start(broker.address, f"w{index}", path) for index in range(WORKERS)]
        while kills.total() < KILLS:
            for _ in range(dice.randint(50, 200)):
                producer.produce("jobs", str(sent), partition=sent % PARTITIONS)
                sent += 1
            producer.poll(0)
            await_progress(path, dice)
            if dice.random() < 0.5:
                broker.kill()
                kills["broker"] += 1
                broker.start()
            else:
                index = dice.randrange(WORKERS)
                workers[index].kill()
                workers[index].wait(30)
                kills["worker"] += 1
                workers[index] = start(broker.address, f"w{index}", path)
        assert producer.flush(60) == 0
        deadline = time.monotonic() + PATIENCE_S
        while len(Journal(path.read_text()).done) < sent:
            missing = sent - len(Journal(path.read_text()).done)
            assert time.monotonic() < deadline, f"{missing} of {sent} records were never acknowledged"
            time.sleep(0.5)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait(30)
        broker.close()
    journal = Journal(path.read_text())
    again = sum(count > 1 for count in journal.got.values())
    print(
        f"\n{kills.total()} kills ({dict(kills)}), {sent} records, all acknowledged, {again} of them delivered more than once"
    )
    assert {int(number) for number in journal.numbers.values()} == set(range(sent))
    assert journal.complaints == []


def await_progress(path: Path, dice: random.Random) -> None:
    """Wait until some more records are done, so that deaths come at work."""
    before = path.stat().st_size
    deadline = time.monotonic() + PATIENCE_S
    while path.stat().st_size == before:
        assert time.monotonic() < deadline, "nobody works"
        time.sleep(0.05)
    time.sleep(dice.random())
