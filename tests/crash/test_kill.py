"""kill -9 under load, again and again: nothing acknowledged is lost, nothing comes twice, every key keeps its order.

At least a third of the deaths happen inside an append, a roll, a snapshot, a compaction or a recovery: failpoints kill
the broker there by itself. OTTLA_CRASH_KILLS sets how many deaths (default 200, about five minutes).
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
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from tests.crash.verdict import complaints_about_compacted, complaints_about_log, read_journal, read_topic
from tests.support.broker_process import BrokerProcess

pytestmark = pytest.mark.crash

KILLS = int(os.environ.get("OTTLA_CRASH_KILLS", "200"))
SEED = int(os.environ.get("OTTLA_CRASH_SEED", "1"))
PARTITIONS = 3

SETTINGS = {
    "log.cleaner.backoff.ms": "100",
    "log.cleaner.min.cleanable.ratio": "0.05",
    "log.initial.task.delay.ms": "50",
    "log.segment.delete.delay.ms": "100",
    "log.flush.offset.checkpoint.interval.ms": "300",
    "log.index.interval.bytes": "2000",
}

#: Where a broker dies by itself, and with which chance at each visit.
FAILPOINTS = {
    "log.append.before": 0.01,
    "log.append.partial": 0.01,
    "log.roll": 0.5,
    "log.snapshot": 0.5,
    "log.flush": 0.3,
    "log.swap": 0.5,
    "log.swap.rename": 0.5,
    "log.unlink": 0.3,
    "clean.write": 0.5,
    "clean.sync": 0.5,
    "recovery.segment": 0.3,
}


def start_load(broker: BrokerProcess, journal: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.crash.load", broker.address, str(journal)], stdin=subprocess.PIPE
    )


def stop_load(load: subprocess.Popen[bytes]) -> None:
    assert load.stdin is not None
    load.stdin.close()
    load.wait(150)


def create_topics(broker: BrokerProcess) -> None:
    admin = AdminClient({"bootstrap.servers": broker.address, "log_level": 0})
    small = {"segment.bytes": str(1 << 20)}
    topics = [
        NewTopic("crash-log", PARTITIONS, 1, config=small),
        NewTopic("crash-compact", PARTITIONS, 1, config={**small, "cleanup.policy": "compact"}),
    ]
    for future in admin.create_topics(topics).values():
        future.result(30)


def live_and_die(broker: BrokerProcess, dice: random.Random) -> str:
    """Start the broker, let it work for a moment, see it die; how it died."""
    try:
        broker.start()
        broker.wait_until_dead(timeout_s=dice.uniform(0.2, 1.2) if not broker.environment else 4.0)
    except subprocess.TimeoutExpired:
        broker.kill()
        return "killed from outside"
    except RuntimeError:  # it died before it was ready: recovery has failpoints too
        pass
    assert broker.returncode == -9, f"the broker ended by itself, code {broker.returncode}:\n{broker.output[-4000:]}"
    return "failpoint"


def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path: Path) -> None:
    dice = random.Random(SEED)
    hits, journal_path = tmp_path / "hits.txt", tmp_path / "journal.txt"
    hits.touch()
    deaths: Counter[str] = Counter()
    broker = BrokerProcess(SETTINGS, data_dir=tmp_path / "data")
    load = None
    try:
        broker.start()
        create_topics(broker)
        load = start_load(broker, journal_path)
        await_first_acknowledgement(journal_path)
        broker.kill()
        deaths["killed from outside"] += 1
        while sum(deaths.values()) < KILLS:
            broker.environment = failpoint_environment(dice, hits) if dice.random() < 0.6 else {}
            deaths[live_and_die(broker, dice)] += 1
            assert load.poll() is None, "the load ended"
        broker.environment = {}
        broker.start()
        stop_load(load)
        journal = read_journal(journal_path)
        log, compacted = (read_topic(broker.address, topic, PARTITIONS) for topic in ("crash-log", "crash-compact"))
        broker.terminate()
    finally:
        if load is not None:
            load.kill()
        broker.close()
    places = Counter(hits.read_text().split())
    print(f"\n{KILLS} kills: {dict(deaths)}; failpoints {dict(places)}; {journal.count} records acknowledged")
    assert journal.done
    assert journal.failures == []
    assert journal.count > 100 * KILLS, "there was hardly any load"
    assert complaints_about_log(journal, log, "crash-log") == []
    assert complaints_about_compacted(journal, compacted, "crash-compact") == []
    assert sum(places.values()) >= 0.3 * KILLS, f"too few deaths in the middle of something: {places}"


def failpoint_environment(dice: random.Random, hits: Path) -> dict[str, str]:
    """Two of the places where a broker may die in this life."""
    names = dice.sample(sorted(FAILPOINTS), 2)
    rules = ",".join(f"{name}={FAILPOINTS[name]}:kill" for name in names)
    return {"OTTLA_FAILPOINTS": f"{rules};seed={dice.randrange(1 << 30)};count={hits}"}


def await_first_acknowledgement(journal: Path, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not journal.exists() or not journal.stat().st_size:
        assert time.monotonic() < deadline, "nothing was acknowledged"
        time.sleep(0.05)
