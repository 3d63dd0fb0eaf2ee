"""Kill the coordinator of a group again and again: groups of both protocols and a share group must keep what they know.

    python -m tests.campaigns.coordinators --deaths 100

Two groups of librdkafka consumers (classic, and KIP-848) read a topic of a `cluster up`, and Kafka's share consumer
another group's share of it. After each death the new coordinator must know every committed offset and the same members; no
member may be sent through a rebalance. At the end the share group must have got every record and have nothing left to do,
and none may have come again after its acknowledgement was confirmed. Goes on where its state file ends.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from tests.campaigns.load import kafka_tool
from tests.campaigns.local_cluster import GROUP, SHARE, LocalCluster
from tests.soak.seeds import commit

STATE = Path("build/campaigns/coordinators.json")
DEATHS_PER_ROUND = 20
PER_SECOND = 100
PARTITIONS = 4
TOPIC = "work"
CLASSIC, CONSUMER, SHARED = "classic", "consumer", "share"


class Feeder:
    """Puts numbers into the topic; `sent` counts what was acknowledged."""

    def __init__(self, bootstrap: str) -> None:
        self.acknowledged: dict[int, set[int]] = defaultdict(set)
        self._stopped = threading.Event()
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "enable.idempotence": True, "message.timeout.ms": 600_000, "log_level": 0}
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stopped.wait(1 / PER_SECOND):
            self._producer.produce(TOPIC, b"%d" % number, partition=number % PARTITIONS, on_delivery=self._note)
            number += 1
            self._producer.poll(0)

    def _note(self, error: object, message: Any) -> None:
        assert error is None, error
        self.acknowledged[message.partition()].add(message.offset())

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
        assert self._producer.flush(120) == 0


class Member:
    """One consumer of a group; commits what it has read, and remembers what it was told is committed."""

    def __init__(self, bootstrap: str, group: str, protocol: str) -> None:
        self.told: dict[int, int] = {}
        self.rebalances = 0
        self.errors: Counter[str] = Counter()
        self._stopped = threading.Event()
        settings: dict[str, Any] = {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "reconnect.backoff.max.ms": 500,
            "log_level": 0,
        }
        if protocol == CONSUMER:
            settings["group.protocol"] = "consumer"
        self._consumer = Consumer(settings)
        self._consumer.subscribe([TOPIC], on_assign=self._count, on_revoke=self._count, on_lost=self._count)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _count(self, _consumer: object, _partitions: object) -> None:
        self.rebalances += 1

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stopped.is_set():
            self._consumer.consume(100, 0.1)
            if time.monotonic() < due:
                continue
            due = time.monotonic() + 0.5
            positions = [p for p in self._consumer.position(self._consumer.assignment()) if p.offset >= 0]
            if not positions:
                continue
            try:
                for place in self._consumer.commit(offsets=positions, asynchronous=False) or []:
                    if place.error is None:
                        self.told[place.partition] = place.offset
            except KafkaException as error:
                self.errors[str(error.args[0].name())] += 1

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(60)
        self._consumer.close()


class SharedReader:
    """Kafka's verifiable share consumer, and what it says."""

    def __init__(self, bootstrap: str, group: str) -> None:
        self.acknowledged: dict[int, set[int]] = defaultdict(set)
        self.delivered: dict[int, set[int]] = defaultdict(set)
        self.refused = 0
        self.again = 0
        self._process = kafka_tool(
            *(
                "kafka-verifiable-share-consumer",
                "--bootstrap-server",
                bootstrap,
                "--topic",
                TOPIC,
                "--group-id",
                group,
            ),
            *("--offset-reset-strategy", "earliest", "--acknowledgement-mode", "sync", "--verbose"),
        )
        self._thread = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._thread.start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith("{"):
                continue
            event = json.loads(line)
            if event["name"] == "record_data":
                self.again += event["offset"] in self.acknowledged[event["partition"]]
                self.delivered[event["partition"]].add(event["offset"])
            elif event["name"] == "offsets_acknowledged" and not event.get("success", True):
                self.refused += sum(len(row["offsets"]) for row in event["partitions"])
            elif event["name"] == "offsets_acknowledged":
                for row in event["partitions"]:
                    self.acknowledged[row["partition"]].update(row["offsets"])

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(30)
        self._thread.join(30)


def members_of(cluster: LocalCluster, group: str) -> tuple[str, set[str]]:
    client = cluster.admin()
    found = client.describe_consumer_groups([group], request_timeout=20)[group].result(30)
    return found.state.name, {member.member_id for member in found.members}


def committed(cluster: LocalCluster, group: str) -> dict[int, int]:
    client = cluster.admin()
    places = [TopicPartition(TOPIC, index) for index in range(PARTITIONS)]
    asked = [ConsumerGroupTopicPartitions(group, places)]
    found = client.list_consumer_group_offsets(asked, request_timeout=20)[group].result(30)
    return {place.partition: place.offset for place in found.topic_partitions}


def again_and_again(what: Any, seconds: float = 60) -> Any:
    """Call until it succeeds: the new coordinator may be loading."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return what()
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def run_round(seed: int, deaths: int) -> dict[str, object]:
    dice = random.Random(seed)
    wrong: Counter[str] = Counter()
    killed: Counter[str] = Counter()
    notes: list[str] = []
    with LocalCluster() as cluster:
        cluster.create_topic(TOPIC, PARTITIONS)
        feeder = Feeder(cluster.bootstrap)
        members = {group: [Member(cluster.bootstrap, group, group) for _ in range(2)] for group in (CLASSIC, CONSUMER)}
        reader = SharedReader(cluster.bootstrap, SHARED)
        try:
            until_stable(cluster, members, reader)
            rebalances = {group: sum(m.rebalances for m in rows) for group, rows in members.items()}
            for number in range(deaths):
                time.sleep(dice.uniform(0.2, 1.5))
                group = (CLASSIC, CONSUMER, SHARED, "share state")[number % 4]
                if group in members:
                    before = members_of(cluster, group)
                    told = {p: offset for member in members[group] for p, offset in list(member.told.items())}
                    cluster.kill(cluster.coordinator(group, GROUP))
                    found = again_and_again(lambda group=group: committed(cluster, group))
                    forgotten = {p: (o, found.get(p)) for p, o in told.items() if found.get(p, -1) < o}
                    wrong["committed offsets forgotten"] += len(forgotten)
                    after = again_and_again(lambda group=group: members_of(cluster, group))
                    wrong["members forgotten"] += len(before[1] - after[1])
                    if forgotten or before[1] - after[1]:
                        notes.append(f"death {number + 1} of {group}: {forgotten} {before} {after}")
                elif group == SHARED:
                    cluster.kill(cluster.coordinator(SHARED, GROUP))
                else:
                    key = f"{SHARED}:{topic_id(cluster)}:{dice.randrange(PARTITIONS)}"
                    cluster.kill(cluster.coordinator(key, SHARE))
                killed[group] += 1
                cluster.until_whole()
            feeder.stop()
            wrong["not delivered to the share group"] += until_delivered(feeder, reader)
            wrong["share partitions that are not done"] += until_done(cluster)
            wrong["delivered again after it was acknowledged"] += reader.again
            wrong["share consumers that ended"] += not reader.is_running
            for group, rows in members.items():
                wrong[f"rebalances, {group}"] += sum(m.rebalances for m in rows) - rebalances[group]
        finally:
            reader.stop()
            for rows in members.values():
                for member in rows:
                    member.stop()
    errors: Counter[str] = Counter()
    for rows in members.values():
        for member in rows:
            errors.update(member.errors)
    records = sum(map(len, feeder.acknowledged.values()))
    return {
        "seed": seed,
        "commit": commit(),
        "killed": dict(killed),
        "records": records,
        "wrong": dict(+wrong),
        "acknowledgements without a good answer": reader.refused,
        "notes": notes,
        "commits that failed and were made again": dict(errors),
    }


def until_stable(cluster: LocalCluster, members: dict[str, list[Member]], reader: SharedReader) -> None:
    """Wait until all have what they shall have: two members each that have committed, and a share group that reads."""
    deadline = time.monotonic() + 120
    while True:
        stable = [again_and_again(lambda group=group: members_of(cluster, group)) for group in members]
        told = [{p for member in rows for p in member.told} for rows in members.values()]
        if (
            all(state == "STABLE" and len(ids) == 2 for state, ids in stable)
            and all(len(partitions) == PARTITIONS for partitions in told)
            and reader.acknowledged
        ):
            return
        assert time.monotonic() < deadline, (stable, told, dict(reader.acknowledged))
        time.sleep(0.5)


def until_delivered(feeder: Feeder, reader: SharedReader) -> int:
    """Wait until the share group has got every record; return how many it has not got.

    An acknowledgement whose answer a death has eaten may be in force: the record need not be delivered again, and
    `until_done` tells it from one that is lost.
    """
    deadline = time.monotonic() + 120
    while True:
        missing = sum(len(offsets - reader.delivered[index]) for index, offsets in feeder.acknowledged.items())
        if not missing or time.monotonic() > deadline:
            return missing
        time.sleep(0.5)


def until_done(cluster: LocalCluster) -> int:
    """Wait until nothing is left for the share group to do, by Kafka's tool; return in how many partitions something is."""
    deadline = time.monotonic() + 120
    while True:
        tool = kafka_tool(
            "kafka-share-groups", "--bootstrap-server", cluster.bootstrap, "--describe", "--offsets", "--group", SHARED
        )
        said, _ = tool.communicate(timeout=120)
        rows = [line.split() for line in said.splitlines() if line.strip()]
        header = next((row for row in rows if "LAG" in row), [])
        lags = [row[header.index("LAG")] for row in rows if header and row[0] == SHARED]
        behind = PARTITIONS - lags.count("0")
        if not behind or time.monotonic() > deadline:
            return behind
        time.sleep(1)


def topic_id(cluster: LocalCluster) -> str:
    client = cluster.admin()
    found = client.describe_topics(TopicCollection([TOPIC]))[TOPIC].result(30)
    return str(found.topic_id).replace("+", "-").replace("/", "_")  # as Kafka writes ids


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.coordinators", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--deaths", type=int, default=100, help="how many, those of the state file included")
    parser.add_argument("--rounds", type=int, default=1_000, help="at most so many rounds now")
    parser.add_argument("--state", type=Path, default=STATE)
    asked = parser.parse_args(arguments)
    rounds = json.loads(asked.state.read_text()) if asked.state.exists() else []
    for _ in range(asked.rounds):
        done = sum(sum(one["killed"].values()) for one in rounds)
        if done >= asked.deaths:
            break
        rounds.append(run_round(len(rounds), min(DEATHS_PER_ROUND, asked.deaths - done)))
        asked.state.parent.mkdir(parents=True, exist_ok=True)
        asked.state.write_text(json.dumps(rounds, indent=1) + "\n")
        print(rounds[-1], flush=True)
    killed: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for one in rounds:
        killed.update(one["killed"])
        wrong.update(one["wrong"])
    print(f"{killed.total()} deaths {dict(killed)}, {sum(one['records'] for one in rounds):,} records; {dict(wrong)}")
    return 1 if wrong.total() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
