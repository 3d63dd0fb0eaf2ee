"""UpdateFeatures, and what lowered levels change, asked of a whole broker."""

from __future__ import annotations

from dataclasses import replace

from tests.broker.handlers.test_transactions import end, init, produce, state, with_broker

from ottla.broker.broker import Broker
from ottla.broker.coordinators.transactions import records
from ottla.broker.coordinators.transactions.state import Transaction
from ottla.errors import ErrorCode
from ottla.protocol.messages.api_versions import ApiVersionsRequest, ApiVersionsResponse
from ottla.protocol.messages.consumer_group_describe import ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse
from ottla.protocol.messages.consumer_group_heartbeat import (
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
)
from ottla.protocol.messages.describe_share_group_offsets import (
    DescribeShareGroupOffsetsRequest,
    DescribeShareGroupOffsetsRequestGroup,
    DescribeShareGroupOffsetsResponse,
)
from ottla.protocol.messages.share_acknowledge import ShareAcknowledgeRequest, ShareAcknowledgeResponse
from ottla.protocol.messages.share_fetch import ShareFetchRequest, ShareFetchResponse
from ottla.protocol.messages.share_group_describe import ShareGroupDescribeRequest, ShareGroupDescribeResponse
from ottla.protocol.messages.share_group_heartbeat import ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse
from ottla.protocol.messages.streams_group_describe import StreamsGroupDescribeRequest, StreamsGroupDescribeResponse
from ottla.protocol.messages.streams_group_heartbeat import StreamsGroupHeartbeatRequest, StreamsGroupHeartbeatResponse
from ottla.protocol.messages.transaction_records import TransactionLogValue
from ottla.protocol.messages.update_features import FeatureUpdateKey, UpdateFeaturesRequest, UpdateFeaturesResponse
from ottla.testing.wire import WireClient

SAFE_DOWNGRADE = 2


async def update(client: WireClient, feature: str, level: int, kind: int = SAFE_DOWNGRADE, version: int = 2) -> int:
    row = FeatureUpdateKey(feature=feature, max_version_level=level, upgrade_type=kind)
    request = UpdateFeaturesRequest(feature_updates=[row])
    return (await client.ask(request, version, UpdateFeaturesResponse)).error_code


def test_a_level_shows_in_api_versions_and_0_means_none() -> None:
    async def ask(client: WireClient, broker: Broker) -> list[object]:
        found: list[object] = []
        for level in (1, 0):
            found.append(await update(client, "transaction.version", level))
            request = ApiVersionsRequest(client_software_name="t", client_software_version="1")
            answer = await client.ask(request, 4, ApiVersionsResponse)
            levels = {row.name: row.max_version_level for row in answer.finalized_features}
            found.append((answer.finalized_features_epoch, levels))
        return found

    others = {"group.version": 1, "share.version": 1, "streams.version": 1}
    assert with_broker({}, ask) == [0, (1, {**others, "transaction.version": 1}), 0, (2, others)]


def test_versions_0_and_1_name_each_feature_and_2_does_not() -> None:
    async def ask(client: WireClient, broker: Broker) -> list[object]:
        found: list[object] = []
        for version in (0, 1, 2):
            row = FeatureUpdateKey(feature="group.version", max_version_level=1)
            answer = await client.ask(UpdateFeaturesRequest(feature_updates=[row]), version, UpdateFeaturesResponse)
            found.append((answer.error_code, answer.error_message, [each.feature for each in answer.results]))
        return found

    named = (0, None, ["group.version"])
    assert with_broker({}, ask) == [named, named, (0, None, [])]


def test_version_0_downgrades_nothing() -> None:
    async def ask(client: WireClient, broker: Broker) -> int:
        row = FeatureUpdateKey(feature="group.version", max_version_level=0, allow_downgrade=True)
        return (await client.ask(UpdateFeaturesRequest(feature_updates=[row]), 0, UpdateFeaturesResponse)).error_code

    assert with_broker({}, ask) == ErrorCode.INVALID_UPDATE_VERSION


def test_without_group_version_the_consumer_protocol_is_not_served() -> None:
    async def ask(client: WireClient, broker: Broker) -> set[int]:
        await update(client, "group.version", 0)
        beat = await client.ask(
            ConsumerGroupHeartbeatRequest(group_id="g", member_id="m"), 1, ConsumerGroupHeartbeatResponse
        )
        described = await client.ask(ConsumerGroupDescribeRequest(group_ids=["g"]), 1, ConsumerGroupDescribeResponse)
        return {beat.error_code, described.groups[0].error_code}

    assert with_broker({}, ask) == {ErrorCode.UNSUPPORTED_VERSION}


def test_without_streams_version_the_streams_protocol_is_not_served() -> None:
    async def ask(client: WireClient, broker: Broker) -> set[int]:
        await update(client, "streams.version", 0)
        beat = await client.ask(
            StreamsGroupHeartbeatRequest(group_id="g", member_id="m"), 1, StreamsGroupHeartbeatResponse
        )
        described = await client.ask(StreamsGroupDescribeRequest(group_ids=["g"]), 1, StreamsGroupDescribeResponse)
        return {beat.error_code, described.groups[0].error_code}

    assert with_broker({}, ask) == {ErrorCode.UNSUPPORTED_VERSION}


def test_without_share_version_share_groups_are_not_served() -> None:
    async def ask(client: WireClient, broker: Broker) -> set[int]:
        await update(client, "share.version", 0)
        beat = await client.ask(ShareGroupHeartbeatRequest(group_id="g", member_id="m"), 1, ShareGroupHeartbeatResponse)
        described = await client.ask(ShareGroupDescribeRequest(group_ids=["g"]), 1, ShareGroupDescribeResponse)
        fetched = await client.ask(ShareFetchRequest(group_id="g", member_id="m"), 2, ShareFetchResponse)
        told = await client.ask(ShareAcknowledgeRequest(group_id="g", member_id="m"), 2, ShareAcknowledgeResponse)
        row = DescribeShareGroupOffsetsRequestGroup(group_id="g", topics=None)
        offsets = await client.ask(DescribeShareGroupOffsetsRequest(groups=[row]), 1, DescribeShareGroupOffsetsResponse)
        codes = {beat.error_code, described.groups[0].error_code, fetched.error_code, told.error_code}
        return codes | {offsets.groups[0].error_code}

    assert with_broker({}, ask) == {ErrorCode.UNSUPPORTED_VERSION}


def test_at_level_0_records_are_plain_as_far_as_they_can_be() -> None:
    state = Transaction(transactional_id="x", producer_id=7, previous_producer_id=7, timeout_ms=1, updated_ms=1)
    assert [records.transaction(state, level).value_version for level in (0, 1, 2)] == [0, 1, 1]
    key, value = records.encode(records.transaction(state, 0))
    assert value is not None
    decoded = records.decode(key, value)
    assert decoded is not None
    assert isinstance(decoded.value, TransactionLogValue)
    assert records.to_transaction("x", decoded.value).producer_id == 7
    newer = replace(state, client_version=2, next_producer_id=8)
    assert records.transaction(newer, 0).value_version == 1


def test_at_level_0_newer_clients_are_refused_and_older_ones_served() -> None:
    async def ask(client: WireClient, broker: Broker) -> list[object]:
        producer = await init(client)
        assert await produce(client, producer.producer_id) == ErrorCode.NONE
        await update(client, "transaction.version", 0)
        ended = await end(client, producer.producer_id)
        sent = await produce(client, producer.producer_id, sequence=1)
        begun = await init(client)  # aborts what is ongoing, whatever level it was begun at
        return [ended.error_code, sent, begun.error_code, await state(client)]

    assert with_broker({}, ask) == [
        ErrorCode.UNSUPPORTED_VERSION,
        ErrorCode.NONE,
        ErrorCode.CONCURRENT_TRANSACTIONS,
        "CompleteAbort",
    ]
