"""README.md's Python runs as it stands there, against a running broker; only names, ports and patience are changed."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from tests.support.broker_process import BrokerProcess

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
#: What stands in README.md beside the port and is changed for these tests: waiting ends sooner, and there is less to do.
CHANGES = {
    "first steps": {},
    "own client": {"greetings": "own-greetings"},
    "exactly once": {"timeout=1": "timeout=2", "            continue  #": "            break  #"},
    "queue": {"range(100_000)": "range(500)"},
    "worker": {"worker.poll(30)": "worker.poll(3)"},
}
#: Groups that do not wait for company, and members that hear after half a second what they have been given.
QUICK = {
    "group.initial.rebalance.delay.ms": "0",
    "group.share.min.heartbeat.interval.ms": "500",
    "group.share.heartbeat.interval.ms": "500",
}


def blocks() -> dict[str, str]:
    """Return the Python blocks by what they show."""
    found = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(found) == len(CHANGES), "README.md has other Python blocks than these tests know"
    return dict(zip(CHANGES, found, strict=True))


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerProcess]:
    with BrokerProcess(QUICK) as running:
        yield running


def begin(name: str, broker: BrokerProcess, **changes: str) -> subprocess.Popen[str]:
    """Start a block as a program of its own."""
    code = blocks()[name]
    for before, after in {**CHANGES[name], **changes, "localhost:9092": f"localhost:{broker.port}"}.items():
        assert before in code, f"README.md: {name} has no {before} any more"
        code = code.replace(before, after)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(program: subprocess.Popen[str]) -> str:
    """Wait for a program; its output."""
    out, err = program.communicate(timeout=PATIENCE_S)
    assert program.returncode == 0, err
    assert "Traceback" not in err
    return out


def test_first_steps_show_the_record_and_end_at_once(broker: BrokerProcess) -> None:
    began = time.monotonic()
    assert end(begin("first steps", broker)) == "b'anna' b'hello'\n"
    assert time.monotonic() - began < 9  # it does not wait for a second record that nobody sends


def test_the_client_of_ottla_itself_shows_what_it_sent(broker: BrokerProcess) -> None:
    sent, *read = end(begin("own client", broker)).splitlines()
    assert "own-greetings" in sent
    assert read == ["b'anna' b'hello'", "None b'hello again'"]


def committed(broker: BrokerProcess, topic: str, count: int) -> list[int]:
    """Return what committed transactions have written to a topic, at least `count` of it."""
    settings = {"group.id": "checks", "isolation.level": "read_committed", "auto.offset.reset": "earliest"}
    consumer = Consumer({"bootstrap.servers": broker.address, "enable.auto.commit": False, **settings})
    consumer.subscribe([topic])
    values: list[int] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(values) < count and time.monotonic() < deadline:
        message = consumer.poll(0.5)
        if message is not None and message.error() is None:
            values.append(int(message.value() or b""))
    consumer.close()
    return sorted(values)


def send_numbers(broker: BrokerProcess, topic: str, numbers: range) -> None:
    producer = Producer({"bootstrap.servers": broker.address})
    for number in numbers:
        producer.produce(topic, str(number))
    assert producer.flush(PATIENCE_S) == 0


def test_exactly_once_makes_its_topic_and_goes_on_where_it_stopped(broker: BrokerProcess) -> None:
    admin = AdminClient({"bootstrap.servers": broker.address})
    program = begin("exactly once", broker)
    deadline = time.monotonic() + PATIENCE_S
    while "numbers" not in admin.list_topics(timeout=PATIENCE_S).topics:
        assert time.monotonic() < deadline
        assert program.poll() is None, program.communicate()[1]
    send_numbers(broker, "numbers", range(100))
    assert committed(broker, "doubled", 100) == [2 * number for number in range(100)]
    end(program)
    send_numbers(broker, "numbers", range(100, 150))
    end(begin("exactly once", broker))
    assert committed(broker, "doubled", 150) == [2 * number for number in range(150)]


def test_exactly_once_from_a_topic_of_several_partitions(broker: BrokerProcess) -> None:
    admin = AdminClient({"bootstrap.servers": broker.address})  # named: a client that is collected drops its requests
    admin.create_topics([NewTopic("many", 3, 1)])["many"].result(PATIENCE_S)
    send_numbers(broker, "many", range(100))
    end(begin("exactly once", broker, numbers="many", doubled="many-doubled", doubling="many-doubling"))
    assert committed(broker, "many-doubled", 100) == [2 * number for number in range(100)]


def test_exactly_once_that_is_killed_goes_on_when_it_is_started_again_at_once(broker: BrokerProcess) -> None:
    """The group still counts the dead program as a member: the next one waits until it has the partitions."""
    admin = AdminClient({"bootstrap.servers": broker.address})
    admin.create_topics([NewTopic("cut", 2, 1)])["cut"].result(PATIENCE_S)
    send_numbers(broker, "cut", range(150))
    names = {"numbers": "cut", "doubled": "cut-doubled", "doubling": "cut-doubling"}
    names['"isolation.level"'] = '"session.timeout.ms": 6000, "isolation.level"'
    die = "__import__('os').kill(__import__('os').getpid(), 9)"
    names["            break  #"] = "            continue  #"
    killed = begin("exactly once", broker, **names, **{"producer.commit_transaction()": die})
    killed.communicate(timeout=PATIENCE_S)
    assert killed.returncode == -9
    patient = begin("exactly once", broker, **names)
    try:
        assert committed(broker, "cut-doubled", 150) == [2 * number for number in range(150)]
    finally:
        patient.kill()
        patient.communicate(timeout=PATIENCE_S)


def test_a_message_that_is_an_error_ends_exactly_once_and_is_not_doubled(broker: BrokerProcess) -> None:
    changes = {'producer.list_topics("numbers")': "pass", "numbers": "nowhere", "doubling": "nothing"}
    program = begin("exactly once", broker, **changes)
    _, err = program.communicate(timeout=PATIENCE_S)
    assert program.returncode == 1
    assert "KafkaException" in err
    assert "UNKNOWN_TOPIC_OR_PART" in err


def test_the_queue_is_set_up_and_workers_share_its_jobs(broker: BrokerProcess) -> None:
    end(begin("queue", broker))
    outputs = [end(program) for program in [begin("worker", broker), begin("worker", broker)]]
    jobs = [line.split(" delivered ")[0] for output in outputs for line in output.splitlines()]
    assert sorted(jobs) == sorted(repr(f"job {number}".encode()) for number in range(500))
