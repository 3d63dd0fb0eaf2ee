"""Transactions: producers, partitions, offsets, ends, markers by hand, and what administrators see of them."""

from __future__ import annotations

from typing import Any

from tests.compatibility.differential.oracle import Tree
from tests.compatibility.differential.scenarios.groups import Group, ready_coordinator, subscription
from tests.compatibility.differential.script import (
    batch,
    create_topic,
    produce_request,
    versions,
)
from tests.compatibility.differential.wire import Wire

from ottla.protocol.api import ApiKey
from ottla.protocol.messages import describe_producers
from ottla.protocol.messages.add_offsets_to_txn import AddOffsetsToTxnRequest
from ottla.protocol.messages.add_partitions_to_txn import (
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnTopic,
    AddPartitionsToTxnTransaction,
)
from ottla.protocol.messages.describe_transactions import DescribeTransactionsRequest
from ottla.protocol.messages.end_txn import EndTxnRequest
from ottla.protocol.messages.fetch import FetchPartition, FetchRequest, FetchTopic
from ottla.protocol.messages.find_coordinator import FindCoordinatorRequest
from ottla.protocol.messages.init_producer_id import InitProducerIdRequest
from ottla.protocol.messages.list_transactions import ListTransactionsRequest
from ottla.protocol.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopics,
)
from ottla.protocol.messages.txn_offset_commit import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitRequestPartition,
    TxnOffsetCommitRequestTopic,
)
from ottla.protocol.messages.write_txn_markers import (
    WritableTxnMarker,
    WritableTxnMarkerTopic,
    WriteTxnMarkersRequest,
)

#: Nobody has it; the rule that names producer ids lets it be.
NOBODY = 4_000
TIMEOUT_MS = 60_000
AT_REST = ("Empty", "CompleteCommit", "CompleteAbort")
#: The last versions of the clients of transaction version 1.
ADD, END, TXN_COMMIT = 3, 4, 4


class Transactional:
    """Requests of one transactional id, with the identity that the broker gave it."""

    def __init__(self, wire: Wire, name: str) -> None:
        self.wire = wire
        self.name = name
        self.producer_id = -1
        self.epoch = -1
        wire.settle(f"the coordinator of {name}", lambda: self.state() != "")

    def init(self, label: str | None, version: int = 5, **fields: Any) -> Tree:
        defaults: dict[str, Any] = {"transactional_id": self.name, "transaction_timeout_ms": TIMEOUT_MS}
        return self.wire.ask(label, InitProducerIdRequest(**{**defaults, **fields}), version)

    def begin(self, label: str | None = None, version: int = 5, **fields: Any) -> None:
        """Become the producer of this id, by asking as often as it needs."""
        found: Tree = Tree()

        def is_there() -> bool:
            nonlocal found
            found = self.init(None, version, **fields)
            return bool(found.error_code == "NONE")

        self.wire.settle(f"{self.name} has a producer", is_there)
        if label is not None:
            found = self.init(label, version, **fields)
        self.producer_id, self.epoch = found.producer_id, found.producer_epoch

    def identity(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Transactional id, producer id and epoch, as far as they are not given."""
        return {"transactional_id": self.name, "producer_id": self.producer_id, "producer_epoch": self.epoch, **fields}

    def add(self, label: str | None, topics: dict[str, list[int]], version: int = ADD, **fields: Any) -> Tree:
        rows = [AddPartitionsToTxnTopic(name=name, partitions=indexes) for name, indexes in topics.items()]
        who = self.identity(fields)
        if version >= 4:
            message = AddPartitionsToTxnRequest(transactions=[AddPartitionsToTxnTransaction(topics=rows, **who)])
        else:
            old = {f"v3_and_below_{name}": value for name, value in who.items()}
            message = AddPartitionsToTxnRequest(v3_and_below_topics=rows, **old)
        return self.wire.ask(label, message, version)

    def add_offsets(self, label: str | None, group: str, version: int = 3, **fields: Any) -> Tree:
        return self.wire.ask(label, AddOffsetsToTxnRequest(group_id=group, **self.identity(fields)), version)

    def commit_offsets(
        self,
        label: str | None,
        group: str,
        offsets: dict[str, dict[int, int]],
        version: int = TXN_COMMIT,
        **fields: Any,
    ) -> Tree:
        metadata = fields.pop("metadata", "")
        topics = [
            TxnOffsetCommitRequestTopic(
                name=topic,
                partitions=[
                    TxnOffsetCommitRequestPartition(
                        partition_index=index, committed_offset=offset, committed_metadata=metadata
                    )
                    for index, offset in rows.items()
                ],
            )
            for topic, rows in offsets.items()
        ]
        message = TxnOffsetCommitRequest(group_id=group, topics=topics, **self.identity(fields))
        return self.wire.ask(label, message, version)

    def end(self, label: str | None, *, commit: bool, version: int = END, **fields: Any) -> Tree:
        answer = self.wire.ask(label, EndTxnRequest(committed=commit, **self.identity(fields)), version)
        if version >= 5 and answer.get("error_code") == "NONE" and not fields:
            self.producer_id, self.epoch = answer.producer_id, answer.producer_epoch
        return answer

    def settle(self) -> None:
        """Wait until the markers of the last transaction are written."""
        self.wire.settle(f"{self.name} at rest", lambda: self.state() in AT_REST)

    def state(self) -> str:
        answer = self.wire.ask(None, DescribeTransactionsRequest(transactional_ids=[self.name]), 0, on="aside")
        row = answer.transaction_states[0]
        if row.error_code == "TRANSACTIONAL_ID_NOT_FOUND":
            return "Unknown"
        state: str = row.transaction_state
        return state

    def describe(self, label: str) -> None:
        self.wire.ask(label, DescribeTransactionsRequest(transactional_ids=[self.name]), 0)

    def produce(
        self, label: str | None, topic: str, topic_id: bytes, *, sequence: int, version: int, **fields: Any
    ) -> Tree:
        who = self.identity(fields)
        data = batch(
            producer_id=who["producer_id"],
            producer_epoch=who["producer_epoch"],
            base_sequence=sequence,
            transactional=True,
        )
        message = produce_request(
            topic,
            topic_id,
            [data],
            transactional_id=who["transactional_id"],
            first_partition=fields.get("partition", 0),
        )
        return self.wire.ask(label, message, version)


def ready_transactions(wire: Wire) -> None:
    """The first FindCoordinator makes Kafka create `__transaction_state`: wait for it outside the transcript."""
    ready_coordinator(wire)

    def is_there() -> bool:
        answer = wire.ask(None, FindCoordinatorRequest(key="any", key_type=1), 3, on="aside")
        if answer.error_code != "NONE":
            return False
        names = [f"t{number}" for number in range(200)]
        described = wire.ask(None, DescribeTransactionsRequest(transactional_ids=names), 0, on="aside")
        return all(row.error_code == "TRANSACTIONAL_ID_NOT_FOUND" for row in described.transaction_states)

    wire.settle("the topic of transactions", is_there)

    def has_ids() -> bool:  # Kafka's broker has none at hand when it is asked for the first time
        message = InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=-1)
        return bool(wire.ask(None, message, 4, on="aside").error_code == "NONE")

    wire.settle("producer ids", has_ids)


def producers(wire: Wire) -> None:
    ready_transactions(wire)
    for version in versions(ApiKey.INIT_PRODUCER_ID):
        one = Transactional(wire, f"init-{version}")
        first = one.init("new", version)
        one.init("again", version)
        one.init("timeout 0", version, transaction_timeout_ms=0)
        one.init("timeout -1", version, transaction_timeout_ms=-1)
        one.init("timeout above the limit", version, transaction_timeout_ms=900_001)
        one.init("timeout at the limit", version, transaction_timeout_ms=900_000)
        if version < 3:
            continue
        producer_id = first.producer_id
        one.init("resumes the epoch", version, producer_id=producer_id, producer_epoch=2)
        one.init("repeats that", version, producer_id=producer_id, producer_epoch=2)
        one.init("an old epoch", version, producer_id=producer_id, producer_epoch=0)
        one.init("a future epoch", version, producer_id=producer_id, producer_epoch=9)
        one.init("another producer id", version, producer_id=NOBODY, producer_epoch=3)
        one.init("an id without an epoch", version, producer_id=producer_id, producer_epoch=-1)
        one.init("an epoch without an id", version, producer_id=-1, producer_epoch=3)
        other = Transactional(wire, f"init-unknown-{version}")
        other.init("resumes what nobody knows", version, producer_id=NOBODY, producer_epoch=3)
        one.describe(f"after v{version}")


def adding(wire: Wire) -> None:
    ready_transactions(wire)
    create_topic(wire, "txn-added", 3)
    for version in versions(ApiKey.ADD_PARTITIONS_TO_TXN):
        one = Transactional(wire, f"add-{version}")
        one.add("unknown transactional id", {"txn-added": [0]}, version, producer_id=NOBODY, producer_epoch=0)
        one.begin()
        one.begin()
        one.add("one", {"txn-added": [0]}, version)
        one.add("the same again", {"txn-added": [0]}, version)
        one.add("two more", {"txn-added": [1, 2]}, version)
        one.add("nothing", {}, version)
        one.add("unknown topic", {"nowhere": [0]}, version)
        one.add("partition 9", {"txn-added": [9]}, version)
        one.add("known and unknown", {"txn-added": [0, 9], "nowhere": [0]}, version)
        one.add("old epoch", {"txn-added": [0]}, version, producer_epoch=one.epoch - 1)
        one.add("future epoch", {"txn-added": [0]}, version, producer_epoch=one.epoch + 1)
        one.add("another producer id", {"txn-added": [0]}, version, producer_id=NOBODY)
        one.add("no transactional id", {"txn-added": [0]}, version, transactional_id="")
        if version >= 4:
            one.add("only asks", {"txn-added": [0]}, version, verify_only=True)
            one.add("only asks, old epoch", {"txn-added": [0]}, version, verify_only=True, producer_epoch=-1)
            one.end("of version 2", commit=True, version=5)
            one.settle()
            one.add("only asks after the end", {"txn-added": [0, 1]}, version, verify_only=True)
            one.add("only asks of an unknown id", {"txn-added": [0]}, version, verify_only=True, transactional_id="no")
            wire.ask("no transactions", AddPartitionsToTxnRequest(), version, patience_s=2.0)
            rows = [AddPartitionsToTxnTopic(name="txn-added", partitions=[1])]
            both = [
                AddPartitionsToTxnTransaction(topics=rows, **one.identity({})),
                AddPartitionsToTxnTransaction(topics=rows, **one.identity({"transactional_id": "nobody"})),
            ]
            wire.ask("two transactions", AddPartitionsToTxnRequest(transactions=both), version)
        one.end(None, commit=False, version=4 if version < 4 else 5)
        one.settle()
        one.describe(f"after v{version}")


def ending(wire: Wire) -> None:
    ready_transactions(wire)
    create_topic(wire, "txn-ended", 2)
    for version in versions(ApiKey.END_TXN):
        one = Transactional(wire, f"end-{version}")
        adds = 3 if version < 5 else 5
        for commit in (True, False):
            word = "commit" if commit else "abort"
            one.end(f"{word}, unknown", commit=commit, version=version, transactional_id=f"nobody-{version}")
        one.begin()
        one.end("commits nothing", commit=True, version=version)
        one.end("aborts nothing", commit=False, version=version)
        one.settle()
        for commit in (True, False):
            word, other = ("commit", "abort") if commit else ("abort", "commit")
            one.add(None, {"txn-ended": [0, 1]}, adds)
            one.describe(f"before {word}")
            one.end(f"{word}, old epoch", commit=commit, version=version, producer_epoch=one.epoch - 1)
            one.end(f"{word}, future epoch", commit=commit, version=version, producer_epoch=one.epoch + 1)
            one.end(f"{word}, another producer", commit=commit, version=version, producer_id=NOBODY)
            one.end(f"{word}, empty id", commit=commit, version=version, transactional_id="")
            before = {"producer_id": one.producer_id, "producer_epoch": one.epoch}
            one.end(word, commit=commit, version=version)
            one.settle()
            one.end(f"{word} repeated", commit=commit, version=version, **before)
            one.end(f"{other} after {word}", commit=not commit, version=version, **before)
            one.describe(f"after {word}")


def fencing(wire: Wire) -> None:
    ready_transactions(wire)
    topic_id = create_topic(wire, "txn-fenced")
    for version in (2, 5):
        one, two = Transactional(wire, f"fence-{version}"), Transactional(wire, f"fence-{version}")
        one.begin(version=version)
        one.add("the first begins", {"txn-fenced": [0]})
        one.produce("the first writes", "txn-fenced", topic_id, sequence=0, version=9)
        two.init("the second comes", version)
        two.begin(version=version)
        one.describe("what the second found")
        one.add("the first goes on", {"txn-fenced": [0]})
        one.add("the first goes on, as an old client", {"txn-fenced": [0]}, 1)
        one.produce("the first writes on", "txn-fenced", topic_id, sequence=3, version=9)
        one.add_offsets("the first adds offsets", "group-fenced")
        one.add_offsets("the first adds offsets, as an old client", "group-fenced", 1)
        one.end("the first commits", commit=True)
        one.end("the first commits, as an old client", commit=True, version=1)
        one.end("the first commits, version 2", commit=True, version=5)
        if version == 5:
            one.init("the first resumes", producer_id=one.producer_id, producer_epoch=one.epoch)
            two.init("the second resumes", producer_id=two.producer_id, producer_epoch=two.epoch)


def writing(wire: Wire) -> None:
    """Data of transactions, of both versions; what read_committed shows of it."""
    ready_transactions(wire)
    for version in versions(ApiKey.PRODUCE):
        topic = f"txn-written-{version}"
        topic_id = create_topic(wire, topic, 2)
        one = Transactional(wire, f"write-{version}")
        one.produce("unknown id", topic, topic_id, sequence=0, version=version, producer_id=NOBODY, producer_epoch=0)
        one.begin()
        one.produce("not added", topic, topic_id, sequence=0, version=version)
        if version < 12:
            one.add(None, {topic: [0]})
        one.produce("the first batch", topic, topic_id, sequence=0, version=version)
        one.produce("the second", topic, topic_id, sequence=3, version=version)
        one.produce("a duplicate", topic, topic_id, sequence=3, version=version)
        one.produce("no transactional id", topic, topic_id, sequence=6, version=version, transactional_id=None)
        one.produce("other transactional id", topic, topic_id, sequence=6, version=version, transactional_id="nobody")
        one.produce("a gap", topic, topic_id, sequence=30, version=version)
        one.produce("old epoch", topic, topic_id, sequence=6, version=version, producer_epoch=one.epoch - 1)
        one.produce("future epoch", topic, topic_id, sequence=0, version=version, producer_epoch=one.epoch + 1)
        one.produce("another producer", topic, topic_id, sequence=0, version=version, producer_id=NOBODY)
        fetch(wire, "while it is open", topic, topic_id)
        producers_of(wire, "while it is open", topic, [0])
        one.describe(f"while it is open, v{version}")
        one.end(None, commit=False, version=4 if version < 12 else 5)
        one.settle()
        fetch(wire, "after the abort", topic, topic_id)
        producers_of(wire, "after the abort", topic, [0, 1])


def fetch(wire: Wire, label: str, topic: str, topic_id: bytes) -> None:
    for isolation, name in ((0, "uncommitted"), (1, "committed")):
        row = FetchPartition(partition=0, fetch_offset=0, partition_max_bytes=1 << 20)
        message = FetchRequest(
            max_wait_ms=0,
            min_bytes=0,
            isolation_level=isolation,
            topics=[FetchTopic(topic=topic, topic_id=topic_id, partitions=[row])],
        )
        wire.ask(f"{label}: {name}", message, 12)


def producers_of(wire: Wire, label: str, topic: str, indexes: list[int]) -> None:
    rows = [describe_producers.TopicRequest(name=topic, partition_indexes=indexes)]
    wire.ask(f"producers {label}", describe_producers.DescribeProducersRequest(topics=rows), 0)


def offsets(wire: Wire) -> None:
    ready_transactions(wire)
    create_topic(wire, "txn-offsets", 3)

    def committed(label: str, group: str, *, stable: bool) -> None:
        topics = [OffsetFetchRequestTopics(name="txn-offsets", partition_indexes=[0, 1, 2])]
        groups = [OffsetFetchRequestGroup(group_id=group, topics=topics)]
        wire.ask(label, OffsetFetchRequest(groups=groups, require_stable=stable), 8)

    for version in versions(ApiKey.ADD_OFFSETS_TO_TXN):
        one = Transactional(wire, f"add-offsets-{version}")
        one.add_offsets("unknown id", "g", version, producer_id=NOBODY, producer_epoch=0)
        one.begin()
        one.add_offsets("a group", f"txn-group-{version}", version)
        one.add_offsets("the same group", f"txn-group-{version}", version)
        one.add_offsets("the empty group", "", version)
        one.add_offsets("old epoch", "g", version, producer_epoch=one.epoch - 1)
        one.add_offsets("future epoch", "g", version, producer_epoch=one.epoch + 1)
        one.add_offsets("another producer", "g", version, producer_id=NOBODY)
        one.add_offsets("no transactional id", "g", version, transactional_id="")
        one.end(None, commit=False)
        one.settle()
    for version in versions(ApiKey.TXN_OFFSET_COMMIT):
        one, name = Transactional(wire, f"offsets-{version}"), f"txn-committed-{version}"
        ends = 5 if version >= 5 else 4
        one.commit_offsets("unknown id", name, {"txn-offsets": {0: 1}}, version, producer_id=NOBODY, producer_epoch=0)
        one.begin()
        one.commit_offsets("not added", name, {"txn-offsets": {0: 1}}, version)
        if version < 5:
            one.add_offsets(None, name)
        one.commit_offsets("two", name, {"txn-offsets": {0: 5, 1: 6}}, version)
        committed("pending, any", name, stable=False)
        committed("pending, stable", name, stable=True)
        one.commit_offsets("nothing", name, {}, version)
        one.commit_offsets("unknown topic", name, {"nowhere": {0: 1}}, version)
        one.commit_offsets("partition 9", name, {"txn-offsets": {0: 5, 9: 1}}, version)
        one.commit_offsets("long metadata", name, {"txn-offsets": {2: 1}}, version, metadata="m" * 4_097)
        one.commit_offsets("empty group", "", {"txn-offsets": {0: 5}}, version)
        one.commit_offsets("old epoch", name, {"txn-offsets": {0: 7}}, version, producer_epoch=one.epoch - 1)
        one.commit_offsets("future epoch", name, {"txn-offsets": {0: 7}}, version, producer_epoch=one.epoch + 1)
        one.commit_offsets("another producer", name, {"txn-offsets": {0: 7}}, version, producer_id=NOBODY)
        one.commit_offsets(
            "unknown transactional id", name, {"txn-offsets": {0: 5}}, version, transactional_id="nobody"
        )
        if version >= 3:
            one.commit_offsets(
                "unknown member", name, {"txn-offsets": {0: 7}}, version, member_id="m", generation_id_or_member_epoch=1
            )
            one.commit_offsets(
                "generation alone", name, {"txn-offsets": {0: 7}}, version, generation_id_or_member_epoch=1
            )
            one.commit_offsets("instance", name, {"txn-offsets": {0: 7}}, version, group_instance_id="i")
        one.describe(f"with offsets, v{version}")
        one.end("commit", commit=True, version=ends)
        one.settle()
        committed("committed", name, stable=True)
        if version < 5:
            one.add_offsets(None, name)
        one.commit_offsets("another", name, {"txn-offsets": {0: 50, 2: 51}}, version)
        one.end("abort", commit=False, version=ends)
        one.settle()
        committed("after the abort", name, stable=True)


def offsets_of_members(wire: Wire) -> None:
    ready_transactions(wire)
    create_topic(wire, "txn-members", 1)
    for version in versions(ApiKey.TXN_OFFSET_COMMIT, 3):
        one, group = Transactional(wire, f"members-{version}"), Group(wire, f"txn-group-of-members-{version}")
        one.begin()
        if version < 5:
            one.add_offsets(None, group.name)
        joined = group.join_new("to commit", protocols=[("range", subscription("txn-members"))])
        generation, member = joined.generation_id, joined.member_id

        def commit(
            label: str, generation: int, member: str, *, one: Transactional = one, version: int = version, **fields: Any
        ) -> None:
            group_id = fields.pop("group", f"txn-group-of-members-{version}")
            one.commit_offsets(
                label,
                group_id,
                {"txn-members": {0: 1}},
                version,
                generation_id_or_member_epoch=generation,
                member_id=member,
                **fields,
            )

        commit("before the assignment", generation, member)
        group.sync("to commit", generation, member, {member: b""})
        commit("stable", generation, member)
        commit("old generation", generation - 1, member)
        commit("future generation", generation + 1, member)
        commit("unknown member", generation, "nobody")
        commit("no member", generation, "")
        commit("no member, no generation", -1, "")
        commit("generation -1 with a member", -1, member)
        commit("unknown instance", generation, member, group_instance_id="one")
        group.leave(None, member)
        commit("after leaving", generation, member)
        one.end(None, commit=False, version=5 if version >= 5 else 4)
        one.settle()


def markers(wire: Wire) -> None:
    """Transactions that are ended by hand, as `kafka-transactions --abort` does, and markers that nobody should send."""
    ready_transactions(wire)
    for version in versions(ApiKey.WRITE_TXN_MARKERS):
        topic = f"txn-marked-{version}"
        topic_id = create_topic(wire, topic, 3)

        def write(
            label: str, producer_id: int, epoch: int, topics: dict[str, list[int]], *, commit: bool = False,
            coordinator_epoch: int = 0, version: int = version,
        ) -> None:  # fmt: skip
            rows = [WritableTxnMarkerTopic(name=name, partition_indexes=indexes) for name, indexes in topics.items()]
            marker = WritableTxnMarker(
                producer_id=producer_id,
                producer_epoch=epoch,
                transaction_result=commit,
                topics=rows,
                coordinator_epoch=coordinator_epoch,
            )
            wire.ask(label, WriteTxnMarkersRequest(markers=[marker]), version)

        one = Transactional(wire, f"marked-{version}")
        one.begin()
        one.begin()
        one.add(None, {topic: [0, 1]})
        one.produce(None, topic, topic_id, sequence=0, version=9)
        write("epoch -1", one.producer_id, -1, {topic: [0]})
        write("an older epoch", one.producer_id, one.epoch - 1, {topic: [0]})
        write("abort", one.producer_id, one.epoch, {topic: [0]})
        producers_of(wire, "after the abort by hand", topic, [0])
        write("abort again", one.producer_id, one.epoch, {topic: [0]})
        write("nothing was written there", one.producer_id, one.epoch, {topic: [1, 2]})
        write("unknown topic", one.producer_id, one.epoch, {"nowhere": [0]})
        write("partition 9", one.producer_id, one.epoch, {topic: [0, 9]})
        write("unknown producer", NOBODY, 0, {topic: [2]}, commit=True)
        write("producer -1", -1, 0, {topic: [2]})
        write("an older coordinator", one.producer_id, one.epoch, {topic: [0]}, coordinator_epoch=-1)
        write("a newer coordinator", one.producer_id, one.epoch, {topic: [0]}, coordinator_epoch=7)
        write("the coordinator before", one.producer_id, one.epoch, {topic: [0]}, coordinator_epoch=0)
        write("no topics", one.producer_id, one.epoch, {})
        write("no partitions", one.producer_id, one.epoch, {topic: []})
        wire.ask("no markers", WriteTxnMarkersRequest(), version)
        producers_of(wire, "after all", topic, [0, 1, 2])
        fetch(wire, "marked by hand", topic, topic_id)
        one.end("the client commits", commit=True)


def describing(wire: Wire) -> None:
    ready_transactions(wire)
    create_topic(wire, "txn-described", 2)
    states = ("empty", "ongoing", "committed", "aborted")
    ids = {state: Transactional(wire, f"described-{state}") for state in states}
    for state, one in ids.items():
        one.begin(transaction_timeout_ms=54_321)
        if state == "empty":
            continue
        one.add(None, {"txn-described": [0, 1]})
        if state != "ongoing":
            one.end(None, commit=state == "committed")
            one.settle()
    names = [one.name for one in ids.values()]
    for label, asked in {
        "all": names,
        "one twice": [names[0], names[0]],
        "an unknown one": ["nobody"],
        "known and unknown": [names[1], "nobody"],
        "the empty id": [""],
        "nothing": [],
    }.items():
        wire.ask(label, DescribeTransactionsRequest(transactional_ids=asked), 0)
    ongoing = ids["ongoing"].producer_id
    mine = "described-.*"
    for version in versions(ApiKey.LIST_TRANSACTIONS):
        cases: dict[str, dict[str, Any]] = {
            "ongoing": {"state_filters": ["Ongoing"], "producer_id_filters": [ongoing]},
            "another state": {"state_filters": ["Empty"], "producer_id_filters": [ongoing]},
            "unknown state": {"state_filters": ["Sleeping"]},
            "states known and unknown": {"state_filters": ["Sleeping", "Ongoing"], "producer_id_filters": [ongoing]},
            "state in small letters": {"state_filters": ["ongoing"]},
            "an unknown producer": {"producer_id_filters": [NOBODY]},
            "two producers": {"producer_id_filters": [ongoing, ids["empty"].producer_id]},
        }
        if version >= 1:
            cases["longer than nothing"] = {"duration_filter": 0, "producer_id_filters": [ongoing]}
            cases["longer than a day"] = {"duration_filter": 86_400_000}
            cases["duration -2"] = {"duration_filter": -2, "producer_id_filters": [ongoing]}
        if version >= 2:
            cases["pattern"] = {"transactional_id_pattern": mine}
            cases["pattern and state"] = {"transactional_id_pattern": mine, "state_filters": ["CompleteCommit"]}
            cases["part of an id"] = {"transactional_id_pattern": "described"}
            cases["no such id"] = {"transactional_id_pattern": "nobody.*"}
            cases["no pattern"] = {"transactional_id_pattern": "(", "producer_id_filters": [ongoing]}
            cases["the empty pattern"] = {"transactional_id_pattern": "", "producer_id_filters": [ongoing]}
        for label, fields in cases.items():
            wire.ask(label, ListTransactionsRequest(**fields), version)
    for one in ids.values():
        one.end(None, commit=False)
        one.settle()


SCENARIOS = [producers, adding, ending, fencing, writing, offsets, offsets_of_members, markers, describing]
