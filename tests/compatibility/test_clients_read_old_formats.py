"""confluent-kafka and kafka-python read segments of formats 0, 1 and 2, after a clean and an unclean start."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator

import pytest
from confluent_kafka.admin import AdminClient
from tests.compatibility.old_format_topics import create_topic, read_all
from tests.protocol.records.legacy_support import CODECS, mixed_runs, segments
from tests.support.broker_process import BrokerProcess

from ottla.protocol.records.builder import Record

with warnings.catch_warnings():
    # It reads its schemas through importlib.resources.read_text, deprecated since Python 3.11.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka import KafkaConsumer, TopicPartition

pytestmark = [
    pytest.mark.filterwarnings("ignore:read_text is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]

RUNS = mixed_runs(random.Random(5), 80)
RECORDS = [record for run in RUNS for record in run.consumed()]
#: kafka-python needs more packages for snappy and lz4.
PLAIN_RUNS = [run._replace(codec=run.codec if run.codec in (CODECS[0], CODECS[1]) else CODECS[1]) for run in RUNS]
SETTINGS = {"log.retention.ms": "-1", "log.index.interval.bytes": "512"}


@pytest.fixture(params=["clean", "unclean"])
def broker(request: pytest.FixtureRequest) -> Iterator[BrokerProcess]:
    """A broker that was started on a directory with old segments."""
    running = BrokerProcess(SETTINGS)
    try:
        running.start()
        admin = AdminClient({"bootstrap.servers": running.address, "log_level": 0})
        for topic in ("old", "plain"):
            create_topic(admin, topic)
        running.terminate()
        for topic, runs in (("old", RUNS), ("plain", PLAIN_RUNS)):
            folder = running.data_dir / f"{topic}-0"
            for path in folder.iterdir():
                if path.name != "partition.metadata":
                    path.unlink()
            for base_offset, data in segments(runs, 5).items():
                (folder / f"{base_offset:020}.log").write_bytes(data)
        if request.param == "unclean":
            (running.data_dir / ".kafka_cleanshutdown").unlink()
            (running.data_dir / "recovery-point-offset-checkpoint").unlink()
        running.start()
        yield running
    finally:
        running.close()


def test_confluent_kafka(broker: BrokerProcess) -> None:
    served = read_all(broker.address, ["old"])["old"]
    assert served.records == [(record.offset, record.timestamp, record.key, record.value) for record in RECORDS]
    assert served.watermarks == (0, RECORDS[-1].offset + 1)
    for timestamp, offset in served.by_time.items():
        assert offset == next((each.offset for each in RECORDS if each.timestamp >= timestamp), -1), timestamp


def test_kafka_python(broker: BrokerProcess) -> None:
    consumer = KafkaConsumer(
        bootstrap_servers=broker.address, auto_offset_reset="earliest", consumer_timeout_ms=20_000, group_id=None
    )
    try:
        consumer.assign([TopicPartition("plain", 0)])
        found = []
        for each in consumer:
            found.append(Record(each.offset, -1 if each.timestamp is None else each.timestamp, each.key, each.value))
            if each.offset == RECORDS[-1].offset:
                break
    finally:
        consumer.close()
    assert found == RECORDS
