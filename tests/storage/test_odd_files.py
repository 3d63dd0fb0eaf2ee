"""Files and directories in a log directory that no broker wrote there: they stay, and cost one partition at most."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.storage.log_support import append_many, read_all

from ottla.clock import SystemClock
from ottla.errors import StorageError
from ottla.offload import InlineOffload
from ottla.storage.config import LogConfig
from ottla.storage.files import OsFiles
from ottla.storage.log_manager import LogManager
from ottla.types import TopicPartition

A, B = TopicPartition("a", 0), TopicPartition("b", 0)
CONFIG = LogConfig(segment_bytes=900)
ID = bytes(range(16))
FIRST = f"{0:020d}"


async def start(path: Path) -> LogManager:
    manager = LogManager(
        OsFiles(),
        [str(path / "data")],
        cluster_id="cluster-of-the-tests-1",
        node_id=1,
        clock=SystemClock(),
        offload=InlineOffload(),
        default_config=CONFIG,
        random=random.Random(1),
    )
    await manager.load()
    return manager


async def two_logs(path: Path) -> Path:
    """Two partitions of several segments, stopped cleanly; returns the directory of the first."""
    manager = await start(path)
    for topic_partition in (A, B):
        log = manager.create(topic_partition, ID, CONFIG)
        append_many(log, 40)
        log.advance_high_watermark(40)
    await manager.close()
    return path / "data" / "a-0"


def make_unclean(path: Path) -> None:
    (path / "data" / ".kafka_cleanshutdown").unlink()


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        "bar.tmp/foo.deleted",
        "old.deleted/x",
        f"{FIRST}.log.swap/x",
        f"{FIRST}.log.cleaned/x",
        "notes/x",
        "abc.swap",
        "abc.log.swap",
        "abc.cleaned",
        "abc.log",
        "short.snapshot",
        f"{FIRST}.old.log",
        "99999999999999999999.log",
        "99999999999999999999.log.swap",
        "99999999999999999999.index",
        "99999999999999999999.snapshot",
        "0000000000000000000\u0663.log",
        "0000000000000000000\u00b2.log",
        "0000000000000000000\u00b2.txnindex",
    ],
)
async def test_what_is_no_file_of_the_log_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, clean: bool
) -> None:
    odd = await two_logs(tmp_path) / name
    odd.parent.mkdir(exist_ok=True)
    odd.write_bytes(b"not ours")
    if not clean:
        make_unclean(tmp_path)
    caplog.clear()
    manager = await start(tmp_path)
    assert not manager.unusable
    assert [len(read_all(manager.logs[topic_partition])) for topic_partition in (A, B)] == [40, 40]
    assert odd.read_bytes() == b"not ours"
    if not name.startswith("notes"):
        said = [record for record in caplog.records if name.partition("/")[0] in record.getMessage()]
        assert len(said) == 1
    append_many(manager.logs[A], 1)
    await manager.close()
    assert odd.read_bytes() == b"not ours"


async def test_an_interrupted_compaction_is_finished_beside_odd_files(tmp_path: Path) -> None:
    directory = await two_logs(tmp_path)
    (directory / "abc.log").write_bytes(b"not ours")
    (directory / "abc.cleaned").write_bytes(b"not ours")
    for name in sorted(path.name for path in directory.glob(f"{FIRST}.*")):
        (directory / f"{name}.swap").write_bytes((directory / name).read_bytes())
    manager = await start(tmp_path)
    assert not list(directory.glob("*.swap"))
    assert len(read_all(manager.logs[A])) == 40
    await manager.close()
    assert (directory / "abc.log").read_bytes() == (directory / "abc.cleaned").read_bytes() == b"not ours"


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize(
    "pattern", ["*.log", "*.index", "*.timeindex", "*.snapshot", "leader-epoch-checkpoint", "partition.metadata"]
)
@pytest.mark.parametrize("which", [0, -1])
async def test_a_directory_in_place_of_a_file_costs_its_partition_only(
    tmp_path: Path, pattern: str, which: int, clean: bool
) -> None:
    """It stopped the broker with "Is a directory", and did not say which."""
    directory = await two_logs(tmp_path)
    place = sorted(directory.glob(pattern))[which]
    content = place.read_bytes()
    place.unlink()
    place.mkdir()
    if not clean:
        make_unclean(tmp_path)
    manager = await start(tmp_path)
    assert manager.online_dirs
    assert list(manager.logs) == [B]
    assert f"{place} is a directory and should be a file" in manager.unusable[A]
    assert len(read_all(manager.logs[B])) == 40
    await manager.close()
    place.rmdir()
    place.write_bytes(content)
    manager = await start(tmp_path)
    assert not manager.unusable
    assert (len(read_all(manager.logs[A])), manager.logs[A].high_watermark) == (40, 40)
    await manager.close()


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
async def test_meta_properties_that_are_none_are_named(tmp_path: Path, content: bytes | None) -> None:
    path = (await two_logs(tmp_path)).parent / "meta.properties"
    path.unlink()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(StorageError) as caught:
        await start(tmp_path)
    assert str(path) in str(caught.value)
    assert "codec" not in str(caught.value)
    assert "Errno" not in str(caught.value)
