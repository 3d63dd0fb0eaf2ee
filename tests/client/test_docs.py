"""Every Python block of docs/client.md runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.client.others import read_all
from tests.support.broker_process import RunningBroker

import ottla

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block(number: int, broker: RunningBroker, capsys: pytest.CaptureFixture[str]) -> None:
    code = BLOCKS[number].replace("localhost:9092", broker.address)
    assert code != BLOCKS[number], "a block without an address"
    with ottla.Producer(broker.address) as producer:
        producer.partitions_for("in")  # makes the topic
        if number:
            producer.send_many("orders", [b"1", b"2", b"3"], partition=0)
    exec(compile(code, f"docs/client.md, block {number + 1}", "exec"), {"__name__": "__main__"})
    if number == 0:
        assert "RecordMetadata(topic='orders', partition=0, offset=1" in capsys.readouterr().out
        assert len(read_all(broker.address, "orders")) == 1_003
