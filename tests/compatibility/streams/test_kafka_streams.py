"""Kafka Streams (Java) with exactly_once_v2 against ottla, its instances and the broker killed at random, by the classic
group protocol and by the streams one; and `kafka-streams-groups` and `kafka-dump-log` on what the latter leaves behind.

OTTLA_STREAMS_KILLS sets how often (in each round; default 10), OTTLA_STREAMS_ROUNDS how many rounds of other seeds,
OTTLA_STREAMS_SEED the first one. `python -m tests.compatibility.streams.killing` keeps a journal, for long runs.
"""

from __future__ import annotations

import os
import random
import re
import time
from pathlib import Path

import pytest
from tests.compatibility.streams.application import Application, compile_application
from tests.compatibility.streams.killing import (
    BROKER_SETTINGS,
    PATIENCE_S,
    CommittedOutput,
    Input,
    application_config,
    run_round,
    running,
)
from tests.compatibility.test_confluent import create_topic
from tests.support import kafka_anchor
from tests.support.broker_process import BrokerProcess

pytestmark = [pytest.mark.kafka, pytest.mark.crash]

KILLS = int(os.environ.get("OTTLA_STREAMS_KILLS", "10"))
ROUNDS = int(os.environ.get("OTTLA_STREAMS_ROUNDS", "1"))
SEED = int(os.environ.get("OTTLA_STREAMS_SEED", "1"))


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kafka_anchor.require()
    return compile_application(tmp_path_factory.mktemp("classes"))


@pytest.mark.parametrize("protocol", ["classic", "streams"])
@pytest.mark.parametrize("seed", range(SEED, SEED + ROUNDS))
def test_the_output_is_exact_whoever_is_killed(seed: int, protocol: str, classes: Path, tmp_path: Path) -> None:
    figures = run_round(seed=seed, kills=KILLS, protocol=protocol, classes=classes, directory=tmp_path)
    print(f"\n{figures}")
    assert not figures.complaints, figures
    assert figures.kills.total() == KILLS


def test_kafkas_tool_for_streams_groups(classes: Path, tmp_path: Path) -> None:
    """1. Run the application. 2. List, describe, members, offsets. 3. End it; reset and delete offsets, then the group."""
    with BrokerProcess(BROKER_SETTINGS) as broker:

        def tool(*arguments: str) -> str:
            done = kafka_anchor.run_tool("kafka-streams-groups", "--bootstrap-server", broker.address, *arguments)
            assert done.returncode == 0, done.stdout
            return done.stdout

        for topic in ("lines", "left", "right", "counts", "pairs"):
            create_topic(broker, topic, 2)
        sent = Input(random.Random(1), broker, int(time.time() * 1000) - 60_000)
        sent.send(40)
        sent.flush()
        output = CommittedOutput(broker)
        instance = Application(classes, tmp_path, "only", application_config(broker, "streams"))
        with running([instance]):
            deadline = time.monotonic() + PATIENCE_S
            while output.size < sum(sent.words.values()) and time.monotonic() < deadline:
                output.read_on(0.2)
            assert "killable" in tool("--list").split()
            assert "killable" in tool("--list", "--state", "Stable")
            assert "killable" not in tool("--list", "--state", "Empty")
            assert "Stable" in tool("--describe", "--group", "killable", "--state")
            members = tool("--describe", "--group", "killable", "--members", "--verbose")
            assert re.search(r"ACTIVE: 0:\[0,\s*1\]|0:\[0,1\]", members), members
            places = tool("--describe", "--group", "killable", "--offsets")
            assert re.search(r"killable\s+lines\s+0", places), places
            assert instance.stop() in (0, 143)
        output.close()
        assert "Empty" in tool("--describe", "--group", "killable", "--state")
        reset = tool("--reset-offsets", "--group", "killable", "--input-topic", "lines", "--to-earliest", "--execute")
        assert re.search(r"killable\s+lines\s+0\s+0", reset), reset
        assert "Successful" in tool("--delete-offsets", "--group", "killable", "--input-topic", "left")
        dumped = dumped_group_records(broker)
        assert {"StreamsGroupMetadata", "StreamsGroupTopology", "StreamsGroupCurrentMemberAssignment"} <= dumped
        assert "was successful" in tool("--delete", "--group", "killable")
        assert "killable" not in tool("--list").split()


def dumped_group_records(broker: BrokerProcess) -> set[str]:
    """The kinds of records that Kafka's decoder of group records finds; it must understand all."""
    kinds: set[str] = set()
    for log in sorted(broker.data_dir.glob("__consumer_offsets-*/*.log")):
        text = kafka_anchor.tool("kafka-dump-log", "--files", str(log), "--offsets-decoder")
        assert "Could not decode" not in text, text
        assert "Unknown" not in text, text
        for match in re.finditer(r'key: \{"type":"?(\w+)', text):
            kinds.add(KINDS.get(match[1], match[1]))
    return kinds


#: Types of records, as the decoder numbers them.
KINDS = {
    "17": "StreamsGroupMetadata",
    "19": "StreamsGroupMemberMetadata",
    "20": "StreamsGroupTargetAssignmentMetadata",
    "21": "StreamsGroupTargetAssignmentMember",
    "22": "StreamsGroupCurrentMemberAssignment",
    "23": "StreamsGroupTopology",
}
