"""The small text files, byte for byte."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ottla.storage.checkpoints import (
    CorruptCheckpointError,
    MetaProperties,
    decode_meta_properties,
    decode_offsets,
    decode_partition_metadata,
    encode_clean_shutdown,
    encode_offsets,
    encode_partition_metadata,
)
from ottla.storage.leader_epochs import LeaderEpochs
from ottla.types import TopicPartition


def test_an_offset_checkpoint() -> None:
    offsets = {TopicPartition("t", 0): 12, TopicPartition("a.b_c-d", 11): 0}
    data = b"0\n2\nt 0 12\na.b_c-d 11 0\n"
    assert encode_offsets(offsets) == data
    assert decode_offsets(data, "x") == offsets
    assert decode_offsets(data.rstrip(), "x") == offsets
    assert encode_offsets({}) == b"0\n0\n"


@pytest.mark.parametrize(
    "data",
    [
        b"9\n",
        b"9\n0\n",
        b"0\n1\n",
        b"0\n1\nt 0\n",
        b"0\n1\nt 0 -\n",
        b"0\n0\nt 0 1\n",
        "0\n1\nt 0 \u00b2\n".encode(),
        "0\n\u00b9\nt 0 2\n".encode(),
        b"0\n1\nt 0 9223372036854775808\n",
        b"0\n1\nt 0 " + b"9" * 5000,
        b"\xff\xfe",
    ],
)
def test_a_broken_offset_checkpoint_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptCheckpointError):
        decode_offsets(data, "x")


@pytest.mark.parametrize("data", [b"", b"0\n"])
def test_a_file_that_ends_early_has_no_entries_as_in_kafka(data: bytes) -> None:
    assert decode_offsets(data, "x") == {}
    assert LeaderEpochs.decode(data, "x").entries == []


def test_partition_metadata() -> None:
    topic_id = bytes(range(16))
    data = b"version: 0\ntopic_id: AAECAwQFBgcICQoLDA0ODw"
    assert encode_partition_metadata(topic_id) == data
    assert decode_partition_metadata(data + b"\n", "x") == topic_id


@pytest.mark.parametrize("data", [b"", b"version: 1\ntopic_id: AAECAwQFBgcICQoLDA0ODw", b"version: 0\ntopic_id: short"])
def test_broken_partition_metadata_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptCheckpointError):
        decode_partition_metadata(data, "x")


def test_meta_properties_of_kraft() -> None:
    properties = MetaProperties(version=1, cluster_id="abc", node_id=3, directory_id="def")
    assert properties.encode() == b"#\ncluster.id=abc\ndirectory.id=def\nnode.id=3\nversion=1\n"
    assert decode_meta_properties(properties.encode(), "x") == properties


def test_meta_properties_of_zookeeper() -> None:
    data = b"#\n#Sat Nov 21 09:00:00 UTC 2026\nbroker.id=0\nversion=0\ncluster.id=a\\=b\n"
    known = decode_meta_properties(data, "x")
    assert known == MetaProperties(version=0, cluster_id="a=b", node_id=0, directory_id=None)


@pytest.mark.parametrize("decode", [decode_meta_properties, decode_offsets])
def test_bytes_that_are_no_text_are_called_that(decode: Callable[[bytes, str], object]) -> None:
    with pytest.raises(CorruptCheckpointError, match=r"^a/file: the file holds bytes that are no text$"):
        decode(b"\xff\xfe", "a/file")


@pytest.mark.parametrize("data", [b"version=2\n", b"version=1\nnode.id=x\n", b"version=1\nnode.id=\xc2\xb2\n"])
def test_meta_properties_of_another_kind_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptCheckpointError):
        decode_meta_properties(data, "x")


def test_the_clean_marker() -> None:
    assert encode_clean_shutdown(-1) == b'{"version":0,"brokerEpoch":-1}'
