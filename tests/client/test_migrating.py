"""Every program of docs/migrating.md runs, theirs and ours, and both do the same."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ottla import TopicPartition
from ottla.testing import Broker
from ottla.testing.pytest_plugin import kafka_broker, kafka_broker_settings

__all__ = ["kafka_broker", "kafka_broker_settings"]

PAGE = (Path(__file__).parents[2] / "docs" / "migrating.md").read_text()
SECTIONS = re.findall(r"## From (\S+)\n(.*?)(?=\n## )", PAGE, re.DOTALL)
PROGRAMS = [
    pytest.param(program, id=f"{name}-{'ottla' if number else 'theirs'}")
    for name, text in SECTIONS
    for number, program in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
]


def test_the_page_has_both_programs_of_three_clients() -> None:
    assert [name for name, _ in SECTIONS] == ["kafka-python", "confluent-kafka", "aiokafka"]
    assert len(PROGRAMS) == 6


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_program_writes_reads_and_commits(program: str, kafka_broker: Broker) -> None:
    code = program.replace("localhost:9092", kafka_broker.bootstrap_servers)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["b'42' b'paid'", "b'43' b'open'", "b'42' b'refunded'"]
    committed = kafka_broker.admin.list_group_offsets("billing")
    assert {where: found.offset for where, found in committed.items()} == {TopicPartition("payments", 0): 3}
