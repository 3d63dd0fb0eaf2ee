"""Clients whose history is checked: transactions that commit, abort or crash, readers, and the members of two groups.

Each writes down in a `History` what it did and saw. Transactions put one to four new values into random partitions of one
topic; some first read the last record of a partition, as the transactions of Jepsen's list-append do. Two of the four that
write use librdkafka, two ottla's client; all that read use librdkafka.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from tests.campaigns.history import Commit, Done, History, Outcome, Place, Poll, Resume, Send, Transaction

import ottla

Answer = TypeVar("Answer")
TOPIC = "h"
PARTITIONS = 3
PLACES: list[Place] = [(TOPIC, index) for index in range(PARTITIONS)]
PAUSE_S = 0.1
SENDS_MAX = 4
#: How often a transaction is aborted by its program, its program ends in the middle, and a reader starts again.
ABORTED = 0.1
CRASHED = 0.03
BEGUN_AGAIN = 0.02
#: Longer than every fault.
PATIENCE_S = 300
GROUPS: dict[str, dict[str, str | int]] = {
    "h-classic": {"session.timeout.ms": 10_000},
    "h-consumer": {"group.protocol": "consumer"},
}


class Transactors:
    """All of them, from `start()` to `stop()`."""

    places = PLACES

    def __init__(self, bootstrap: str, seed: int) -> None:
        self.history = History()
        self.complaints: list[str] = []
        self.bootstrap = bootstrap
        self._seed = seed
        self._values = itertools.count()
        self._stopped = threading.Event()
        self._over = threading.Event()
        self._writers = [self._thread(self._write_with_librdkafka, n) for n in range(2)]
        self._writers += [self._thread(self._write_with_ottla, n) for n in range(2)]
        self._readers = [self._thread(self._read, 0)]
        self._readers += [self._thread(self._work, n, group) for group in GROUPS for n in range(2)]

    def create_topic(self) -> None:
        client = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        for future in client.create_topics([NewTopic(TOPIC, PARTITIONS, 3)], operation_timeout=30).values():
            future.result(60)

    def start(self) -> None:
        for thread in (*self._writers, *self._readers):
            thread.start()

    def stop(self) -> None:
        """End the writers, none with an open transaction, then the readers."""
        self._stopped.set()
        self._join(self._writers)
        self._over.set()
        self._join(self._readers)

    def _join(self, threads: list[threading.Thread]) -> None:
        for thread in threads:
            thread.join(PATIENCE_S + 60)
            if thread.is_alive():
                self.complaints.append(f"{thread.name} does not end")

    def _thread(self, run: Callable[..., None], number: int, *arguments: str) -> threading.Thread:
        name = "-".join((run.__name__.strip("_"), *arguments, str(number)))

        def noted() -> None:
            try:
                run(name, random.Random(f"{self._seed} {name}"), *arguments)
            except Exception as error:
                self.complaints.append(f"{name}: {error!r}")

        return threading.Thread(target=noted, name=name, daemon=True)

    def _plan(self, dice: random.Random) -> Iterator[Send]:
        for _ in range(dice.randint(1, SENDS_MAX)):
            yield Send(dice.choice(PLACES), next(self._values))

    # -- writers

    def _write_with_librdkafka(self, name: str, dice: random.Random) -> None:
        reader = Consumer(_consumer_settings(self.bootstrap))
        try:
            while not self._stopped.is_set():
                producer = Producer(
                    {**_common(self.bootstrap), "transactional.id": name, "transaction.timeout.ms": 60_000}
                )
                _persevere(lambda producer=producer: producer.init_transactions(30))  # type: ignore[misc]
                while not self._stopped.wait(PAUSE_S):
                    transaction = Transaction(name)
                    if dice.random() < 0.5:
                        _read_to_the_end(reader, dice.choice(PLACES), transaction)
                    self.history.transactions.append(transaction)
                    if not self._transact_with_librdkafka(producer, transaction, dice):
                        break
                else:
                    return
            # A crash's open transaction must end, or the last reader would not come past it.
            last = Producer({**_common(self.bootstrap), "transactional.id": name})
            _persevere(lambda: last.init_transactions(30))
        finally:
            reader.close()

    def _transact_with_librdkafka(self, producer: Producer, transaction: Transaction, dice: random.Random) -> bool:
        """Run one transaction; return whether the producer can run another one."""
        try:
            producer.begin_transaction()
            for send in self._plan(dice):
                transaction.sends.append(send)
                topic, partition = send.place
                producer.produce(topic, b"%d" % send.value, partition=partition, on_delivery=_noting(send))
                producer.poll(dice.choice((0, 0, 0.02)))
            if dice.random() < CRASHED:
                producer.poll(dice.choice((0, 0.2)))
                transaction.outcome = Outcome.FAILED
                return False
            if dice.random() < ABORTED:
                _persevere(lambda: producer.abort_transaction(30))
                transaction.outcome = Outcome.FAILED
                return True
            _persevere(lambda: producer.commit_transaction(30))
            transaction.outcome = Outcome.OK
        except KafkaException as error:
            if not error.args[0].txn_requires_abort() or not _aborts(producer):
                return False
            transaction.outcome = Outcome.FAILED
        return True

    def _write_with_ottla(self, name: str, dice: random.Random) -> None:
        reader = Consumer(_consumer_settings(self.bootstrap))
        try:
            while not self._stopped.is_set():
                with ottla.Producer(
                    self.bootstrap,
                    transactional_id=name,
                    max_block_ms=PATIENCE_S * 1000,
                    delivery_timeout_ms=PATIENCE_S * 1000,
                    request_timeout_ms=5_000,
                    retry_backoff_max_ms=300,
                    reconnect_backoff_max_ms=500,
                ) as producer:
                    while not self._stopped.wait(PAUSE_S):
                        transaction = Transaction(name)
                        if dice.random() < 0.5:
                            _read_to_the_end(reader, dice.choice(PLACES), transaction)
                        self.history.transactions.append(transaction)
                        if not self._transact_with_ottla(producer, transaction, dice):
                            break
        finally:
            reader.close()

    def _transact_with_ottla(
        self, producer: ottla.Producer[bytes | str, bytes | str], transaction: Transaction, dice: random.Random
    ) -> bool:
        deliveries: list[tuple[Send, ottla.Delivery]] = []
        aborts = dice.random() < ABORTED
        try:
            with producer.transaction() as running:
                for send in self._plan(dice):
                    transaction.sends.append(send)
                    topic, partition = send.place
                    deliveries.append((send, running.send(topic, b"%d" % send.value, partition=partition)))
                    time.sleep(dice.choice((0, 0, 0.02)))
                if aborts:
                    raise ottla.Abort
            transaction.outcome = Outcome.FAILED if aborts else Outcome.OK
        except ottla.TransactionAbortedError:
            transaction.outcome = Outcome.FAILED
        except ottla.KafkaError:
            return False
        finally:
            for send, delivery in deliveries:
                if delivery.done() and delivery.exception() is None:
                    send.offset = delivery.result().offset
        return True

    # -- readers

    def _read(self, name: str, dice: random.Random) -> None:
        """Read all committed records, from the beginning again from time to time."""
        for session in itertools.count():
            consumer = Consumer(_consumer_settings(self.bootstrap))
            consumer.assign([TopicPartition(topic, partition, 0) for topic, partition in PLACES])
            try:
                while not self._over.is_set() and dice.random() > BEGUN_AGAIN:
                    self._note(f"{name} {session}", consumer.consume(500, 0.5))
            finally:
                consumer.close()
            if self._over.is_set():
                return

    def _note(self, session: str, messages: list[Message]) -> dict[Place, int]:
        """Write down what was polled; return where the next records are."""
        rows: dict[Place, list[tuple[int, int]]] = {}
        for message in messages:
            if message.error() is None:
                place, offset, value = _row(message)
                rows.setdefault(place, []).append((offset, value))
        self.history.polls.extend(Poll(session, place, found) for place, found in rows.items())
        return {place: found[-1][0] + 1 for place, found in rows.items()}

    def _work(self, name: str, dice: random.Random, group: str) -> None:
        """Be a member of a group: read, and commit what was read; leave and come back from time to time."""
        for life in itertools.count():
            sessions = itertools.count()
            session = f"{name} {life}"

            def resumed(member: Consumer, partitions: list[TopicPartition]) -> None:
                nonlocal session
                session = f"{name} {life} {next(sessions)}"  # noqa: B023
                self._resume(member, partitions, group)

            consumer = Consumer({**_consumer_settings(self.bootstrap), "group.id": group, **GROUPS[group]})
            consumer.subscribe([TOPIC], on_assign=resumed)
            try:
                while not self._over.is_set() and dice.random() > BEGUN_AGAIN:
                    positions = self._note(session, consumer.consume(500, 0.5))
                    if positions and dice.random() < 0.5:
                        self._commit(consumer, positions, group)
            finally:
                consumer.close()
            if self._over.is_set():
                return

    def _resume(self, member: Consumer, partitions: list[TopicPartition], group: str) -> None:
        kept = _persevere(lambda: member.committed(partitions, timeout=30))
        for place in kept:
            offset = place.offset if place.offset >= 0 else None
            self.history.group.append(Resume(_of_group(group, place.partition), offset))
        if "group.protocol" in GROUPS[group]:
            member.incremental_assign(kept)
        else:
            member.assign(kept)

    def _commit(self, consumer: Consumer, positions: dict[Place, int], group: str) -> None:
        commits = [Commit(_of_group(group, partition), offset) for (_, partition), offset in positions.items()]
        self.history.group += commits
        asked = [TopicPartition(TOPIC, partition, offset) for (_, partition), offset in positions.items()]
        try:
            answers = consumer.commit(offsets=asked, asynchronous=False)
        except KafkaException:
            return
        assert answers is not None
        errors = {answer.partition: answer.error for answer in answers}
        for commit in commits:
            if errors[commit.place[1]] is None:
                commit.outcome = Outcome.OK
            self.history.group.append(Done(commit))


def _aborts(producer: Producer) -> bool:
    """Abort a transaction that could not be committed; return whether that could be done."""
    try:
        _persevere(lambda: producer.abort_transaction(30))
    except KafkaException:
        return False
    return True


def _of_group(group: str, partition: int) -> Place:
    return f"{group} of {TOPIC}", partition


def _persevere(call: Callable[[], Answer]) -> Answer:
    """Call again while the client says that this may help."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return call()
        except KafkaException as error:
            if not error.args[0].retriable() or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _read_to_the_end(reader: Consumer, place: Place, transaction: Transaction) -> None:
    """Note the last committed record of a partition; nothing if it cannot be read now."""
    where = TopicPartition(*place)
    try:
        _, end = reader.get_watermark_offsets(where, timeout=5)
        where.offset = max(0, end - 20)
        reader.assign([where])
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            for message in reader.consume(500, 0.5):
                if message.error() is None:
                    _, offset, value = _row(message)
                    transaction.reads[place] = (offset, value)
                elif message.error().code() == KafkaError._PARTITION_EOF:  # type: ignore[union-attr]
                    return
    except KafkaException:
        transaction.reads.pop(place, None)


def _noting(send: Send) -> Callable[[KafkaError | None, Message], None]:
    def note(error: KafkaError | None, message: Message) -> None:
        offset = message.offset()
        if error is None and offset is not None and offset >= 0:
            send.offset = offset

    return note


def _row(message: Message) -> tuple[Place, int, int]:
    topic, partition, offset, value = message.topic(), message.partition(), message.offset(), message.value()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    assert value is not None
    return (topic, partition), offset, int(value)


def _common(bootstrap: str) -> dict[str, str | int | float | bool]:
    return {
        "bootstrap.servers": bootstrap,
        "reconnect.backoff.max.ms": 500,
        "retry.backoff.max.ms": 300,
        "socket.timeout.ms": 10_000,
        "topic.metadata.refresh.interval.ms": 500,
        "log_level": 0,
    }


def _consumer_settings(bootstrap: str) -> dict[str, str | int | float | bool]:
    return {
        **_common(bootstrap),
        "group.id": "h-reader",
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
    }
