"""ShareFetch and ShareAcknowledge (KIP-932): sessions, acknowledgements of every type, deliveries, and what is refused."""

from __future__ import annotations

from typing import Any

from tests.compatibility.differential.oracle import Tree
from tests.compatibility.differential.scenarios.share_state import ShareState, ready_share_state
from tests.compatibility.differential.script import UNKNOWN_ID, batch, fill, versions
from tests.compatibility.differential.wire import Wire

from ottla.protocol.api import ApiKey
from ottla.protocol.messages import share_acknowledge as acknowledge
from ottla.protocol.messages import share_fetch as fetch
from ottla.types import ZERO_UUID, CompressionType

GAP, ACCEPT, RELEASE, REJECT, RENEW = range(5)
LAST = -1
MEMBER = "AAAAAAAAAAAAAAAAAAAAAQ"
#: first offset, last offset, types: one for all or one for each
Acks = list[tuple[int, int, list[int]]]


class ShareSession:
    """Requests of one member of one group about one topic; the session's epoch is counted as a client would."""

    def __init__(self, wire: Wire, group: str, topic_id: bytes, version: int, member: str = MEMBER) -> None:
        self.wire = wire
        self.group = group
        self.topic_id = topic_id
        self.version = version
        self.member = member
        self.epoch = 0

    def fetch(
        self, label: str | None, partitions: dict[int, Acks] | None = None,
        *, epoch: int | None = None, forget: list[int] | None = None, topic_id: bytes | None = None, gets: bool = False,
        **fields: Any,
    ) -> Tree:  # fmt: skip
        rows = [
            fetch.FetchPartition(partition_index=index, acknowledgement_batches=_batches(fetch, acks))
            for index, acks in (partitions or {}).items()
        ]
        where = self.topic_id if topic_id is None else topic_id
        forgotten = [] if forget is None else [fetch.ForgottenTopic(topic_id=where, partitions=forget)]
        defaults: dict[str, Any] = {
            "group_id": self.group, "member_id": self.member, "max_bytes": 1 << 20, "min_bytes": int(gets),
            "max_wait_ms": 5_000 if gets else 100,  # what a session gave up comes back a moment after the answer
            "max_records": 500, "batch_size": 500,
            "topics": [fetch.FetchTopic(topic_id=where, partitions=rows)] if rows else [],
            "forgotten_topics_data": forgotten,
        }  # fmt: skip
        message = fetch.ShareFetchRequest(
            share_session_epoch=self.epoch if epoch is None else epoch, **{**defaults, **fields}
        )
        answer = self.wire.ask(label, message, self.version)
        self._count(answer, epoch)
        return answer

    def acknowledge(
        self,
        label: str,
        partitions: dict[int, Acks],
        *,
        epoch: int | None = None,
        topic_id: bytes | None = None,
        **fields: Any,
    ) -> Tree:
        rows = [
            acknowledge.AcknowledgePartition(partition_index=index, acknowledgement_batches=_batches(acknowledge, acks))
            for index, acks in partitions.items()
        ]
        where = self.topic_id if topic_id is None else topic_id
        defaults: dict[str, Any] = {
            "group_id": self.group, "member_id": self.member,
            "topics": [acknowledge.AcknowledgeTopic(topic_id=where, partitions=rows)] if rows else [],
        }  # fmt: skip
        message = acknowledge.ShareAcknowledgeRequest(
            share_session_epoch=self.epoch if epoch is None else epoch, **{**defaults, **fields}
        )
        answer = self.wire.ask(label, message, self.version)
        self._count(answer, epoch)
        return answer

    def _count(self, answer: Tree, epoch: int | None) -> None:
        if epoch is None and answer.get("error_code") == "NONE":
            self.epoch += 1

    def close(self, label: str | None = None) -> None:
        self.fetch(label, epoch=LAST, max_wait_ms=0)
        self.epoch = 0


def _batches(module: Any, acks: Acks) -> list[Any]:
    return [
        module.AcknowledgementBatch(first_offset=first, last_offset=last, acknowledge_types=types)
        for first, last, types in acks
    ]


def prepared(wire: Wire, group: str, records: int = 3, batches: int = 4) -> bytes:
    """A topic of two partitions with so many batches of so many records in each, to be read from the start."""
    topic_id = ready_share_state(wire, group, topic=group, partitions=2)
    for partition in (0, 1):
        for index in range(batches):
            fill(wire, group, topic_id, batch([f"{index}-{number}" for number in range(records)]), partition)
    from_the_start(wire, group, topic_id)
    return topic_id


def from_the_start(wire: Wire, group: str, topic_id: bytes) -> None:
    for partition in (0, 1):
        ShareState(wire, group, topic_id).initialize(None, 1, 0, partition)


def sessions(wire: Wire) -> None:
    """Every session epoch in every state of a session."""
    for version in versions(ApiKey.SHARE_FETCH):
        topic_id = prepared(wire, f"share-sessions-{version}")
        one = ShareSession(wire, f"share-sessions-{version}", topic_id, version)
        for epoch in (1, 2, 100, LAST, -2, -100, 2_147_483_647):
            one.fetch(f"no session, epoch {epoch}", {0: []}, epoch=epoch)
            one.acknowledge(f"no session, epoch {epoch}", {0: [(0, 0, [ACCEPT])]}, epoch=epoch)
        one.acknowledge("an acknowledgement begins", {0: [(0, 0, [ACCEPT])]})
        one.fetch("acknowledges at the beginning", {0: [(0, 0, [ACCEPT])]}, epoch=0)
        one.fetch("begins", {0: []}, gets=True)
        for epoch in (2, 100, -2, 2_147_483_647):
            one.fetch(f"epoch {epoch} of a new session", {}, epoch=epoch)
            one.acknowledge(f"epoch {epoch} of a new session", {0: [(0, 0, [ACCEPT])]}, epoch=epoch)
        one.fetch("goes on")
        one.fetch("adds a partition", {1: []}, gets=True)
        one.fetch("forgets a partition", forget=[0])
        one.fetch("forgets what it does not know", forget=[0, 9])
        one.fetch("forgets an unknown topic", forget=[0], topic_id=UNKNOWN_ID)
        one.fetch("adds an unknown partition", {9: []})
        one.fetch("after all this")
        one.fetch("begins anew", {0: [], 1: []}, epoch=0)
        one.epoch = 1
        one.fetch("goes on again")
        one.fetch("ends, with partitions", {0: []}, epoch=LAST)
        one.fetch("ends again", epoch=LAST)
        one.epoch = 0
        one.fetch("begins once more", {0: []}, gets=True)
        one.acknowledge("ends by acknowledging", {0: []}, epoch=LAST)
        one.acknowledge("ends by acknowledging, again", {0: []}, epoch=LAST)


def strange_topics(wire: Wire) -> None:
    """Topics that are not there; the reference's session does not survive them."""
    for version in versions(ApiKey.SHARE_FETCH):
        topic_id = prepared(wire, f"share-strange-{version}", batches=0)
        for label, where in (("an unknown topic", UNKNOWN_ID), ("no topic at all", ZERO_UUID)):
            one = ShareSession(wire, f"share-strange-{version}", topic_id, version)
            one.fetch(f"begins with {label}", {0: []}, topic_id=where)
            one.close()
            one.fetch("begins", {0: []})
            one.fetch(f"adds {label}", {0: []}, topic_id=where)
            one.close()
        twice = [fetch.FetchPartition(partition_index=0) for _ in range(2)]
        one.fetch("a partition twice", topics=[fetch.FetchTopic(topic_id=topic_id, partitions=twice)])
        one.close()


def refused(wire: Wire) -> None:
    """Requests that are wrong in themselves."""
    for version in versions(ApiKey.SHARE_FETCH):
        group = f"share-refused-{version}"
        topic_id = prepared(wire, group, batches=0)
        one = ShareSession(wire, group, topic_id, version)
        wrong: dict[str, dict[str, Any]] = {
            "no group": {"group_id": None}, "empty group": {"group_id": ""}, "blank group": {"group_id": " "},
            "no member": {"member_id": None}, "empty member": {"member_id": ""}, "blank member": {"member_id": " "},
            "a member that is no id": {"member_id": "someone"}, "a member of 36": {"member_id": "m" * 36},
            "a member of 37": {"member_id": "m" * 37}, "a member of 5000": {"member_id": "m" * 5_000},
            "a group of 5000": {"group_id": "g" * 5_000},
        }  # fmt: skip
        for label, fields in wrong.items():
            one.fetch(label, {0: []}, epoch=0, **fields)
            one.fetch(f"{label}, ends", epoch=LAST, max_wait_ms=0, **fields)
            one.acknowledge(label, {0: [(0, 0, [ACCEPT])]}, epoch=1, **fields)
        one.fetch("a negative wait", {0: []}, epoch=0, max_wait_ms=-1)
        one.close()
        if version >= 2:
            for mode in (2, -1, 9):
                one.fetch(f"acquire mode {mode}", {0: []}, epoch=0, share_acquire_mode=mode)
                one.close()
            one.fetch("a renewal with limits", {0: [(0, 0, [RENEW])]}, epoch=0, is_renew_ack=True)
            renewal: dict[str, Any] = {"is_renew_ack": True, "max_wait_ms": 0, "max_bytes": 0, "max_records": 0}
            one.fetch("a renewal at the beginning", {0: [(0, 0, [RENEW])]}, epoch=0, **renewal)


def limits(wire: Wire) -> None:
    """How much comes at once, each time to a group that has had nothing yet."""
    for version in versions(ApiKey.SHARE_FETCH):
        topic_id = prepared(wire, f"share-limits-{version}", records=5, batches=3)
        cases: dict[str, dict[str, Any]] = {
            "min bytes above max": {"min_bytes": 100, "max_bytes": 10}, "max bytes 0": {"max_bytes": 0},
            "max bytes of one batch": {"max_bytes": 130}, "negative min bytes": {"min_bytes": -1},
            "max records 1": {"max_records": 1}, "max records 5": {"max_records": 5}, "max records 6": {"max_records": 6},
            "batch size 1": {"batch_size": 1}, "batch size 2": {"batch_size": 2}, "batch size 7": {"batch_size": 7},
        }  # fmt: skip
        if version >= 2:
            cases["exactly 1"] = {"max_records": 1, "share_acquire_mode": 1}
            cases["exactly 7"] = {"max_records": 7, "share_acquire_mode": 1}
        for number, (label, fields) in enumerate(cases.items()):
            group = f"share-limits-{version}-{number}"
            from_the_start(wire, group, topic_id)
            one = ShareSession(wire, group, topic_id, version)
            one.fetch(label, {0: []}, **{"max_wait_ms": 5_000, "min_bytes": 1, **fields})
            one.fetch(f"{label}: again", **{"max_wait_ms": 100, "min_bytes": 1, **fields})
            one.close()


def acknowledgements(wire: Wire) -> None:
    """All types, batch by batch and record by record, and batches that are none."""
    for version in versions(ApiKey.SHARE_ACKNOWLEDGE):
        group = f"share-acks-{version}"
        topic_id = prepared(wire, group)
        one, two = (ShareSession(wire, group, topic_id, version, f"CCCCCCCCCCCCCCCCCCCCC{number}") for number in (1, 2))
        state = ShareState(wire, group, topic_id)
        one.fetch("one gets all", {0: []}, gets=True)
        two.fetch("two gets nothing", {0: []})
        bad: dict[str, Acks] = {
            "nothing": [], "no types": [(0, 0, [])], "type 5": [(0, 0, [5])], "type -1": [(0, 0, [-1])],
            "type renew without saying so": [(0, 0, [RENEW])], "too many types": [(0, 1, [ACCEPT] * 3)],
            "too few types": [(0, 2, [ACCEPT] * 2)], "backwards": [(2, 0, [ACCEPT])], "negative": [(-3, -1, [ACCEPT])],
            "overlapping": [(0, 2, [ACCEPT]), (1, 3, [ACCEPT])], "out of order": [(3, 5, [ACCEPT]), (0, 2, [ACCEPT])],
            "beyond the end": [(100, 101, [ACCEPT])], "half beyond the end": [(9, 15, [ACCEPT])],
        }  # fmt: skip
        for label, acks in bad.items():
            one.acknowledge(label, {0: acks})
        two.acknowledge("two acknowledges what one has", {0: [(0, 0, [ACCEPT])]})
        one.acknowledge("an unknown partition", {9: [(0, 0, [ACCEPT])]})
        one.acknowledge("an unknown topic", {0: [(0, 0, [ACCEPT])]}, topic_id=UNKNOWN_ID)
        one.acknowledge("a partition that was not fetched", {1: [(0, 0, [ACCEPT])]})
        one.acknowledge("accepts a batch", {0: [(0, 2, [ACCEPT])]})
        one.acknowledge("accepts it again", {0: [(0, 2, [ACCEPT])]})
        one.acknowledge("one by one", {0: [(3, 5, [ACCEPT, RELEASE, REJECT])]})
        one.acknowledge("part of a batch", {0: [(7, 7, [RELEASE])]})
        one.acknowledge("a gap", {0: [(8, 8, [GAP])]})
        one.acknowledge("over two batches", {0: [(9, 11, [RELEASE])]})
        one.acknowledge("two partitions", {0: [(6, 6, [REJECT])], 1: [(0, 0, [ACCEPT])]})
        state.read("what is written", -1)
        two.fetch("two gets what was released", gets=True)
        one.fetch("one gets nothing")
        two.fetch("two accepts with a fetch", {0: [(4, 4, [ACCEPT]), (7, 7, [RELEASE])]})
        one.fetch("one gets what was released", gets=True)
        one.fetch("one releases by ending", epoch=LAST, max_wait_ms=0)
        two.fetch("two gets what one had", gets=True)
        if version >= 2:
            two.acknowledge("renews", {0: [(7, 7, [RENEW])]}, is_renew_ack=True)
            two.acknowledge("renews what it does not have", {0: [(0, 0, [RENEW])]}, is_renew_ack=True)
            two.fetch(
                "renews by a fetch",
                {0: [(7, 7, [RENEW])]},
                is_renew_ack=True,
                max_wait_ms=0,
                max_bytes=0,
                max_records=0,
            )
            two.fetch(
                "accepts as a renewal",
                {0: [(7, 7, [ACCEPT])]},
                is_renew_ack=True,
                max_wait_ms=0,
                max_bytes=0,
                max_records=0,
            )
        state.read("in the end", -1)
        state.summary("in the end")
        two.acknowledge("ends, and accepts", {0: [(9, 11, [ACCEPT])]}, epoch=LAST)


def deliveries(wire: Wire) -> None:
    """A record comes five times, and then no more."""
    for version in versions(ApiKey.SHARE_FETCH):
        group = f"share-deliveries-{version}"
        topic_id = prepared(wire, group, records=5, batches=1)
        one = ShareSession(wire, group, topic_id, version)
        one.fetch("delivery 1", {1: []}, gets=True)
        for number in range(2, 7):
            one.acknowledge(f"released {number}", {1: [(0, 4, [RELEASE])]})
            one.fetch(f"delivery {number}", gets=number < 6)
        one.acknowledge("released what it has not", {1: [(0, 4, [RELEASE])]})
        one.close()
        ShareState(wire, group, topic_id).read("in the end", -1, 1)


def batches_of_all_kinds(wire: Wire) -> None:
    """Compressed, compacted away, of transactions, from a start offset within a batch."""
    for version in versions(ApiKey.SHARE_FETCH):
        group = f"share-kinds-{version}"
        topic_id = ready_share_state(wire, group, topic=group, partitions=2)
        state = ShareState(wire, group, topic_id)
        state.initialize(None, 1, 0)
        for codec in CompressionType:
            fill(wire, group, topic_id, batch([f"{codec.name}-{number}" for number in range(4)], compression=codec))
        one = ShareSession(wire, group, topic_id, version)
        one.fetch("compressed", {0: []}, gets=True)
        one.close()
        state.initialize(None, 2, 6)
        other = ShareSession(wire, f"{group}-late", topic_id, version)
        ready_share_state(wire, other.group, topic=group, partitions=2)
        late = ShareState(wire, other.group, topic_id)
        late.initialize(None, 1, 6)
        other.fetch("from within a batch", {0: []}, gets=True)
        other.acknowledge("accepts the rest of it", {0: [(6, 7, [ACCEPT])]})
        late.read("what is written", -1)
        other.close()


SCENARIOS = [sessions, strange_topics, refused, limits, acknowledgements, deliveries, batches_of_all_kinds]
