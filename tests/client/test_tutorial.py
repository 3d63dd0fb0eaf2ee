"""docs/tutorial.md, from its first block to its last: Python, and what is typed into a terminal."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.client.others import read_all
from tests.support.broker_process import RunningBroker

import ottla
from ottla.testing import Broker

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE.read_text(), re.DOTALL)


def type_in(text: str, address: str) -> str:
    """Run the commands of a block; return what they print."""
    printed = ""
    for line in text.splitlines():
        if line.startswith("pip ") or line == "ottla serve":
            continue
        command = [sys.executable, "-m", "ottla", *shlex.split(line)[1:]]
        done = subprocess.run(
            command,
            env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": address, "COLUMNS": "120"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, (line, done.stderr)
        printed += done.stdout
    return printed


@pytest.mark.parametrize("broker", ["ottla"], indirect=True)
def test_the_tutorial_runs_from_end_to_end(broker: RunningBroker, capsys: pytest.CaptureFixture[str]) -> None:
    """The blocks in their order, each as a program of its own; what each is there for has happened."""
    printed: list[str] = []
    for number, (kind, text) in enumerate(BLOCKS):
        if kind == "python":
            code = text.replace("localhost:9092", broker.address)
            program: dict[str, object] = {"__name__": f"block_{number}"}
            sys.modules[f"block_{number}"] = type(sys)(f"block_{number}")  # dataclasses look their module up
            exec(compile(code, f"docs/tutorial.md, block {number + 1}", "exec"), program)
            printed.append(capsys.readouterr().out)
            test = program.get("test_double")
            if test is not None:
                with Broker() as fresh:
                    test(fresh)  # type: ignore[operator]
        else:
            assert not kind, f"a block of {kind!r}, which nothing runs here"
            printed.append(type_in(text, broker.address))
    text = "\n".join(printed)
    assert "RecordMetadata(topic='readings'" in text
    assert re.search(r"\d:\d+ sensor-3 \{", text), "ottla consume has printed records"
    assert "{'sensor-" in text
    assert "b'21.5 degrees' b'DeserializationError: " in text
    assert "b'ValueError: I do not like this one'" in text
    assert "sensor-0" in text
    assert "fahrenheit" in text
    assert "warmest" in text
    dead = [letter.value for letter in read_all(broker.address, "readings.dead")]
    assert sorted(json.loads(value or b"")["celsius"] if value != b"21.5 degrees" else 0 for value in dead) == [0, 21.0]
    assert len(read_all(broker.address, "readings.fahrenheit")) == 21


@pytest.mark.parametrize("broker", ["ottla"], indirect=True)
def test_exactly_once_that_is_killed_goes_on_when_it_is_started_again_at_once(broker: RunningBroker) -> None:
    """The group still counts the dead program as a member: the next one waits until it has the partitions."""
    (text,) = [text for _, text in BLOCKS if 'commit="transaction"' in text]
    code = text.replace("localhost:9092", broker.address).replace("readings", "cut")
    code = code.replace('group_id="fahrenheit"', 'group_id="cut"')
    with ottla.Producer(broker.address) as producer:
        for number in range(25):
            producer.send("cut", b'{"celsius": %d}' % number)
    after_a_commit = "        if sum("
    assert after_a_commit in code
    dying = code.replace(after_a_commit, f"        import os\n        os.kill(os.getpid(), 9)\n{after_a_commit}")
    dead = subprocess.run([sys.executable, "-c", dying], capture_output=True, timeout=60, check=False)
    assert dead.returncode == -9, dead.stderr
    assert len(read_all(broker.address, "cut.fahrenheit")) == 10
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    values = [float(record.value or b"") for record in read_all(broker.address, "cut.fahrenheit")]
    assert sorted(values) == [pytest.approx(number * 9 / 5 + 32) for number in range(25)]
