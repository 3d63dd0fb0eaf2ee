"""All logs of a broker: directories, starts and stops, group commit, background work, a disk that fails."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import pytest
from tests.storage.log_support import NOW, append, append_many, batch, idempotent, read_all, value_of

from ottla.broker.http.facts import LogDirFacts
from ottla.errors import KafkaStorageError, StorageError
from ottla.offload import InlineOffload
from ottla.storage.config import LogConfig
from ottla.storage.log_directory import parse_partition_name, renamed
from ottla.storage.log_manager import SLICE, LogManager, LogManagerSettings
from ottla.testing.memory_files import MemoryFiles
from ottla.types import TopicPartition

P = ParamSpec("P")
T = TypeVar("T")

CLUSTER = "cluster-of-the-tests-1"
TOPIC_ID = bytes(range(16))
A, B = TopicPartition("a", 0), TopicPartition("b", 3)


class FixedClock:
    def __init__(self) -> None:
        self.now_ms = NOW

    def monotonic_ms(self) -> int:
        return self.now_ms

    def boot_ms(self) -> int:
        return self.now_ms

    def wall_ms(self) -> int:
        return self.now_ms

    def thread_waits(self) -> int:
        return 0


class Bench:
    """A disk and the brokers that use it one after the other."""

    def __init__(self, dirs: tuple[str, ...] = ("data",)) -> None:
        self.clock = FixedClock()
        self.files = MemoryFiles(self.clock.wall_ms)
        self.dirs = dirs
        self.offload = InlineOffload()
        self.offline: list[tuple[str, list[TopicPartition]]] = []

    def manager(self, *, cluster_id: str | None = CLUSTER, node_id: int = 1, **settings: Any) -> LogManager:
        return LogManager(
            self.files,
            self.dirs,
            cluster_id=cluster_id,
            node_id=node_id,
            clock=self.clock,
            offload=self.offload,
            default_config=LogConfig(),
            random=random.Random(1),
            settings=LogManagerSettings(**settings),
            on_directory_offline=lambda path, partitions: self.offline.append((path, partitions)),
        )

    async def start(self, config: LogConfig | None = None, **options: Any) -> LogManager:
        manager = self.manager(**options)
        await manager.load(None if config is None else lambda _topic: config)
        return manager

    def fail(self, operation: str, suffix: str = "", code: int = errno.EIO) -> None:
        def fail(name: str, path: str) -> None:
            if name == operation and path.endswith(suffix):
                raise OSError(code, "a fault of the test", path)

        self.files.fail = fail


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


# ------------------------------------------------------------------------------------------------ start and stop


async def test_a_new_directory_is_ours() -> None:
    bench = Bench()
    manager = await bench.start()
    assert bench.files.read_bytes("data/.ottla") == b'{"format":1}'
    assert bench.files.read_bytes("data/meta.properties").startswith(b"#\ncluster.id=cluster-of-the-tests-1\n")
    assert not manager.directories["data"].is_foreign
    assert not manager.was_clean


async def test_after_a_clean_stop_nothing_is_recovered() -> None:
    bench = Bench()
    manager = await bench.start()
    append_many(manager.create(A, TOPIC_ID, LogConfig()), 5)
    append(manager.logs[A], idempotent(7, 0, 0))
    manager.logs[A].advance_high_watermark(6)
    await manager.close(broker_epoch=3)
    assert bench.files.read_bytes("data/.kafka_cleanshutdown") == b'{"version":0,"brokerEpoch":3}'
    assert bench.files.read_bytes("data/recovery-point-offset-checkpoint") == b"0\n1\na 0 6\n"
    assert bench.files.read_bytes("data/replication-offset-checkpoint") == b"0\n1\na 0 6\n"
    manager = await bench.start()
    assert manager.was_clean
    assert manager.recovered_logs == 0
    log = manager.logs[A]
    assert (log.log_end_offset, log.high_watermark, log.recovery_point, log.topic_id) == (6, 6, 6, TOPIC_ID)
    assert append(log, idempotent(7, 0, 0)).duplicate
    assert not bench.files.exists("data/.kafka_cleanshutdown")


async def test_after_a_kill_everything_written_is_recovered() -> None:
    bench = Bench()
    manager = await bench.start()
    append_many(manager.create(A, TOPIC_ID, LogConfig()), 5)
    bench.files.kill()
    manager = await bench.start()
    assert not manager.was_clean
    assert manager.recovered_logs == 1
    assert len(read_all(manager.logs[A])) == 5


async def test_a_start_that_ends_before_logs_are_opened_keeps_the_clean_marker() -> None:
    bench = Bench()
    await (await bench.start()).close()
    manager = bench.manager()
    await manager.take_directories()
    await manager.close()
    assert (await bench.start()).was_clean


async def test_a_log_without_a_checkpoint_is_recovered_even_after_a_clean_stop() -> None:
    bench = Bench()
    manager = await bench.start()
    append_many(manager.create(A, TOPIC_ID, LogConfig()), 5)
    await manager.close()
    bench.files.write_atomic("data/recovery-point-offset-checkpoint", b"0\n0\n")
    manager = await bench.start()
    assert manager.recovered_logs == 1


async def test_a_stop_that_could_not_close_a_log_is_not_clean() -> None:
    bench = Bench()
    manager = await bench.start()
    append_many(manager.create(A, TOPIC_ID, LogConfig()), 5)
    bench.fail("sync", ".log")
    await manager.close()
    assert not bench.files.exists("data/.kafka_cleanshutdown")


async def test_topics_get_their_own_configuration() -> None:
    bench = Bench()
    manager = await bench.start()
    manager.create(A, TOPIC_ID, LogConfig())
    await manager.close()
    manager = await bench.start(LogConfig(segment_bytes=900))
    assert manager.logs[A].config.segment_bytes == 900
    manager.update_config("a", LogConfig(segment_bytes=800))
    manager.update_config("b", LogConfig(segment_bytes=700))
    assert manager.logs[A].config.segment_bytes == 800


# ------------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"cluster_id": "another"}, "belongs to the cluster"), ({"node_id": 2}, "belongs to the broker")],
)
async def test_a_directory_of_somebody_else_is_refused(options: dict[str, Any], reason: str) -> None:
    bench = Bench()
    await (await bench.start()).close()
    with pytest.raises(StorageError, match=reason):
        await bench.start(**options)


async def test_a_directory_in_use_is_refused() -> None:
    bench = Bench()
    await bench.start()
    with pytest.raises(StorageError, match="in use"):
        await bench.start()


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        (".ottla", b'{"format":2}', "newer"),
        (".ottla", b"?", "cannot be read"),
        ("meta.properties", b"version=7\n", "version"),
    ],
)
async def test_a_directory_of_an_unknown_format_is_refused(name: str, data: bytes, reason: str) -> None:
    bench = Bench()
    await (await bench.start()).close()
    bench.files.write_atomic(f"data/{name}", data)
    with pytest.raises(StorageError, match=reason):
        await bench.start()


async def test_a_partition_in_two_directories_is_refused() -> None:
    bench = Bench(("one", "two"))
    manager = await bench.start()
    manager.create(A, TOPIC_ID, LogConfig())
    await manager.close()
    bench.files.mkdir("one/a-0")
    bench.files.mkdir("two/a-0")
    with pytest.raises(StorageError, match="both"):
        await bench.start()


async def test_without_a_cluster_id_that_of_the_directory_is_taken() -> None:
    bench = Bench()
    await (await bench.start()).close()
    assert (await bench.start(cluster_id=None)).cluster_id == CLUSTER


# ------------------------------------------------------------------------------------------------ foreign


async def foreign_bench() -> Bench:
    bench = Bench()
    manager = await bench.start()
    log = manager.create(A, TOPIC_ID, LogConfig(segment_bytes=900))
    append_many(log, 20)
    log.advance_high_watermark(20)
    await manager.close()
    bench.files.remove("data/.ottla")
    bench.files.write_atomic("data/bootstrap.checkpoint", b"")
    bench.files.mkdir("data/__cluster_metadata-0")
    bench.clock.now_ms += 1000 * 86_400_000
    return bench


async def test_a_directory_of_kafka_gets_no_retention_until_confirmed() -> None:
    bench = await foreign_bench()
    manager = await bench.start()
    assert sorted(manager.logs) == [A], "KRaft's own log is nobody's partition"
    assert await manager.apply_retention() == 0
    append_many(manager.logs[A], 1)
    await manager.close()
    manager = await bench.start()
    assert manager.directories["data"].is_foreign, "writing to it is no confirmation"
    await manager.close()
    manager = await bench.start(foreign_confirmed=True)
    assert await manager.apply_retention() > 0
    await manager.close()
    assert not (await bench.start()).directories["data"].is_foreign


# ------------------------------------------------------------------------------------------------ delete


async def test_a_deleted_log_is_renamed_and_unlinked_later() -> None:
    bench = Bench()
    manager = await bench.start()
    append_many(manager.create(A, TOPIC_ID, LogConfig(file_delete_delay_ms=1000)), 3)
    manager.delete(A)
    assert A not in manager.logs
    (name,) = [name for name in bench.files.listdir("data") if name.endswith("-delete")]
    assert await manager.remove_deleted_files() == 0
    bench.clock.now_ms += 1000
    assert await manager.remove_deleted_files() == 1
    assert not bench.files.exists(f"data/{name}")
    append_many(manager.create(A, TOPIC_ID, LogConfig()), 1)


async def test_what_was_to_be_unlinked_before_a_crash_is_unlinked_after_it() -> None:
    bench = Bench()
    manager = await bench.start()
    manager.create(A, TOPIC_ID, LogConfig())
    manager.delete(A)
    bench.files.kill()
    manager = await bench.start()
    assert not manager.logs
    assert await manager.remove_deleted_files() == 1


async def test_a_log_may_be_deleted_while_it_is_flushed() -> None:
    bench = Bench()
    manager = await bench.start()
    log = manager.create(A, TOPIC_ID, LogConfig())
    append_many(log, 3)
    commit = manager.commit(log)
    manager.delete(A)
    await asyncio.wait([commit])
    assert isinstance(commit.exception(), StorageError)
    await settle()
    assert not manager.offline_dirs


async def test_segments_that_retention_removed_are_unlinked_later() -> None:
    bench = Bench()
    manager = await bench.start()
    log = manager.create(A, TOPIC_ID, LogConfig(segment_bytes=900, retention_ms=1000, file_delete_delay_ms=500))
    append_many(log, 20)
    log.advance_high_watermark(20)
    bench.clock.now_ms += 2000
    assert await manager.apply_retention() == 4
    assert [name for name in bench.files.listdir("data/a-0") if name.endswith(".deleted")]
    bench.clock.now_ms += 500
    assert await manager.remove_deleted_files() > 0
    assert not [name for name in bench.files.listdir("data/a-0") if name.endswith(".deleted")]


async def test_a_log_set_aside_stays_on_the_disk() -> None:
    bench = Bench()
    manager = await bench.start()
    append_many(manager.create(A, TOPIC_ID, LogConfig()), 3)
    path = manager.set_aside(A)
    assert path.endswith("-stray")
    await manager.close()
    assert not (await bench.start()).logs
    assert bench.files.exists(path)


def test_partition_names() -> None:
    assert parse_partition_name("a.b-c_d-12") == TopicPartition("a.b-c_d", 12)
    for name in ("a", "a-", "-1", "a-1x", "a-0.0123-delete", "__cluster_metadata-0", "meta.properties", "a-¹"):
        assert parse_partition_name(name) is None
    long = renamed(TopicPartition("x" * 249, 0), bytes(16), "-delete")
    assert len(long) == 255
    assert long.endswith("." + "00" * 16 + "-delete")


# ------------------------------------------------------------------------------------------------ group commit


def count_syncs(files: MemoryFiles) -> list[str]:
    synced: list[str] = []
    files.fail = lambda operation, path: synced.append(path) if operation == "sync" and path.endswith(".log") else None
    return synced


async def test_commits_of_one_turn_share_an_fsync() -> None:
    bench = Bench()
    manager = await bench.start()
    log, other = manager.create(A, TOPIC_ID, LogConfig()), manager.create(B, TOPIC_ID, LogConfig())
    synced = count_syncs(bench.files)
    commits = []
    for _ in range(10):
        append_many(log, 1)
        append_many(other, 1)
        commits += [manager.commit(log), manager.commit(other)]
    await asyncio.gather(*commits)
    assert sorted(synced) == [f"data/a-0/{0:020d}.log", f"data/b-3/{0:020d}.log"]
    assert log.recovery_point == other.recovery_point == 10


async def test_a_cancelled_commit_does_not_take_the_others_along() -> None:
    bench = Bench()
    manager = await bench.start()
    log = manager.create(A, TOPIC_ID, LogConfig())
    append_many(log, 1)
    first, second = manager.commit(log), manager.commit(log)
    first.cancel()
    await second
    assert log.recovery_point == 1


async def test_a_failed_commit_takes_the_directory_offline() -> None:
    bench = Bench(("one", "two"))
    manager = await bench.start()
    for number in range(4):
        append_many(manager.create(TopicPartition("t", number), TOPIC_ID, LogConfig()), 2)
    log = manager.logs[TopicPartition("t", 0)]
    path = manager.directory_of(TopicPartition("t", 0))
    gone = [key for key in manager.logs if manager.directory_of(key) == path]
    assert len(gone) == 2
    bench.fail("sync", ".log")
    with pytest.raises(StorageError):
        await manager.commit(log)
    bench.files.fail = None
    await settle()
    assert bench.offline == [(path, gone)]
    assert set(manager.logs) == {TopicPartition("t", number) for number in range(4)} - set(gone)
    assert manager.online_dirs == [other for other in ("one", "two") if other != path]
    with pytest.raises(StorageError, match=r"offline|failed"):
        append_many(log, 1)
    # New partitions go to what is left, and the stop of that one is clean.
    manager.create(A, TOPIC_ID, LogConfig())
    await manager.close()
    assert bench.files.exists(f"{manager.online_dirs[0]}/.kafka_cleanshutdown")
    assert not bench.files.exists(f"{path}/.kafka_cleanshutdown")


async def test_flush_messages_and_flush_ms_flush_in_the_background() -> None:
    bench = Bench()
    manager = await bench.start()
    log = manager.create(A, TOPIC_ID, LogConfig(flush_messages=5))
    append_many(log, 4)
    await settle()
    assert log.recovery_point == 0
    append_many(log, 1)
    await settle()
    assert log.recovery_point == 5
    timed = manager.create(B, TOPIC_ID, LogConfig(flush_ms=1000))
    append_many(timed, 1)
    await manager.flush_by_time()
    assert timed.recovery_point == 0
    bench.clock.now_ms += 1000
    await manager.flush_by_time()
    assert timed.recovery_point == 1


async def test_a_roll_is_followed_by_a_flush() -> None:
    bench = Bench()
    manager = await bench.start()
    log = manager.create(A, TOPIC_ID, LogConfig(segment_bytes=900))
    append_many(log, 6)
    await settle()
    assert log.recovery_point == 6


# ------------------------------------------------------------------------------------------------ a bad disk


async def test_a_directory_that_cannot_be_read_at_start_is_offline_and_the_rest_starts() -> None:
    bench = Bench(("one", "two"))
    bench.fail("listdir", "one")
    manager = await bench.start()
    assert list(manager.offline_dirs) == ["one"]
    assert manager.online_dirs == ["two"]
    bench.files.kill()
    bench.fail("listdir")
    with pytest.raises(StorageError, match="no log directory"):
        await bench.start()


async def test_a_log_that_cannot_be_opened_takes_its_directory_offline() -> None:
    bench = Bench(("one", "two"))
    manager = await bench.start()
    for number in range(2):
        append_many(manager.create(TopicPartition("t", number), TOPIC_ID, LogConfig()), 2)
    path = manager.directory_of(TopicPartition("t", 0))
    await manager.close()

    def fail(operation: str, where: str) -> None:
        if operation == "listdir" and where == f"{path}/t-0":
            raise OSError(errno.EIO, "the disk does not answer")

    bench.files.fail = fail
    manager = await bench.start()
    assert list(manager.offline_dirs) == [path]
    assert list(manager.logs) == [TopicPartition("t", 1)]


@pytest.mark.parametrize(
    "name",
    [
        "recovery-point-offset-checkpoint",
        "log-start-offset-checkpoint",
        "replication-offset-checkpoint",
        "cleaner-offset-checkpoint",
        "t-0/leader-epoch-checkpoint",
        "t-0/partition.metadata",
    ],
)
@pytest.mark.parametrize("is_clean", [True, False])
async def test_a_damaged_checkpoint_costs_time_but_no_record(
    name: str, is_clean: bool, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench()
    manager = await bench.start()
    for number in range(2):
        append_many(manager.create(TopicPartition("t", number), TOPIC_ID, LogConfig(segment_bytes=900)), 20)
    await manager.close()
    if not is_clean:
        bench.files.remove("data/.kafka_cleanshutdown")
    bench.files.write_atomic(f"data/{name}", b"rubbish")
    manager = await bench.start()
    assert manager.online_dirs == ["data"]
    for number in range(2):
        log = manager.logs[TopicPartition("t", number)]
        assert [record.value for record in read_all(log)] == [value_of(offset) for offset in range(20)]
        assert not log.damages
    assert name.rpartition("/")[2] in caplog.text
    manager.create(TopicPartition("t", 0), TOPIC_ID, LogConfig())
    assert manager.logs[TopicPartition("t", 0)].topic_id == TOPIC_ID


async def test_a_partition_that_cannot_be_opened_leaves_its_directory_in_use() -> None:
    bench = Bench()
    manager = await bench.start()
    for number in range(2):
        append_many(manager.create(TopicPartition("t", number), TOPIC_ID, LogConfig()), 2)
    await manager.close()

    def fail(operation: str, path: str) -> None:
        if operation == "listdir" and path == "data/t-0":
            raise ValueError("what is written there makes no sense")

    bench.files.fail = fail
    manager = await bench.start()
    bench.files.fail = lambda _operation, _path: None
    assert manager.online_dirs == ["data"]
    assert list(manager.logs) == [TopicPartition("t", 1)]
    assert "makes no sense" in manager.unusable[TopicPartition("t", 0)]
    with pytest.raises(StorageError, match="makes no sense"):
        manager.create(TopicPartition("t", 0), TOPIC_ID, LogConfig())
    assert bench.files.exists(f"data/t-0/{0:020d}.log")
    manager.delete(TopicPartition("t", 0))
    assert not bench.files.exists("data/t-0")
    assert manager.create(TopicPartition("t", 0), TOPIC_ID, LogConfig()).log_end_offset == 0


async def test_a_full_disk_is_not_a_failed_disk() -> None:
    bench = Bench()
    manager = await bench.start()
    log = manager.create(A, TOPIC_ID, LogConfig())
    append_many(log, 3)
    bench.files.capacity = bench.files.used
    with pytest.raises(KafkaStorageError):
        append(log, batch([b"x"]))
    assert await manager.checkpoint() == {"data"}
    await settle()
    assert not manager.offline_dirs
    assert len(read_all(log)) == 3
    bench.files.capacity = 1 << 40
    append_many(log, 1)
    assert await manager.checkpoint() == set()


# ------------------------------------------------------------------------------------------------ background


async def test_checkpoints_are_written_only_when_something_changed() -> None:
    bench = Bench()
    manager = await bench.start()
    append_many(manager.create(A, TOPIC_ID, LogConfig()), 3)
    await manager.checkpoint()
    written: list[str] = []
    bench.files.fail = lambda operation, path: written.append(path) if operation == "write_atomic" else None
    await manager.checkpoint()
    assert written == []
    manager.logs[A].advance_high_watermark(2)
    await manager.checkpoint()
    assert written == ["data/replication-offset-checkpoint"]


async def test_a_log_start_inside_a_segment_survives_a_restart() -> None:
    bench = Bench()
    manager = await bench.start()
    log = manager.create(A, TOPIC_ID, LogConfig())
    append_many(log, 5)
    log.advance_high_watermark(5)
    log.advance_log_start(3)
    await manager.checkpoint()
    bench.files.kill()
    manager = await bench.start()
    assert manager.logs[A].log_start_offset == 3


async def test_a_compacted_topic_is_cleaned_in_the_background() -> None:
    bench = Bench()
    manager = await bench.start()
    config = LogConfig(segment_bytes=900, cleanup_compact=True, cleanup_delete=False)
    log = manager.create(A, TOPIC_ID, config)
    append_many(log, 50)  # all of the same key
    log.advance_high_watermark(50)
    result = await manager.clean_dirtiest()
    assert result is not None
    assert await manager.clean_dirtiest() is None
    assert len(read_all(log)) <= 6
    assert read_all(log)[-1].offset == 49
    assert bench.files.read_bytes("data/cleaner-offset-checkpoint") == b"0\n1\na 0 45\n"
    await manager.close()
    manager = await bench.start(config)
    assert await manager.clean_dirtiest() is None, "the checkpoint was read"


async def test_the_background_tasks_run_until_cancelled() -> None:
    bench = Bench()
    manager = await bench.start(initial_task_delay_ms=0)
    append_many(manager.create(A, TOPIC_ID, LogConfig()), 3)
    task = asyncio.get_running_loop().create_task(manager.run())
    for _ in range(50):
        await asyncio.sleep(0)
    assert bench.files.exists("data/recovery-point-offset-checkpoint")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_silent_producers_are_forgotten() -> None:
    bench = Bench()
    manager = await bench.start(producer_id_expiration_ms=1000)
    append(manager.create(A, TOPIC_ID, LogConfig()), idempotent(7, 0, 0))
    bench.clock.now_ms += 1000
    assert await manager.expire_producers() == 1


async def test_directories_are_described() -> None:
    bench = Bench(("one", "two"))
    bench.fail("listdir", "two")
    manager = await bench.start()
    append_many(manager.create(A, TOPIC_ID, LogConfig()), 3)
    one, two = await LogDirFacts(manager).describe()
    assert (one.path, one.online, len(one.replicas)) == ("one", True, 1)
    assert one.replicas[0] == ("a", 0, manager.logs[A].size, 0, False)
    assert (two.path, two.online, two.replicas) == ("two", False, ())


# ------------------------------------------------------------------------------------------------ who waits for whom


class HeldOffload(InlineOffload):
    """Runs at once, but what flushes logs in `held` waits for `let_go`; notes what was run."""

    def __init__(self) -> None:
        self.held = ""
        self.let_go = asyncio.Event()
        self.ran: list[str] = []

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        self.ran.append(function.__name__)
        logs = args[0] if args else None
        if self.held and isinstance(logs, list) and any(log.directory.startswith(self.held) for log in logs):
            await self.let_go.wait()
        return function(*args, **kwargs)


async def test_a_directory_that_hangs_holds_up_no_commit_of_another() -> None:
    bench, offload = Bench(("one", "two")), HeldOffload()
    bench.offload = offload
    manager = await bench.start()
    logs = [manager.create(tp, TOPIC_ID, LogConfig()) for tp in (A, B)]
    assert [log.directory.partition("/")[0] for log in logs] == ["one", "two"]
    for log in logs:
        append_many(log, 1)
    offload.held = "one"
    hung = manager.commit(logs[0])
    await settle()
    await asyncio.wait_for(manager.commit(logs[1]), 5)
    assert logs[1].recovery_point == 1
    assert not hung.done()
    offload.let_go.set()
    await manager.close()
    assert hung.done()


async def test_producers_are_expired_off_the_loop_in_slices() -> None:
    bench, offload = Bench(), HeldOffload()
    bench.offload = offload
    manager = await bench.start(producer_id_expiration_ms=1000)
    for partition in range(SLICE + 1):
        log = manager.create(TopicPartition("many", partition), TOPIC_ID, LogConfig())
        append(log, idempotent(partition, 0, 0))
    bench.clock.now_ms += 1000
    offload.ran.clear()
    assert await manager.expire_producers() == SLICE + 1
    assert len(offload.ran) == 2
    await manager.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EMFILE])
async def test_a_delete_that_fails_for_now_is_done_later(code: int) -> None:
    bench = Bench()
    manager = await bench.start()
    append_many(manager.create(A, TOPIC_ID, LogConfig(file_delete_delay_ms=0)), 3)
    bench.fail("rename", "a-0", code)
    with pytest.raises(KafkaStorageError):
        manager.delete(A)
    with pytest.raises(KafkaStorageError):  # never the old topic's records in the new one
        manager.create(A, bytes(16), LogConfig())
    assert await manager.remove_deleted_files() == 0
    await settle()
    assert A not in manager.logs
    assert not manager.offline_dirs
    assert bench.files.exists("data/a-0")
    bench.files.fail = None
    assert await manager.remove_deleted_files() == 1
    assert not bench.files.exists("data/a-0")
    assert manager.create(A, bytes(15) + b"2", LogConfig()).log_end_offset == 0
    await manager.close()


async def test_without_a_descriptor_no_directory_is_given_up_at_the_start() -> None:
    bench = Bench()
    manager = await bench.start()
    append_many(manager.create(A, TOPIC_ID, LogConfig()), 3)
    bench.files.kill()
    bench.fail("open", ".log", errno.EMFILE)
    with pytest.raises(StorageError, match="limit of open files"):
        await bench.start()
    assert not bench.offline


async def test_an_error_while_retention_reads_takes_the_directory_offline_unless_it_passes() -> None:
    bench = Bench()
    manager = await bench.start(LogConfig(segment_bytes=900, retention_ms=1000))
    log = manager.create(A, TOPIC_ID, LogConfig(segment_bytes=900, retention_ms=1000))
    append_many(log, 20)
    log.advance_high_watermark(20)
    await manager.close()
    manager = await bench.start(LogConfig(segment_bytes=900, retention_ms=1000))
    bench.clock.now_ms += 10_000
    for code, is_offline in ((errno.EMFILE, False), (errno.EIO, True)):
        bench.fail("open", code=code)
        await manager.apply_retention()
        await settle()
        assert bool(manager.offline_dirs) == is_offline
    bench.files.fail = None
    await manager.close()
