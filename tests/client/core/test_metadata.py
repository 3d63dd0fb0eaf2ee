"""When metadata is asked for, and what of an answer is believed."""

from __future__ import annotations

import random
from itertools import pairwise

from ottla.client._core.backoff import RETRY
from ottla.client._core.metadata import NO_LEADER, Metadata, Node
from ottla.errors import ErrorCode
from ottla.protocol.messages.metadata import (
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)

ID, OTHER_ID = b"1" * 16, b"2" * 16
FOREVER = float("inf")


def metadata() -> Metadata:
    return Metadata(max_age_ms=300_000, max_idle_ms=300_000, backoff=RETRY, random=random.Random(1))


def answer(*leaders: tuple[int, int], topic_id: bytes = ID, code: int = 0, brokers: int = 3) -> MetadataResponse:
    """An answer about topic `t` whose partitions have these (leader, epoch)."""
    partitions = [
        MetadataResponsePartition(partition_index=n, leader_id=leader, leader_epoch=epoch)
        for n, (leader, epoch) in enumerate(leaders)
    ]
    return MetadataResponse(
        brokers=[MetadataResponseBroker(node_id=n, host=f"b{n}", port=9092) for n in range(brokers)],
        topics=[MetadataResponseTopic(error_code=code, name="t", topic_id=topic_id, partitions=partitions)],
    )


def ask(known: Metadata, response: MetadataResponse, now_ms: float) -> None:
    known.make_request(now_ms, 12)
    assert known.due_ms() == FOREVER
    known.on_response(response, now_ms)


def test_a_topic_that_is_new_is_asked_for_at_once() -> None:
    known = metadata()
    assert known.due_ms() == 0
    ask(known, answer(), 0)
    assert known.due_ms() == 300_000
    assert known.use("t", 10)
    assert known.due_ms() == 0
    request = known.make_request(10, 12)
    assert [topic.name for topic in request.topics or []] == ["t"]
    assert not known.use("t", 20)


def test_answers_that_bring_nothing_new_are_asked_for_less_and_less_often() -> None:
    known = metadata()
    known.use("t", 0)
    now, gaps = 0.0, []
    for _ in range(6):
        ask(known, answer((NO_LEADER, 0)), now)
        gaps.append(known.due_ms() - now)
        now = known.due_ms()
    assert gaps[0] < 130
    assert all(later > earlier for earlier, later in pairwise(gaps[1:4])), gaps
    assert gaps[-1] <= 1_200
    ask(known, answer((1, 5)), now)
    assert known.due_ms() == now + 300_000
    known.request_update()
    assert known.due_ms() - now <= 120


def test_an_older_leader_epoch_is_not_believed_but_another_topic_of_that_name_is() -> None:
    known = metadata()
    known.use("t", 0)
    ask(known, answer((1, 5), (2, 7)), 0)
    ask(known, answer((0, 4), (0, 8)), 1_000)
    assert [(p.leader, p.leader_epoch) for p in known.image.topics["t"].partitions] == [(1, 5), (0, 8)]
    ask(known, answer((2, 0), topic_id=OTHER_ID), 2_000)
    assert [(p.leader, p.leader_epoch) for p in known.image.topics["t"].partitions] == [(2, 0)]


def test_a_leader_that_another_answer_names_is_believed_if_newer() -> None:
    known = metadata()
    known.use("t", 0)
    ask(known, answer((1, 5), brokers=2), 0)
    assert not known.learn_leader("t", 0, 0, 5)
    assert not known.learn_leader("t", 0, 7, 6), "its address is not known"
    assert not known.learn_leader("t", 3, 0, 9)
    assert known.learn_leader("t", 0, 7, 6, [Node(7, "b7", 9092)])
    found = known.image.leader("t", 0)
    assert found is not None
    assert found.leader == 7


def test_why_a_topic_is_not_described_is_remembered_until_it_is() -> None:
    known = metadata()
    known.use("t", 0)
    ask(known, answer(code=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION), 0)
    assert "no topic 't'" in str(known.errors["t"])
    assert known.due_ms() < 130
    ask(known, answer((0, 0)), 200)
    assert not known.errors
    ask(known, answer(code=ErrorCode.TOPIC_AUTHORIZATION_FAILED), 400)
    assert known.due_ms() == 300_400, "asking again would not help"


def test_topics_that_are_not_used_are_forgotten() -> None:
    known = metadata()
    known.use("t", 0)
    known.use("u", 250_000)
    ask(known, answer((0, 0)), 250_000)
    request = known.make_request(300_000, 12)
    assert [topic.name for topic in request.topics or []] == ["u"]
    assert "t" not in known.image.topics


def test_a_failed_request_and_an_answer_without_brokers_are_repeated_after_a_while() -> None:
    known = metadata()
    known.make_request(0, 12)
    known.on_failure(0)
    assert 0 < known.due_ms() <= 120
    ask(known, MetadataResponse(), 200)
    assert 200 < known.due_ms() <= 200 + 240
    assert not known.image.nodes
