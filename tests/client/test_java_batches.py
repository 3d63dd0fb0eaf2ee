"""Batches between our client and Java's: each compression, headers, null keys and values, a transaction's control records."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from tests.client.java import run_java
from tests.client.others import new_topic
from tests.support.broker_process import RunningBroker

import ottla

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
COUNT = 60

CROSSING = """
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.*;
public class Crossing {
    static String show(byte[] b) { return b == null ? "null" : new String(b, StandardCharsets.UTF_8); }
    static byte[] bytes(String s) { return s.getBytes(StandardCharsets.UTF_8); }
    static void write(String servers, String topic, String codec, int count) throws Exception {
        Properties p = new Properties();
        p.put("bootstrap.servers", servers); p.put("compression.type", codec); p.put("linger.ms", "50");
        p.put("transactional.id", "java-" + topic);
        ByteArraySerializer plain = new ByteArraySerializer();
        try (KafkaProducer<byte[], byte[]> out = new KafkaProducer<>(p, plain, plain)) {
            out.initTransactions();
            out.beginTransaction();
            out.send(new ProducerRecord<>(topic, bytes("aborted"), bytes("aborted")));
            out.flush();
            out.abortTransaction();
            out.beginTransaction();
            for (int n = 0; n < count; n++) {
                ProducerRecord<byte[], byte[]> r = new ProducerRecord<>(
                    topic, 0, 1000L + n, n % 3 == 0 ? null : bytes("k" + n), n % 5 == 0 ? null : bytes("v" + n));
                if (n % 2 == 0) { r.headers().add("h", bytes("x" + n)); r.headers().add("h", null); }
                out.send(r);
            }
            out.commitTransaction();
        }
    }
    static void read(String servers, String topic) {
        Properties p = new Properties();
        p.put("bootstrap.servers", servers); p.put("isolation.level", "read_committed"); p.put("check.crcs", "true");
        TopicPartition where = new TopicPartition(topic, 0);
        try (KafkaConsumer<byte[], byte[]> in =
                new KafkaConsumer<>(p, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            in.assign(List.of(where));
            in.seekToBeginning(List.of(where));
            long end = in.endOffsets(List.of(where)).get(where);
            while (in.position(where) < end) {
                for (ConsumerRecord<byte[], byte[]> r : in.poll(Duration.ofMillis(200))) {
                    StringBuilder line = new StringBuilder(topic + " " + r.timestamp());
                    line.append(" ").append(show(r.key())).append(" ").append(show(r.value()));
                    for (Header h : r.headers()) line.append(" ").append(h.key()).append("=").append(show(h.value()));
                    System.out.println(line);
                }
            }
        }
    }
    public static void main(String[] a) throws Exception {
        for (int i = 1; i < a.length; i += 3) {
            write(a[0], a[i + 1], a[i + 2], Integer.parseInt("%COUNT%"));
            read(a[0], a[i]);
        }
    }
}
"""


def expected(topic: str) -> list[str]:
    lines = []
    for n in range(COUNT):
        words = [
            topic,
            str(1000 + n),
            "null" if n % 3 == 0 else f"k{n}",
            "null" if n % 5 == 0 else f"v{n}",
            *([f"h=x{n}", "h=null"] if n % 2 == 0 else []),
        ]
        lines.append(" ".join(words))
    return lines


def show(data: bytes | None) -> str:
    return "null" if data is None else data.decode()


@pytest.mark.kafka
def test_java_reads_what_we_write_and_we_read_what_java_writes(broker: RunningBroker, tmp_path: Path) -> None:
    ours = {codec: new_topic(broker.address) for codec in CODECS}
    theirs = {codec: new_topic(broker.address) for codec in CODECS}
    for codec, topic in ours.items():
        with ottla.Producer(
            broker.address, compression_type=codec, linger_ms=50, transactional_id=uuid.uuid4().hex
        ) as producer:
            with producer.transaction() as transaction:
                transaction.send(topic, b"aborted", key=b"aborted").result(30)
                raise ottla.Abort
            with producer.transaction() as transaction:
                for n in range(COUNT):
                    transaction.send(
                        topic,
                        None if n % 5 == 0 else b"v%d" % n,
                        key=None if n % 3 == 0 else b"k%d" % n,
                        headers=[("h", b"x%d" % n), ("h", None)] if n % 2 == 0 else None,
                        timestamp=1000 + n,
                    )
    source = tmp_path / "Crossing.java"
    source.write_text(CROSSING.replace("%COUNT%", str(COUNT)))
    arguments = [word for codec in CODECS for word in (ours[codec], theirs[codec], codec)]
    printed = run_java(source, broker.address, *arguments, timeout_s=300)
    lines = [line for line in printed.splitlines() if line.startswith("t-")]
    assert lines == [line for codec in CODECS for line in expected(ours[codec])]
    for topic in theirs.values():
        with ottla.Consumer(
            broker.address, topics=[topic], auto_offset_reset="earliest", isolation_level="read_committed"
        ) as consumer:
            found = [
                " ".join(
                    [
                        topic,
                        str(record.timestamp_ms),
                        show(record.key),
                        show(record.value),
                        *(f"{name}={show(value)}" for name, value in record.headers.multi_items()),
                    ]
                )
                for record in consumer.records()
            ]
        assert found == expected(topic)
