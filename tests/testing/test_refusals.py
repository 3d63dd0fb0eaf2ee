"""An error code is put into the answer of every API in every version that has a place for one."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from ottla.errors import ErrorCode
from ottla.protocol.api import APIS, SERVED, ApiKey
from ottla.protocol.codec import decode, encode
from ottla.protocol.messages.describe_groups import DescribeGroupsRequest, DescribeGroupsResponse
from ottla.protocol.messages.fetch import FetchRequest, FetchResponse
from ottla.protocol.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
    OffsetDeleteResponse,
)
from ottla.protocol.messages.produce import PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData
from ottla.testing.refusals import NoRoomForErrorError, counts, refuse

CODE = int(ErrorCode.NOT_LEADER_OR_FOLLOWER)


def filled(kind: type, version: int) -> Any:
    """A request, or a part of one, with one element in each array that the version has."""
    made = kind()
    module = sys.modules[kind.__module__]
    for line in kind.SCHEMA:  # type: ignore[attr-defined]
        name, field, versions = line.split()[:3]
        if not field.startswith("[]") or not has(versions, version):
            continue
        element = getattr(module, field[2:], None)
        setattr(
            made, name, [filled(element, version) if isinstance(element, type) else "x" if field == "[]string" else 7]
        )
    return made


def has(versions: str, version: int) -> bool:
    low, _, high = versions.rstrip("+").partition("-")
    return version >= int(low) and (versions.endswith("+") or version <= int(high or low))


def codes(part: Any) -> set[int]:
    """Every error code in an answer."""
    found: set[int] = set()
    for line in getattr(part, "SCHEMA", ()):
        name = line.split()[0]
        value = getattr(part, name)
        if name in ("error_code", "partition_error_code"):
            found.add(value)
        for item in value if isinstance(value, list) else ():
            found |= codes(item)
    return found


@pytest.mark.parametrize("key", sorted(SERVED))
def test_every_answer_says_the_code_in_every_version(key: ApiKey) -> None:
    low, high = SERVED[key]
    spec = APIS[key]
    for version in range(low, high + 1):
        request = filled(spec.request_class(), version)
        try:
            answer = refuse(key, version, request, CODE)
        except NoRoomForErrorError:
            every = codes(filled(spec.response_class(), version))
            assert not every, (version, every)
            continue
        decoded, _ = decode(spec.response_class(), version, encode(answer, version))
        assert CODE in codes(decoded), version


def test_a_produce_answer_names_what_the_request_named() -> None:
    part = PartitionProduceData(index=3, records=b"")
    request = ProduceRequest(topic_data=[TopicProduceData(name="orders", partition_data=[part])], acks=-1, timeout_ms=1)
    answer = refuse(ApiKey.PRODUCE, 9, request, CODE)
    assert isinstance(answer, ProduceResponse)
    (topic,) = answer.responses
    (refused,) = topic.partition_responses
    assert (topic.name, refused.index, refused.error_code) == ("orders", 3, CODE)


def test_names_and_numbers_that_stand_alone_are_kept() -> None:
    groups = refuse(ApiKey.DESCRIBE_GROUPS, 6, DescribeGroupsRequest(groups=["a", "b"]), CODE)
    assert isinstance(groups, DescribeGroupsResponse)
    assert [(row.group_id, row.error_code) for row in groups.groups] == [("a", CODE), ("b", CODE)]
    topic = OffsetDeleteRequestTopic(name="t", partitions=[OffsetDeleteRequestPartition(partition_index=5)])
    offsets = refuse(ApiKey.OFFSET_DELETE, 0, OffsetDeleteRequest(group_id="g", topics=[topic]), CODE)
    assert isinstance(offsets, OffsetDeleteResponse)
    assert offsets.error_code == 0
    assert offsets.topics[0].partitions[0].partition_index == 5


def test_a_fetch_session_is_ended_before_its_partitions_are_refused() -> None:
    request = FetchRequest(session_id=9, session_epoch=4)
    answer = refuse(ApiKey.FETCH, 12, request, CODE)
    assert isinstance(answer, FetchResponse)
    assert answer.error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    assert not counts(request, answer, CODE)
