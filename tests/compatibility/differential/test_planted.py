"""The comparison can fail: ten wrong answers, planted one at a time into a transcript, are each reported.

A planted answer is decoded, changed and encoded again, so that it takes the same way as a broker's real one. The
reference is the transcript without it: this needs no Apache Kafka, only the broker itself. With the marker `kafka`
the same ten are planted into ottla's transcript and compared with Apache Kafka's.
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
