"""After `ottla log repair` of a damaged end other people's consumers come to the end of the log, and go on there."""

from __future__ import annotations

import warnings

import pytest
from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, TopicPartition
from tests.cli.test_log import ottla, produce
from tests.support.broker_process import BrokerProcess

with warnings.catch_warnings():
    # It reads its schemas through importlib.resources.read_text, deprecated since Python 3.11.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka import KafkaConsumer
    from kafka import TopicPartition as PythonPartition

pytestmark = [
    pytest.mark.filterwarnings("ignore:read_text is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]


def test_consumers_pass_a_lost_end() -> None:
    """1. Cut the last batch of a stopped broker; 2. repair; 3. clients there come to the end, then to new records."""
    with BrokerProcess() as broker:
        data_dir = str(broker.data_dir)
        produce(broker.address, "t", [b"value-%d" % number for number in range(35)])
        assert broker.terminate() == 0
        log = broker.data_dir / "t-0" / f"{0:020}.log"
        log.write_bytes(log.read_bytes()[:-10])
        done = ottla("repair", "t-0", "--data-dir", data_dir, "--yes")
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert "write an empty batch for offset 34: consumers pass" in done.stdout
        assert ottla("check", str(log.parent)).stdout.endswith(": nothing is wrong\n")

        broker.start()
        consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "g", "enable.partition.eof": True})
        consumer.assign([TopicPartition("t", 0, 34)])
        message = consumer.poll(20)
        assert message is not None, "a consumer at the lost offset waits there"
        error = message.error()
        assert error is not None
        assert error.code() == KafkaError._PARTITION_EOF
        assert consumer.position([TopicPartition("t", 0)])[0].offset in (35, OFFSET_INVALID)
        python = KafkaConsumer(bootstrap_servers=broker.address, consumer_timeout_ms=20_000)
        partition = PythonPartition("t", 0)
        python.assign([partition])
        python.seek(partition, 33)
        assert next(python).offset == 33
        while python.position(partition) < 35:
            assert python.poll(200) == {}
        produce(broker.address, "t", [b"new"])
        assert next(python).value == b"new"
        python.close()
        message = consumer.poll(20)
        assert message is not None
        assert (message.offset(), message.value()) == (35, b"new")
        consumer.close()
        assert broker.terminate() == 0
        assert ottla("check", data_dir).returncode == 0
