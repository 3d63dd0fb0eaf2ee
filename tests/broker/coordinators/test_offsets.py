"""Committed offsets by themselves: transactions, topic ids, expiry. What clients see is in the transcripts."""

from __future__ import annotations

from ottla.broker.coordinators.groups.classic.group import ClassicGroup
from ottla.broker.coordinators.groups.classic.member import Member
from ottla.broker.coordinators.groups.classic.states import GroupState
from ottla.broker.coordinators.groups.config import GroupConfig
from ottla.broker.coordinators.groups.offsets import FetchedOffset, Offsets, PartitionCommit
from ottla.broker.coordinators.shard import DeletedTopic
from ottla.broker.coordinators.timeline import Timeline
from ottla.errors import ErrorCode
from ottla.protocol.messages.group_records import OffsetCommitKey, OffsetCommitValue

HOUR = 3_600_000
T1, T2 = bytes(15) + b"\1", bytes(15) + b"\2"


class Log:
    """Offsets with a log position of their own."""

    def __init__(self, config: GroupConfig | None = None) -> None:
        self.timeline = Timeline()
        self.offsets = Offsets(self.timeline, config or GroupConfig(offsets_retention_ms=HOUR))
        self.position = 0

    def put(
        self,
        offset: int | None,
        *,
        topic: str = "t",
        partition: int = 0,
        producer_id: int = -1,
        topic_id: bytes = bytes(16),
        time: int = 0,
        expires: int = -1,
    ) -> None:
        key = OffsetCommitKey(group="g", topic=topic, partition=partition)
        value = None
        if offset is not None:
            value = OffsetCommitValue(offset=offset, commit_timestamp=time, expire_timestamp=expires, topic_id=topic_id)
        self.offsets.replay(self.position, producer_id, key, value)
        self.position += 1
        self.timeline.commit(self.timeline.advance())

    def end(self, producer_id: int, *, committed: bool) -> None:
        self.offsets.replay_end_transaction(producer_id, committed)
        self.timeline.commit(self.timeline.advance())

    def get(self, *, stable: bool = False, topic_id: bytes = bytes(16)) -> FetchedOffset:
        return self.offsets.fetch("g", [("t", topic_id, [0])], stable=stable)[0][0]

    def expired(self, group: ClassicGroup, now_ms: int) -> tuple[list[tuple[str, int]], bool]:
        found, nothing_left = self.offsets.expire(group, now_ms)
        keys = [record.key for record in found]
        assert all(record.value is None for record in found)
        return [(key.topic, key.partition) for key in keys if isinstance(key, OffsetCommitKey)], nothing_left


def test_offsets_of_an_open_transaction_are_pending() -> None:
    log = Log()
    log.put(1)
    log.put(5, producer_id=9)
    assert log.get() == FetchedOffset(1)
    assert log.get(stable=True) == FetchedOffset(error_code=ErrorCode.UNSTABLE_OFFSET_COMMIT)
    assert log.offsets.fetch_all("g", stable=True) == {
        "t": {0: FetchedOffset(error_code=ErrorCode.UNSTABLE_OFFSET_COMMIT)}
    }
    assert log.offsets.fetch_all("g", stable=False) == {"t": {0: FetchedOffset(1)}}


def test_a_committed_transaction_takes_effect_and_an_aborted_one_does_not() -> None:
    for committed, expected in ((True, 5), (False, 1)):
        log = Log()
        log.put(1)
        log.put(5, producer_id=9)
        log.end(9, committed=committed)
        assert log.get(stable=True) == FetchedOffset(expected)


def test_a_commit_after_the_transactional_one_wins_whatever_the_marker_says() -> None:
    log = Log()
    log.put(5, producer_id=9)
    log.put(7)
    log.end(9, committed=True)
    assert log.get() == FetchedOffset(7)


def test_a_tombstone_takes_pending_offsets_with_it() -> None:
    log = Log()
    log.put(5, producer_id=9)
    log.put(None)
    log.end(9, committed=True)
    assert log.get() == FetchedOffset(-1)


def test_deleting_covers_pending_offsets() -> None:
    log = Log()
    log.put(1)
    log.put(5, partition=1, producer_id=9)
    assert len(log.offsets.delete_all("g")) == 2
    assert len(log.offsets.delete("g", [("t", 1), ("t", 2)])) == 1


def test_an_offset_of_another_topic_of_the_same_name_does_not_count() -> None:
    log = Log()
    log.put(5, topic_id=T1)
    assert log.get(topic_id=T1).offset == 5
    assert log.get(topic_id=T2).offset == -1
    assert log.get().offset == 5


def test_a_deleted_topic_takes_only_its_own_offsets() -> None:
    log = Log()
    log.put(5, partition=0, topic_id=T1)
    log.put(5, partition=1, topic_id=T2)
    log.put(5, partition=2)
    log.put(5, partition=3, topic_id=T1, producer_id=9)
    log.put(5, topic="other", topic_id=T1)
    gone = log.offsets.on_topics_deleted([DeletedTopic("t", T1)])
    assert sorted(record.key.partition for record in gone) == [0, 2, 3]  # type: ignore[attr-defined]


def test_metadata_is_measured_as_java_measures_it() -> None:
    offsets = Log(GroupConfig(offset_metadata_size_max=4)).offsets

    def code(metadata: str | None) -> ErrorCode:
        return offsets.commit("g", [PartitionCommit("t", T1, 0, 1, -1, metadata)], -1, 0)[1][0]

    assert code(None) == code("") == code("abcd") == code("äöüß") == code("😀😀") == ErrorCode.NONE
    assert code("abcde") == code("😀😀a") == ErrorCode.OFFSET_METADATA_TOO_LARGE


def consumers(state: GroupState, *, since: int = 0, topics: frozenset[str] | None = frozenset()) -> ClassicGroup:
    group = ClassicGroup("g", state=state, protocol_type="consumer", state_timestamp_ms=since)
    group.subscribed_topics = topics
    return group


def test_a_simple_group_loses_offsets_by_the_time_of_their_commit() -> None:
    log = Log()
    log.put(1, partition=0, time=0)
    log.put(1, partition=1, time=10)
    group = ClassicGroup("g", state_timestamp_ms=10**15)
    assert log.expired(group, HOUR - 1) == ([], False)
    assert log.expired(group, HOUR) == ([("t", 0)], False)
    assert log.expired(group, HOUR + 10) == ([("t", 0), ("t", 1)], True)


def test_an_empty_group_loses_offsets_by_the_time_it_became_empty() -> None:
    log = Log()
    log.put(1, time=0)
    group = consumers(GroupState.EMPTY, since=1000)
    assert log.expired(group, HOUR + 999) == ([], False)
    assert log.expired(group, HOUR + 1000) == ([("t", 0)], True)


def test_an_empty_group_of_an_old_record_version_goes_by_the_commits() -> None:
    log = Log()
    log.put(1, time=7)
    group = consumers(GroupState.EMPTY, since=-1)
    assert log.expired(group, HOUR + 6) == ([], False)
    assert log.expired(group, HOUR + 7) == ([("t", 0)], True)


def test_a_stable_group_loses_only_what_nobody_subscribes_to() -> None:
    log = Log()
    log.put(1)
    log.put(1, topic="u")
    group = consumers(GroupState.STABLE, topics=frozenset({"t"}))
    assert log.expired(group, 10 * HOUR) == ([("u", 0)], False)


def test_groups_in_a_rebalance_or_with_unreadable_subscriptions_lose_nothing() -> None:
    log = Log()
    log.put(1)
    for group in (
        consumers(GroupState.PREPARING_REBALANCE),
        consumers(GroupState.COMPLETING_REBALANCE),
        consumers(GroupState.STABLE, topics=None),
        ClassicGroup("g", state=GroupState.STABLE, protocol_type="connect"),
    ):
        assert log.expired(group, 10 * HOUR) == ([], False)


def test_an_expiry_of_its_own_overrules_the_retention() -> None:
    log = Log()
    log.put(1, expires=5)
    group = consumers(GroupState.EMPTY)
    assert log.expired(group, 4) == ([], False)
    assert log.expired(group, 5) == ([("t", 0)], True)


def test_pending_offsets_keep_a_group_alive() -> None:
    log = Log()
    log.put(5, producer_id=9)
    assert log.expired(ClassicGroup("g"), 10 * HOUR) == ([], False)
    log.put(1, partition=1)
    assert log.expired(ClassicGroup("g"), 10 * HOUR) == ([("t", 1)], False)
    log.end(9, committed=False)
    assert log.expired(ClassicGroup("g"), 10 * HOUR) == ([("t", 1)], True)


def test_a_group_without_offsets_has_nothing_left() -> None:
    assert Log().expired(ClassicGroup("g"), 0) == ([], True)


def test_an_undone_transaction_marker_leaves_the_offsets_pending() -> None:
    log = Log()
    log.put(5, producer_id=9)
    log.offsets.replay_end_transaction(9, True)
    assert log.offsets.fetch("g", [("t", bytes(16), [0])], stable=True)[0][0].offset == 5
    log.timeline.roll_back()
    assert log.get(stable=True).error_code == ErrorCode.UNSTABLE_OFFSET_COMMIT


def test_tables_of_groups_without_offsets_are_let_go() -> None:
    log = Log()
    log.put(1)
    log.put(None)
    log.offsets.forget_all_unused()
    assert log.offsets._by_group == {}


def test_a_member_of_no_interest_is_not_asked() -> None:
    """Expiry of a group whose members all support something the broker cannot read is not a crash."""
    group = ClassicGroup("g", state=GroupState.STABLE, protocol_type="consumer", protocol_name="range")
    group.add(
        Member(
            member_id="m",
            group_instance_id=None,
            client_id="c",
            client_host="/h",
            rebalance_timeout_ms=1,
            session_timeout_ms=1,
            protocol_type="consumer",
            protocols=(("range", b"\0\0\xff\xff\xff\xff"),),
        )
    )
    assert group.find_subscribed_topics() is None
    assert group.is_subscribed_to("anything")
