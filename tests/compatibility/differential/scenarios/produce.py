"""Produce: every version, every codec, and every batch that Kafka's validation refuses."""

from __future__ import annotations

import struct
import time

from tests.compatibility.differential.script import (
    TIME,
    UNKNOWN_ID,
    batch,
    create_topic,
    newest,
    produce_request,
    records,
    versions,
)
from tests.compatibility.differential.wire import Wire

from ottla.protocol.api import ApiKey
from ottla.protocol.messages.fetch import FetchPartition, FetchRequest, FetchTopic
from ottla.protocol.messages.init_producer_id import InitProducerIdRequest
from ottla.protocol.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from ottla.protocol.records import kernels
from ottla.protocol.records.batch import write_crc
from ottla.protocol.records.builder import Record, build_batch, wrap_body
from ottla.types import CompressionType


def every_version(wire: Wire) -> None:
    topic_id = create_topic(wire, "produce-versions", 2)
    for version in versions(ApiKey.PRODUCE):
        for acks in (-1, 1):
            request = produce_request("produce-versions", topic_id, [batch(), batch(["x"])], acks=acks)
            wire.ask(f"two partitions, acks {acks}", request, version)
        request = produce_request("produce-versions", topic_id, [batch()], acks=0)
        wire.ask_without_response("acks 0", request, version)
        wire.ask(
            "partition 7 of 2", produce_request("produce-versions", topic_id, [batch()], first_partition=7), version
        )
        wire.ask("unknown topic", produce_request("nowhere", UNKNOWN_ID, [batch()]), version)
        wire.ask("acks 5", produce_request("produce-versions", topic_id, [batch()], acks=5), version)
        # Kafka throws where it looks at the records' size, and never answers.
        nothing = produce_request("produce-versions", topic_id, [None])
        wire.ask("null records", nothing, version, patience_s=0.5)
        wire.ask("empty records", produce_request("produce-versions", topic_id, [b""]), version)
        wire.ask("no topics", ProduceRequest(acks=-1, timeout_ms=1_000), version)
        wire.ask("two batches", produce_request("produce-versions", topic_id, [batch() + batch()]), version)
        wire.ask("corrupt", produce_request("produce-versions", topic_id, [flipped(batch(), 65)]), version)
        wire.ask(
            "good and bad together",
            produce_request("produce-versions", topic_id, [batch(), flipped(batch(), 65), batch()]),
            version,
        )
        for compression in CompressionType:
            data = batch(["value" * 9] * 9, compression=compression)
            wire.ask(f"codec {compression.name}", produce_request("produce-versions", topic_id, [data]), version)
    wire.ask_without_response("acks 0, unknown topic", produce_request("nowhere", UNKNOWN_ID, [batch()], acks=0), 9)


def repeated_names(wire: Wire) -> None:
    topic_id = create_topic(wire, "produce-repeated", 2)
    for version in versions(ApiKey.PRODUCE, 7):
        row = PartitionProduceData(index=0, records=batch(["one"]))
        again = PartitionProduceData(index=0, records=batch(["two"]))
        twice = TopicProduceData(name="produce-repeated", topic_id=topic_id, partition_data=[row, again])
        wire.ask("partition twice", ProduceRequest(acks=-1, timeout_ms=5_000, topic_data=[twice]), version)
        topics = [
            TopicProduceData(name="produce-repeated", topic_id=topic_id, partition_data=[data]) for data in (row, again)
        ]
        wire.ask("topic twice", ProduceRequest(acks=-1, timeout_ms=5_000, topic_data=topics), version)
    wanted = FetchPartition(partition=0, fetch_offset=0, partition_max_bytes=1 << 20)
    topic = FetchTopic(topic="produce-repeated", topic_id=topic_id, partitions=[wanted])
    fetch = FetchRequest(max_wait_ms=0, min_bytes=0, max_bytes=1 << 20, session_epoch=-1, topics=[topic])
    wire.ask("which of the two was taken", fetch, newest(ApiKey.FETCH))


def flipped(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 0xFF
    return bytes(changed)


def patched(data: bytes | bytearray, position: int, layout: str, value: int) -> bytes:
    """The batch with one header field changed, and a CRC that fits again."""
    changed = bytearray(data)
    struct.pack_into(layout, changed, position, value)
    write_crc(changed)
    return bytes(changed)


def bad_batches(wire: Wire) -> None:
    topic_id = create_topic(wire, "produce-bad")
    good = batch()
    cases = {
        "wrong crc": flipped(good, 18),
        "magic 0": patched(good, 16, ">b", 0),
        "magic 1": patched(good, 16, ">b", 1),
        "magic 3": patched(good, 16, ">b", 3),
        **{
            f"magic {magic} with the bit of a transaction": patched(patched(good, 21, ">h", 0x10), 16, ">b", magic)
            for magic in (0, 1, 3)
        },
        "codec 5": patched(good, 21, ">h", 5),
        "codec 7": patched(good, 21, ">h", 7),
        "control": patched(good, 21, ">h", 0x20),
        "transactional without an id": patched(good, 21, ">h", 0x10),
        "log append time": patched(good, 21, ">h", 0x08),
        "delete horizon": patched(good, 21, ">h", 0x40),
        "unknown attribute": patched(good, 21, ">h", 0x80),
        "base offset 5": patched(good, 0, ">q", 5),
        "leader epoch 9": patched(good, 12, ">i", 9),
        "count too small": patched(good, 57, ">i", 2),
        "count too large": patched(good, 57, ">i", 4),
        "count 0": patched(good, 57, ">i", 0),
        "count -1": patched(good, 57, ">i", -1),
        "last offset delta too small": patched(good, 23, ">i", 1),
        "last offset delta too large": patched(good, 23, ">i", 5),
        "last offset delta negative": patched(good, 23, ">i", -1),
        "max timestamp too small": patched(good, 35, ">q", TIME - 5),
        "max timestamp too large": patched(good, 35, ">q", TIME + 50),
        "max timestamp -1": patched(good, 35, ">q", -1),
        "base timestamp -1": patched(good, 27, ">q", -1),
        "producer id without epoch": patched(good, 43, ">q", 4_000),
        "sequence without producer id": patched(good, 53, ">i", 0),
        "length too large": patched(good, 8, ">i", len(good) - 12 + 1),
        "length too small": patched(good, 8, ">i", len(good) - 12 - 1),
        "length 10": patched(good, 8, ">i", 10),
        "length 0": patched(good, 8, ">i", 0),
        "length -1": patched(good, 8, ">i", -1),
        "cut off": good[:-3],
        "cut in the header": good[:40],
        "garbage of 5 bytes": b"hello",
        "garbage of 100 bytes": b"hello" * 20,
        "body of zeros": bytes(wrapped(bytes(30), 3)),
        "body empty": bytes(wrapped(b"", 3)),
        "record longer than the batch": bytes(wrapped(b"\x7e\x00\x00\x00\x01\x01\x00", 1)),
        "record length negative": bytes(wrapped(b"\x01\x00\x00\x00\x01\x01\x00", 1)),
        "bytes after the records": bytes(wrapped(body() + b"\x00\x00", 3)),
        "offset deltas with a gap": gapped([0, 1, 5], 5),
        "offset deltas backwards": gapped([0, 2, 1], 2),
        "key length beyond the record": bytes(wrapped(b"\x0e\x00\x00\x00\x40\x01\x00", 1)),
        "header count negative": bytes(wrapped(b"\x0c\x00\x00\x00\x01\x01\x01", 1)),
        "header without a name": bytes(wrapped(b"\x10\x00\x00\x00\x01\x01\x02\x01\x01", 1)),
        "gzip that is none": bytes(patched(wrapped(body(), 3), 21, ">h", 1)),
        "snappy that is none": bytes(patched(wrapped(body(), 3), 21, ">h", 2)),
        "lz4 that is none": bytes(patched(wrapped(body(), 3), 21, ">h", 3)),
        "zstd that is none": bytes(patched(wrapped(body(), 3), 21, ">h", 4)),
        "gzip with a count too large": patched(batch(compression=CompressionType.GZIP), 57, ">i", 4),
        "gzip with a count too small": patched(batch(compression=CompressionType.GZIP), 57, ">i", 2),
    }
    for version in (7, newest(ApiKey.PRODUCE)):
        for name, data in cases.items():
            wire.ask(name, produce_request("produce-bad", topic_id, [data]), version)
    wire.ask("the next good one", produce_request("produce-bad", topic_id, [good]), newest(ApiKey.PRODUCE))


def body() -> bytes:
    return bytes(kernels.encode_records(records(), 0, TIME))


def wrapped(data: bytes, count: int) -> bytearray:
    return wrap_body(
        data,
        base_offset=0,
        last_offset_delta=count - 1,
        record_count=count,
        base_timestamp=TIME,
        max_timestamp=TIME + count - 1,
        attributes=0,
    )


def gapped(deltas: list[int], last: int) -> bytes:
    rows = [Record(delta, TIME, b"k", b"v") for delta in deltas]
    return bytes(
        wrap_body(
            kernels.encode_records(rows, 0, TIME),
            base_offset=0,
            last_offset_delta=last,
            record_count=len(rows),
            base_timestamp=TIME,
            max_timestamp=TIME,
            attributes=0,
        )
    )


def timestamps(wire: Wire) -> None:
    plain = create_topic(wire, "produce-times")
    strict = create_topic(wire, "produce-times-strict", message_timestamp_before_max_ms="1000")
    stamped = create_topic(wire, "produce-stamped", message_timestamp_type="LogAppendTime")
    now = int(time.time() * 1_000)
    day = 86_400_000
    for version in (3, 8, newest(ApiKey.PRODUCE)):
        for name, stamp in {"-1": -1, "-2": -2, "0": 0, "tomorrow": now + day, "in ten minutes": now + 600_000}.items():
            for topic, topic_id in {
                "produce-times": plain,
                "produce-times-strict": strict,
                "produce-stamped": stamped,
            }.items():
                data = batch(["a", "b"], time=stamp)
                wire.ask(f"{topic}, time {name}", produce_request(topic, topic_id, [data]), version)
    mixed = build_batch([Record(0, TIME, None, b"old"), Record(1, now + day, None, b"new")], base_offset=0)
    wire.ask("one record of tomorrow", produce_request("produce-times", plain, [bytes(mixed)]), newest(ApiKey.PRODUCE))


def topic_configs(wire: Wire) -> None:
    compacted = create_topic(wire, "produce-compacted", cleanup_policy="compact")
    both = create_topic(wire, "produce-compact-delete", cleanup_policy="compact,delete")
    small = create_topic(wire, "produce-small", max_message_bytes="200")
    for version in (3, 8, newest(ApiKey.PRODUCE)):
        wire.ask("compacted, key", produce_request("produce-compacted", compacted, [batch()]), version)
        wire.ask("compacted, no key", produce_request("produce-compacted", compacted, [batch(key=None)]), version)
        some = build_batch([Record(0, TIME, b"k", b"v"), Record(1, TIME, None, b"v")], base_offset=0)
        wire.ask("compacted, one without key", produce_request("produce-compacted", compacted, [bytes(some)]), version)
        wire.ask(
            "compact,delete without key", produce_request("produce-compact-delete", both, [batch(key=None)]), version
        )
        zipped = batch(key=None, compression=CompressionType.GZIP)
        wire.ask("compacted, gzip, no key", produce_request("produce-compacted", compacted, [zipped]), version)
        wire.ask("too large", produce_request("produce-small", small, [batch(["x" * 300])]), version)
        wire.ask("just small enough", produce_request("produce-small", small, [batch(["x" * 10])]), version)
        wire.ask(
            "zeros that shrink",
            produce_request("produce-small", small, [batch(["0" * 900], compression=CompressionType.GZIP)]),
            version,
        )
    for codec in ("uncompressed", "gzip", "snappy", "lz4", "zstd"):
        topic = f"produce-to-{codec}"
        topic_id = create_topic(wire, topic, compression_type=codec)
        for compression in CompressionType:
            data = batch(["value" * 9] * 9, compression=compression)
            wire.ask(f"{compression.name} to {codec}", produce_request(topic, topic_id, [data]), newest(ApiKey.PRODUCE))


def idempotence(wire: Wire) -> None:
    topic_id = create_topic(wire, "produce-idempotent", 3)
    answer = wire.ask("a producer id", InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=-1), 4)
    producer_id = answer.producer_id
    version = newest(ApiKey.PRODUCE)

    def send(
        name: str, sequence: int, *, epoch: int = 0, partition: int = 0, count: int = 3, version: int = version
    ) -> None:
        data = batch(
            [f"{sequence + index}" for index in range(count)],
            producer_id=producer_id,
            producer_epoch=epoch,
            base_sequence=sequence,
        )
        wire.ask(name, produce_request("produce-idempotent", topic_id, [data], first_partition=partition), version)

    send("sequence 0", 0)
    send("sequence 3", 3)
    send("the last one again", 3)
    send("sequence 6", 6)
    send("sequence 9", 9)
    send("sequence 12", 12)
    send("sequence 15", 15)
    send("five back again", 3)
    send("six back again", 0)
    send("a gap", 21)
    send("an overlap", 16)
    send("half of a kept batch", 15, count=1)
    send("the right one after errors", 18)
    send("a new epoch not at 0", 7, epoch=1)
    send("a new epoch at 0", 0, epoch=1)
    send("the old epoch", 21, epoch=0)
    send("the old epoch again, at 0", 0, epoch=0)
    send("an epoch skipped", 0, epoch=5)
    send("an unknown producer in mid sequence", 42, partition=1)
    send("going on from there", 45, partition=1)
    send("before there", 0, partition=1)
    send("wrapping", 2**31 - 2, partition=2, count=2)
    send("wrapped", 0, partition=2)
    send("negative epoch", 0, epoch=-1)
    send("negative sequence", -5)
    for old in versions(ApiKey.PRODUCE, 3, 12):
        send(f"duplicate seen by version {old}", 0, epoch=5, version=old)
        send(f"gap seen by version {old}", 99, epoch=5, version=old)
        send(f"old epoch seen by version {old}", 99, epoch=2, version=old)
    wire.ask(
        "acks 1",
        produce_request(
            "produce-idempotent", topic_id, [batch(producer_id=producer_id, producer_epoch=5, base_sequence=3)], acks=1
        ),
        version,
    )
    wire.ask(
        "somebody else's id",
        produce_request("produce-idempotent", topic_id, [batch(producer_id=10**12, producer_epoch=0, base_sequence=3)]),
        version,
    )


SCENARIOS = [every_version, repeated_names, bad_batches, timestamps, topic_configs, idempotence]
