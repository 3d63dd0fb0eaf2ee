"""Batches that a leader sends to its followers from the file, without reading them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.replication.story import is_replicated, produce, simulate, values_on

from ottla.errors import ErrorCode
from ottla.file_region import FileRegion
from ottla.protocol.replica_fetch_frames import encode_answer

if TYPE_CHECKING:
    import pytest

    from ottla.file_region import Sendable
    from ottla.protocol.replica_fetch_frames import ReplicaAnswer
    from ottla.testing.simulated_cluster import SimulatedCluster


def test_large_batches_reach_followers_from_their_file(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Sendable] = []

    def seen(answer: ReplicaAnswer) -> list[Sendable]:
        given.extend(row.records for row in answer.partitions if row.records)
        return encode_answer(answer)

    monkeypatch.setattr("ottla.broker.handlers.replica_fetch.encode_answer", seen)
    values = [bytes([number]) * size for number, size in enumerate((50_000, 20, 200_000, 700_000, 3))]

    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start()
        await cluster.make_topic("t", [(1, 2, 3)])
        for value in values:
            assert (await produce(cluster, 1, value))[0] is ErrorCode.NONE
        await is_replicated(cluster, 1, 2, 3)
        for node_id in (1, 2, 3):
            assert values_on(cluster, node_id) == values

    simulate(scenario)
    assert {type(records) for records in given} > {FileRegion}, "small ones are read, large ones are not"
