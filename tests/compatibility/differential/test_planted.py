"""The comparison can fail: wrong answers, planted one at a time into a transcript, are each reported.

A planted answer is decoded, changed and encoded again, so that it takes the same way as a broker's real one. The
reference is the transcript without it: this needs no Apache Kafka, only the broker itself. With the marker `kafka`
the same are planted into ottla's transcript and compared with Apache Kafka's.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from tests.compatibility.differential.compare import compare
from tests.compatibility.differential.conftest import SETTINGS, transcript_of
from tests.compatibility.differential.wire import Exchange, Transcript, exchange_of
from tests.support.broker_process import BrokerProcess

from ottla.protocol.api import APIS, ApiKey, response_header_version
from ottla.protocol.codec import decode, encode

Change = Callable[[Any], None]


def wrong_error_code(answer: Any) -> None:
    answer.topics[0].error_code = 0


def offset_one_too_high(answer: Any) -> None:
    answer.responses[0].partition_responses[0].base_offset += 1


def a_record_changed(answer: Any) -> None:
    records = bytearray(answer.responses[0].partitions[0].records)
    records[-2] ^= 1
    answer.responses[0].partitions[0].records = bytes(records)


def another_session(answer: Any) -> None:
    answer.session_id += 1


def a_topic_too_many(answer: Any) -> None:
    answer.topics.append(copy.deepcopy(answer.topics[0]))


def another_broker_address(answer: Any) -> None:
    answer.brokers[0].port += 1


def a_version_not_advertised(answer: Any) -> None:
    answer.api_keys[3].max_version -= 1


def an_api_not_advertised(answer: Any) -> None:
    del answer.api_keys[5]


def another_member(answer: Any) -> None:
    answer.leader = answer.member_id[:-12] + "0123456789ab"


def a_default_value_changed(answer: Any) -> None:
    row = next(row for row in answer.results[0].configs if row.name == "segment.bytes")
    row.value = "1073741825"


def a_timestamp_off_by_one(answer: Any) -> None:
    answer.topics[0].partitions[0].timestamp += 1


def one_epoch_too_far(answer: Any) -> None:
    answer.member_epoch += 1


def a_partition_of_another(answer: Any) -> None:
    answer.assignment.topic_partitions[0].partitions.pop()


def a_task_forgotten(answer: Any) -> None:
    answer.active_tasks[0].partitions.pop()


def another_state(answer: Any) -> None:
    answer.groups[0].group_state = "Reconciling"


def a_level_that_stayed(answer: Any) -> None:
    answer.finalized_features[0].max_version_level += 1


def done_after_all(answer: Any) -> None:
    answer.error_code, answer.error_message = 0, None


def one_record_less(answer: Any) -> None:
    answer.responses[0].partitions[0].acquired_records[0].last_offset -= 1


def one_delivery_more(answer: Any) -> None:
    answer.responses[0].partitions[0].acquired_records[0].delivery_count += 1


def an_acknowledgement_that_passed(answer: Any) -> None:
    answer.responses[0].partitions[0].error_code = 0


def a_start_offset_too_high(answer: Any) -> None:
    answer.results[0].partitions[0].start_offset += 1


def a_batch_delivered_again(answer: Any) -> None:
    answer.results[0].partitions[0].state_batches[0].delivery_state = 4


def a_fence_skipped(answer: Any) -> None:
    answer.results[0].partitions[0].error_code = 0


#: name -> (API, version, the question's name, how the answer is changed)
PLANTED: dict[str, tuple[ApiKey, int, str, Change]] = {
    "a wrong error code": (ApiKey.CREATE_TOPICS, 7, "topics.create: exists", wrong_error_code),
    "an offset one too high": (ApiKey.PRODUCE, 9, "produce.every_version: codec LZ4", offset_one_too_high),
    "a changed record": (ApiKey.FETCH, 12, "fetch.every_version: the middle of a batch", a_record_changed),
    "another fetch session": (ApiKey.FETCH, 12, "fetch.sessions: one changed", another_session),
    "a topic too many": (ApiKey.METADATA, 9, "topics.metadata: one", a_topic_too_many),
    "another address": (ApiKey.METADATA, 12, "topics.metadata: two", another_broker_address),
    "a version not advertised": (ApiKey.API_VERSIONS, 3, "frames.api_versions: plain", a_version_not_advertised),
    "an API not advertised": (ApiKey.API_VERSIONS, 0, "frames.api_versions: plain", an_api_not_advertised),
    "a member that does not exist": (
        ApiKey.JOIN_GROUP, 9, "groups.one_member_in_every_version: a member alone, second step", another_member,
    ),
    "a default of a config": (ApiKey.DESCRIBE_CONFIGS, 4, "configs.describing: a topic", a_default_value_changed),
    "a refused level": (
        ApiKey.UPDATE_FEATURES, 2, "features.refused: 'group.version' to 2, type 1", done_after_all,
    ),
    "a level that stayed": (
        ApiKey.API_VERSIONS, 4, "features.lowered_and_raised: v2: transaction.version at 0 by type 2", a_level_that_stayed,
    ),
    "a member's epoch": (ApiKey.CONSUMER_GROUP_HEARTBEAT, 1, "consumer_groups.one_member: joins", one_epoch_too_far),
    "a partition not assigned": (
        ApiKey.CONSUMER_GROUP_HEARTBEAT, 0, "consumer_groups.one_member: joins", a_partition_of_another,
    ),
    "a state of a consumer group": (
        ApiKey.CONSUMER_GROUP_DESCRIBE, 0, "consumer_groups.one_member: consumers-one-1: stable", another_state,
    ),
    "a task not assigned": (ApiKey.STREAMS_GROUP_HEARTBEAT, 0, "streams_groups.one_member: joins", a_task_forgotten),
    "a state of a streams group": (
        ApiKey.STREAMS_GROUP_DESCRIBE, 0, "streams_groups.one_member: owns all", another_state,
    ),
    "a record not acquired": (ApiKey.SHARE_FETCH, 1, "share_fetch.acknowledgements: one gets all", one_record_less),
    "a delivery too many": (
        ApiKey.SHARE_FETCH, 2, "share_fetch.acknowledgements: two gets what was released", one_delivery_more,
    ),
    "an acknowledgement of nothing": (
        ApiKey.SHARE_ACKNOWLEDGE, 2, "share_fetch.acknowledgements: two acknowledges what one has",
        an_acknowledgement_that_passed,
    ),
    "a start offset": (ApiKey.READ_SHARE_GROUP_STATE, 0, "share_state.batches: v1: one: read", a_start_offset_too_high),
    "an acknowledged batch": (
        ApiKey.READ_SHARE_GROUP_STATE, 0, "share_state.batches: v0: the next: read", a_batch_delivered_again,
    ),
    "a stale leader": (
        ApiKey.WRITE_SHARE_GROUP_STATE, 1, "share_state.epochs: state epoch 3, leader epoch 5", a_fence_skipped,
    ),
    "a state made by an older epoch": (
        ApiKey.INITIALIZE_SHARE_GROUP_STATE, 0, "share_state.epochs: epoch 0, start 9", a_fence_skipped,
    ),
    "a timestamp off by one": (ApiKey.LIST_OFFSETS, 7, "fetch.list_offsets: time +4", a_timestamp_off_by_one),
}  # fmt: skip


def scenario_of(name: str) -> str:
    return name.partition(":")[0]


@pytest.fixture(scope="module")
def ottla_transcript() -> Transcript:
    """The scenarios that something is planted into, and no more: this is part of the default tests."""
    return transcript_of("ottla", BrokerProcess(SETTINGS), {scenario_of(row[2]) for row in PLANTED.values()})


def restricted(transcript: Transcript, scenario: str) -> Transcript:
    """One scenario of a transcript."""
    kept = [row for row in transcript.exchanges if scenario_of(row.name) == scenario]
    return dataclasses.replace(transcript, exchanges=kept)


def planted(transcript: Transcript, name: str) -> tuple[Transcript, Exchange]:
    """The transcript with one wrong answer in it, and that answer."""
    key, version, question, change = PLANTED[name]
    index, original = next(
        (index, row)
        for index, row in enumerate(transcript.exchanges)
        if (row.key, row.version, row.name) == (key, version, question)
    )
    head = 4 + response_header_version(key, version)
    message, _ = decode(APIS[key].response_class(), version, original.frame, head)
    change(message)
    wrong = exchange_of(question, key, version, original.frame[:head] + encode(message, version))
    exchanges = [*transcript.exchanges]
    exchanges[index] = wrong
    return dataclasses.replace(transcript, exchanges=exchanges), wrong


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_wrong_answer_is_reported(name: str, ottla_transcript: Transcript) -> None:
    honest = restricted(ottla_transcript, scenario_of(PLANTED[name][2]))
    candidate, wrong = planted(honest, name)
    assert compare(honest, honest).differences == []
    found = compare(honest, candidate).differences
    assert [row.label for row in found if row.label == wrong.label], f"{name} went unnoticed"


@pytest.mark.kafka
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_wrong_answer_differs_from_kafkas(name: str, both_transcripts: tuple[Transcript, Transcript]) -> None:
    reference, ottla = (restricted(one, scenario_of(PLANTED[name][2])) for one in both_transcripts)
    candidate, wrong = planted(ottla, name)
    before = {str(row) for row in compare(reference, ottla).differences}
    found = [row for row in compare(reference, candidate).differences if str(row) not in before]
    assert [row.label for row in found if row.label == wrong.label], f"{name} went unnoticed"


@pytest.mark.parametrize("outcome", ["closed", "silent"])
def test_a_missing_answer_is_reported(outcome: str, ottla_transcript: Transcript) -> None:
    honest = restricted(ottla_transcript, "topics.metadata")
    exchanges = [*honest.exchanges]
    index = next(index for index, row in enumerate(exchanges) if row.outcome == "answer")
    exchanges[index] = dataclasses.replace(exchanges[index], outcome=outcome, tree=None, frame=b"")
    [difference] = compare(honest, dataclasses.replace(honest, exchanges=exchanges)).differences
    assert difference.label == exchanges[index].label


def test_a_question_never_asked_is_reported(ottla_transcript: Transcript) -> None:
    honest = restricted(ottla_transcript, "topics.metadata")
    candidate = dataclasses.replace(honest, exchanges=honest.exchanges[:-1])
    [difference] = compare(honest, candidate).differences
    assert (difference.reference, difference.candidate) == ("asked", "not asked")
