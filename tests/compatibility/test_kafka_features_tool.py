"""Apache Kafka's kafka-features against ottla: levels are described, raised, lowered and disabled, and outlive a restart."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.support import kafka_anchor
from tests.support.broker_process import BrokerProcess
from tests.support.kafka_anchor import run_tool

pytestmark = pytest.mark.kafka


def features(broker: BrokerProcess, *arguments: str) -> tuple[int, str]:
    """The tool's exit code, and what it printed."""
    done = run_tool("kafka-features", "--bootstrap-server", broker.address, *arguments)
    return done.returncode, done.stdout


def levels(broker: BrokerProcess) -> dict[str, str]:
    code, printed = features(broker, "describe")
    assert code == 0, printed
    return dict(re.findall(r"Feature: (\S+)\s.*FinalizedVersionLevel: (\S+)", printed))


def test_levels_are_lowered_and_raised(tmp_path: Path) -> None:
    kafka_anchor.require()
    highest = {"group.version": "1", "share.version": "1", "streams.version": "1", "transaction.version": "2"}
    with BrokerProcess(data_dir=tmp_path / "data") as broker:
        assert levels(broker) == highest
        code, printed = features(broker, "downgrade", "--feature", "transaction.version=1", "--dry-run")
        assert code == 0, printed
        assert "can be downgraded to 1" in printed
        assert levels(broker) == highest
        code, printed = features(broker, "downgrade", "--feature", "transaction.version=1")
        assert code == 0, printed
        assert "transaction.version was downgraded to 1" in printed
        code, printed = features(broker, "disable", "--feature", "streams.version")
        assert code == 0, printed
        assert levels(broker) == {**highest, "transaction.version": "1", "streams.version": "0"}
        code, printed = features(broker, "upgrade", "--feature", "group.version=7")
        assert code != 0
        assert "supports levels 0 to 1" in printed
        code, printed = features(broker, "downgrade", "--metadata", "3.9")
        assert code != 0
        assert "this broker has no such feature" in printed
    with BrokerProcess(data_dir=tmp_path / "data") as broker:
        assert levels(broker) == {**highest, "transaction.version": "1", "streams.version": "0"}
        code, printed = features(
            broker, "upgrade", "--feature", "transaction.version=2", "--feature", "streams.version=1"
        )
        assert code == 0, printed
        assert levels(broker) == highest
