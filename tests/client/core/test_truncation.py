"""A new leader whose log parts from what was read (KIP-320), and a replica that is nearer than the leader (KIP-392)."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ottla.client._core.connections import Connect
from ottla.client._core.consumer import ConsumerMachine
from ottla.client._core.fetching import FetchSettings
from ottla.client._core.requests import Send
from ottla.client.errors import LogTruncationError
from ottla.errors import ErrorCode
from ottla.protocol.api import VERSIONS, ApiKey
from ottla.protocol.messages.fetch import FetchableTopicResponse, FetchResponse, PartitionData
from ottla.protocol.messages.metadata import (
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)
from ottla.protocol.messages.offset_for_leader_epoch import (
    EpochEndOffset,
    OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
    OffsetForLeaderTopicResult,
)
from ottla.types import EARLIEST, TopicPartition

WHERE = TopicPartition("t", 0)
TOPIC_ID = bytes([7]) * 16


class Driver:
    """Does what the core asks for; the test answers."""

    def __init__(self, **settings: Any) -> None:
        self.machine = ConsumerMachine(
            FetchSettings(**{"reset": EARLIEST, **settings}), [("b", 1)], random.Random(1), lambda: 0
        )
        self.now_ms = 0.0
        self.leader_epoch = 3
        self.leader = 1

    def turn(self) -> list[Send]:
        """Return the requests that are sent, answering those for metadata."""
        sent: list[Send] = []
        for _ in range(20):
            self.now_ms += 200
            actions, _ = self.machine.poll(self.now_ms)
            for action in actions:
                if isinstance(action, Connect):
                    versions = {int(key): span for key, span in VERSIONS.items()}
                    self.machine.on_connected(action.node.id, versions, {}, self.now_ms)
                elif isinstance(action, Send):
                    message = action.build(action.version)
                    if action.key == ApiKey.METADATA:
                        self.machine.on_response(action, self.metadata(), self.now_ms)
                    else:
                        action.context = (action.context, message)
                        sent.append(action)
            if sent:
                break
        return sent

    def metadata(self) -> MetadataResponse:
        part = MetadataResponsePartition(leader_id=self.leader, leader_epoch=self.leader_epoch, replica_nodes=[1, 2])
        return MetadataResponse(
            brokers=[MetadataResponseBroker(node_id=n, host=f"b{n}", port=1) for n in (1, 2)],
            topics=[MetadataResponseTopic(name="t", topic_id=TOPIC_ID, partitions=[part])],
        )

    def answer(self, send: Send, response: Any) -> None:
        send.context = send.context[0]  # type: ignore[index]
        self.machine.on_response(send, response, self.now_ms)


def read_up_to(driver: Driver, offset: int, epoch: int) -> Any:
    """Have the consumer stand at an offset behind a batch of an epoch, and the fetch that is in flight answered."""
    driver.machine.assign([WHERE], 0)
    state = driver.machine.partitions[WHERE]
    state.seek(offset, epoch)
    (fetch,) = driver.turn()
    assert fetch.key == ApiKey.FETCH
    driver.answer(fetch, fetched(error_code=ErrorCode.FENCED_LEADER_EPOCH))
    driver.leader_epoch = 5
    return state


def fetched(**part: Any) -> FetchResponse:
    return FetchResponse(
        responses=[FetchableTopicResponse(topic="t", topic_id=TOPIC_ID, partitions=[PartitionData(**part)])]
    )


def epoch_end(leader_epoch: int, end_offset: int) -> OffsetForLeaderEpochResponse:
    part = EpochEndOffset(leader_epoch=leader_epoch, end_offset=end_offset)
    return OffsetForLeaderEpochResponse(topics=[OffsetForLeaderTopicResult(topic="t", partitions=[part])])


def ask_for_the_end(driver: Driver) -> Send:
    (send,) = driver.turn()
    while send.key == ApiKey.FETCH:  # the image is not there yet
        driver.answer(send, fetched(error_code=ErrorCode.FENCED_LEADER_EPOCH))
        (send,) = driver.turn()
    assert send.key == ApiKey.OFFSET_FOR_LEADER_EPOCH
    message = send.context[1]  # type: ignore[index]
    assert isinstance(message, OffsetForLeaderEpochRequest)
    part = message.topics[0].partitions[0]
    assert (part.leader_epoch, part.current_leader_epoch) == (3, 5)
    return send


def test_a_position_that_the_new_leader_has_stays() -> None:
    driver = Driver()
    state = read_up_to(driver, 100, 3)
    driver.answer(ask_for_the_end(driver), epoch_end(3, 100))
    (fetch,) = driver.turn()
    assert fetch.key == ApiKey.FETCH
    assert state.position == 100


@pytest.mark.parametrize(("answer", "position"), [((3, 80), 80), ((-1, -1), None)])
def test_records_that_are_lost_set_the_position_back(answer: tuple[int, int], position: int | None) -> None:
    driver = Driver()
    state = read_up_to(driver, 100, 3)
    driver.answer(ask_for_the_end(driver), epoch_end(*answer))
    assert state.position == position
    assert state.wanted == (EARLIEST if position is None else None)


def test_with_none_it_is_an_error_until_a_seek() -> None:
    driver = Driver(reset=None)
    state = read_up_to(driver, 100, 3)
    for _ in range(2):
        driver.answer(ask_for_the_end(driver), epoch_end(3, 80))
        with pytest.raises(LogTruncationError, match="parts from that at offset 80") as caught:
            driver.machine.take()
        assert (caught.value.topic_partition, caught.value.offset) == (WHERE, 80)
    driver.machine.seek(state, 80)
    (fetch,) = driver.turn()
    assert fetch.key == ApiKey.FETCH


def test_only_what_was_fetched_ahead_is_fetched_again() -> None:
    driver = Driver()
    state = read_up_to(driver, 100, 3)
    state.fetch_offset = 120
    driver.answer(ask_for_the_end(driver), epoch_end(3, 110))
    assert (state.position, state.fetch_offset) == (100, 100)


def test_a_near_replica_is_read_until_it_refuses() -> None:
    driver = Driver(client_rack="here")
    driver.machine.assign([WHERE], 0)
    driver.machine.partitions[WHERE].seek(0)
    (fetch,) = driver.turn()
    assert fetch.node_id == 1
    assert fetch.context[1].rack_id == "here"  # type: ignore[index]
    driver.answer(fetch, fetched(preferred_read_replica=2, high_watermark=0))
    (fetch,) = driver.turn()
    assert fetch.node_id == 2
    driver.answer(fetch, fetched(error_code=ErrorCode.OFFSET_OUT_OF_RANGE))
    (fetch,) = driver.turn()
    assert fetch.node_id == 1
    assert driver.machine.partitions[WHERE].position == 0
