"""Every Python block of the pages about the client runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.client.others import read_all
from tests.support.broker_process import RunningBroker

import ottla

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


CLIENT = blocks("client.md")


@pytest.mark.parametrize("number", range(len(CLIENT)))
def test_block(number: int, broker: RunningBroker, capsys: pytest.CaptureFixture[str]) -> None:
    code = CLIENT[number].replace("localhost:9092", broker.address)
    assert code != CLIENT[number], "a block without an address"
    with ottla.Producer(broker.address) as producer:
        producer.partitions_for("in")  # makes the topic
        if number:
            producer.send_many("orders", [b"1", b"2", b"3"], partition=0)
    exec(compile(code, f"docs/client.md, block {number + 1}", "exec"), {"__name__": "__main__"})
    if number == 0:
        assert "RecordMetadata(topic='orders', partition=0, offset=1" in capsys.readouterr().out
        assert len(read_all(broker.address, "orders")) == 1_003


@pytest.mark.parametrize("number", range(len(blocks("admin.md"))))
def test_block_about_administration(number: int, broker: RunningBroker, capsys: pytest.CaptureFixture[str]) -> None:
    code = blocks("admin.md")[number]
    assert "localhost:9092" in code
    code = code.replace("localhost:9092", broker.address)
    exec(compile(code, f"docs/admin.md, block {number + 1}", "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out
    assert ["604800000", "payments-1 0", "TopicPartition(topic='sensor-1'"][number] in printed
