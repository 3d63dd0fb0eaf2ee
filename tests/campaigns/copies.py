"""Copy exactly once (consume, transform, produce, send offsets) while brokers and clients of three brokers are killed.

    python -m tests.campaigns.copies --kills 200

Two copiers are ottla's client, two librdkafka's, with a target topic and a group for each kind. Half of the kills are of a
broker (the coordinator of a group or a transaction, the leader of a partition, any), half of a copier. At the end of a round
each input must be in each target exactly once, for readers of committed records. Goes on where its state file ends.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition
from tests.campaigns.local_cluster import GROUP, TRANSACTION, LocalCluster
from tests.client.others import read_all
from tests.soak.seeds import commit

STATE = Path("build/campaigns/copies.json")
KILLS_PER_ROUND = 40
PER_SECOND = 150
PARTITIONS = 3
#: Nothing has been copied for so long, though all brokers and copiers run.
STUCK_AFTER_S = 90
CLIENTS = ("ottla", "librdkafka")
COPIERS = [(client, name) for client in CLIENTS for name in ("1", "2")]


class Feeder:
    """Puts numbers into the source topic until it is stopped."""

    def __init__(self, bootstrap: str) -> None:
        self.sent = 0
        self.failed: list[str] = []
        self._stopped = threading.Event()
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "enable.idempotence": True, "message.timeout.ms": 600_000, "log_level": 0}
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(1 / PER_SECOND):
            number = self.sent
            self._producer.produce(
                "source",
                b"%d" % number,
                b"%d" % (number % 50),
                on_delivery=lambda error, _: self.failed.append(str(error)) if error else None,
            )
            self.sent += 1
            self._producer.poll(0)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
        assert self._producer.flush(120) == 0
        assert self.failed == []


def start(cluster: LocalCluster, client: str, name: str) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "tests.campaigns.copier",
        client,
        cluster.bootstrap,
        "source",
        f"to-{client}",
        name,
    ]
    with (cluster.directory / f"copier-{client}-{name}.log").open("ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)


def run_round(seed: int, kills: int) -> dict[str, object]:
    dice = random.Random(seed)
    killed: Counter[str] = Counter()
    copiers: dict[tuple[str, str], subprocess.Popen[bytes]] = {}
    with LocalCluster() as cluster:
        try:
            for topic in ("source", *(f"to-{client}" for client in CLIENTS)):
                cluster.create_topic(topic, PARTITIONS)
            feeder = Feeder(cluster.bootstrap)
            copiers = {who: start(cluster, *who) for who in COPIERS}
            for _ in range(kills):
                time.sleep(dice.uniform(0.2, 3.0))
                client, name = dice.choice(COPIERS)
                what = dice.choice(["copier", "copier", "copier", "group", "transaction", "any"])
                if what == "copier":
                    copiers[client, name].kill()
                    copiers[client, name].wait()
                    copiers[client, name] = start(cluster, client, name)
                elif what == "group":
                    cluster.kill(cluster.coordinator(f"to-{client}-copiers", GROUP))
                elif what == "transaction":
                    cluster.kill(cluster.coordinator(f"to-{client}-{name}", TRANSACTION))
                else:
                    cluster.kill(dice.choice([1, 2, 3]))
                killed[what] += 1
                if what != "copier" and dice.random() < 0.7:  # else the next one may die before it is whole again
                    cluster.until_whole()
            feeder.stop()
            cluster.until_whole()
            wrong = {client: verdict(cluster, client, feeder.sent) for client in CLIENTS}
            for client, found in wrong.items():
                if any(found.values()):
                    for name in ("1", "2"):
                        log = cluster.directory / f"copier-{client}-{name}.log"
                        print(f"{log.name}:", *log.read_text(errors="replace").splitlines()[-30:], sep="\n  ")
                    print(cluster.up.output[-4_000:])
        finally:
            for process in copiers.values():
                process.kill()
                process.wait()
    return {"seed": seed, "commit": commit(), "killed": dict(killed), "inputs": feeder.sent, "wrong": wrong}


def verdict(cluster: LocalCluster, client: str, sent: int) -> dict[str, int]:
    """Wait as long as something is still copied; return what is missing, and what is there twice.

    What the copiers' group has not committed yet is not lost: they are stuck, which is counted apart.
    """
    expected = {2 * number for number in range(sent)}
    deadline = time.monotonic() + STUCK_AFTER_S
    most = 0
    while True:
        found = Counter(int(row.value or b"") for row in read_all(cluster.bootstrap, f"to-{client}", timeout_s=200))
        if len(found) > most:
            most, deadline = len(found), time.monotonic() + STUCK_AFTER_S
        if set(found) >= expected or time.monotonic() > deadline:
            break
        time.sleep(1)
    missing = len(expected - set(found))
    left = lag(cluster, f"to-{client}-copiers") if missing else 0
    twice = sum(count - 1 for count in found.values())
    return {
        "missing": max(0, missing - left),
        "stuck": min(left, missing),
        "twice": twice,
        "strange": len(set(found) - expected),
    }


def lag(cluster: LocalCluster, group: str) -> int:
    """Return how many records of the source a group has not committed."""
    reader = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": group, "log_level": 0})
    try:
        places = [TopicPartition("source", index) for index in range(PARTITIONS)]
        ends = [reader.get_watermark_offsets(place, timeout=30)[1] for place in places]
        done = [max(0, place.offset) for place in reader.committed(places, timeout=30)]
        print(f"{group} has committed {done} of {ends}", flush=True)
        return sum(ends) - sum(done)
    finally:
        reader.close()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.copies", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--kills", type=int, default=200, help="how many, those of the state file included")
    parser.add_argument("--rounds", type=int, default=1_000, help="at most so many rounds now")
    parser.add_argument("--state", type=Path, default=STATE)
    asked = parser.parse_args(arguments)
    rounds = json.loads(asked.state.read_text()) if asked.state.exists() else []
    for _ in range(asked.rounds):
        done = sum(sum(one["killed"].values()) for one in rounds)
        if done >= asked.kills:
            break
        rounds.append(run_round(len(rounds), min(KILLS_PER_ROUND, asked.kills - done)))
        asked.state.parent.mkdir(parents=True, exist_ok=True)
        asked.state.write_text(json.dumps(rounds, indent=1) + "\n")
        print(rounds[-1], flush=True)
    killed: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for one in rounds:
        killed.update(one["killed"])
        for found in one["wrong"].values():
            wrong.update(found)
    inputs = sum(one["inputs"] for one in rounds)
    print(f"{killed.total()} kills {dict(killed)}, {inputs:,} inputs copied by each client; {dict(wrong)}")
    return 1 if wrong.total() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
