"""The Python blocks of docs/connect.md run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.support.broker_process import RunningBroker

import ottla
from ottla.connect import INT64, JsonConverter
from ottla.connect.decorators import declared

PAGE = Path(__file__).parents[2] / "docs" / "connect.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
OFFLINE = [block for block in BLOCKS if "localhost:9092" not in block]
ONLINE = [block for block in BLOCKS if "localhost:9092" in block]


@pytest.mark.parametrize("number", range(len(OFFLINE)))
def test_block_without_a_broker(number: int) -> None:
    before = dict(declared)
    try:
        exec(compile(OFFLINE[number], f"docs/connect.md, offline block {number + 1}", "exec"), {"__name__": "__main__"})
    finally:
        declared.clear()
        declared.update(before)


def test_block_that_reads_what_connect_wrote(broker: RunningBroker, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = ONLINE
    code = block.replace("localhost:9092", broker.address)
    with ottla.Producer(broker.address) as producer:
        producer.send("orders", JsonConverter().from_connect("orders", INT64, 7)).result(60)
    exec(compile(code, "docs/connect.md", "exec"), {"__name__": "__main__"})
    assert "Schema{INT64} 7" in capsys.readouterr().out
