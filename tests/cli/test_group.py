"""`ottla group` and `ottla lag`."""

from __future__ import annotations

import json

import pytest
from tests.cli.conftest import Run

import ottla as ottla_client
from ottla import TopicPartition
from ottla.testing import Broker


@pytest.fixture(autouse=True)
def billing(cluster: Broker) -> None:
    """A group that has read 2 of 5 records."""
    if not any(topic.name == "orders" for topic in cluster.admin.list_topics()):
        cluster.produce("orders", [b"%d" % number for number in range(5)], timestamp=1_000_000)
    cluster.admin.alter_group_offsets("billing", {TopicPartition("orders", 0): 2})


def test_groups_are_listed_and_described(ottla: Run) -> None:
    assert ["billing", "classic", "Empty", "-"] in ottla("group", "list").lines
    assert ottla("group", "list", "--type", "share").lines == [["GROUP", "ID", "TYPE", "STATE", "PROTOCOL", "TYPE"]]
    described = ottla("group", "describe", "billing")
    assert described.lines[0][:2] == ["billing", "classic,"]
    assert described.lines[-1][:5] == ["orders", "0", "2", "5", "3"]
    told = json.loads(ottla("group", "describe", "billing", "--json").out)
    assert (told["group"]["state"], told["partitions"][0]["lag"]) == ("Empty", 3)
    missing = ottla("group", "describe", "never")
    assert (missing.code, missing.err) == (1, "ottla: There is no group 'never'.\n")


def test_lag_of_all_groups_and_of_one(ottla: Run) -> None:
    assert ["billing", "Empty", "1", "3", "3"] in ottla("lag").lines
    assert ottla("lag", "billing").lines[1][:6] == ["billing", "orders", "0", "2", "5", "3"]


def test_a_group_whose_lag_is_not_to_be_had_hides_no_other(ottla: Run, cluster: Broker) -> None:
    cluster.admin.alter_share_group_offsets("broken", {TopicPartition("orders", 0): "latest"})
    with cluster.fail("DescribeShareGroupOffsets", error="INVALID_REQUEST"):
        done = ottla("lag")
    assert done.code == 1
    assert ["billing", "Empty", "1", "3", "3"] in done.lines
    assert "broken: The request contradicts" in done.err
    cluster.admin.delete_group("broken")


def test_lag_knows_share_groups(ottla: Run, cluster: Broker) -> None:
    """1. a member of a share group accepts 2 of 5 records; 2. it has left, and 3 remain."""
    address = cluster.bootstrap_servers
    cluster.admin.alter_configs("group", "sharers", {"share.auto.offset.reset": "earliest"})
    with ottla_client.ShareConsumer(address, group_id="sharers", topics=["orders"], max_poll_records=1) as worker:
        for number, _ in enumerate(worker, 1):
            if number == 3:  # to ask for it has accepted two
                break
        behind = cluster.admin.consumer_lag("sharers")[TopicPartition("orders", 0)]
        assert behind.client_id == "ottla"
    assert ["sharers", "Empty", "1", "3", "3"] in ottla("lag").lines
    assert ottla("lag", "sharers").lines[1][:6] == ["sharers", "orders", "0", "2", "5", "3"]
    assert ottla("group", "describe", "sharers").lines[-1][:5] == ["orders", "0", "2", "5", "3"]
    cluster.admin.delete_group("sharers")


@pytest.mark.parametrize(
    ("place", "after"), [("start", 0), ("end", 5), ("-1", 4), ("3", 3), ("@500000", 0), ("@-1h", 5), ("99", 5)]
)
def test_a_group_is_reset_to_a_place(ottla: Run, cluster: Broker, place: str, after: int) -> None:
    looked = ottla("group", "reset", "billing", "--to", place, "--dry-run", "--json")
    assert json.loads(looked.out) == [{"topic": "orders", "partition": 0, "before": 2, "after": after}]
    assert cluster.admin.list_group_offsets("billing")[TopicPartition("orders", 0)].offset == 2
    assert ottla("group", "reset", "billing", "--to", place, "-t", "orders:0", "--yes").code == 0
    assert cluster.admin.list_group_offsets("billing")[TopicPartition("orders", 0)].offset == after


def test_resetting_wants_to_be_told(ottla: Run) -> None:
    refused = ottla("group", "reset", "billing", "--to", "end")
    assert refused.code == 2
    assert "orders-0: 2 -> 5" in refused.err
    wrong = ottla("group", "reset", "billing", "--to", "tomorrow", "--yes")
    assert wrong.code == 2
    assert "'tomorrow' is no place in a log" in wrong.err
    empty = ottla("group", "reset", "fresh", "--to", "end", "--yes")
    assert (empty.code, "say which topics with -t" in empty.err) == (1, True)


def test_a_group_is_deleted(ottla: Run, cluster: Broker) -> None:
    cluster.admin.alter_group_offsets("old", {TopicPartition("orders", 0): 0})
    assert ottla("group", "delete", "old", "--yes").code == 0
    gone = ottla("group", "delete", "old", "--yes")
    assert (gone.code, gone.err) == (1, "ottla: There is no group 'old'.\n")
