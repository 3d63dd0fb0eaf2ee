"""A log moves to another log directory: all that it had is there, and a crash at any point loses nothing."""

from __future__ import annotations

import errno

import pytest
from tests.storage.log_support import NOW, append, append_many, idempotent, read_all
from tests.storage.test_log_manager import TOPIC_ID, A, Bench

from ottla.errors import KafkaStorageError, StorageError
from ottla.storage.config import LogConfig
from ottla.storage.log import PartitionLog
from ottla.storage.log_manager import LogManager
from ottla.storage.relocation import Relocation, partition_of_future
from ottla.types import TopicPartition

CONFIG = LogConfig(segment_bytes=400)


async def begun() -> tuple[Bench, LogManager, PartitionLog, Relocation]:
    """Return a log of 21 batches in directory `a`, and its move to `b`, of which one step has been made."""
    bench = Bench(("a", "b"))
    manager = await bench.start()
    log = manager.create(A, TOPIC_ID, CONFIG, "a")
    append_many(log, 20)
    append(log, idempotent(7, 0, 0))
    log.advance_high_watermark(18)
    move = manager.relocation(A, "b")
    move.begin()
    move.copy_some(NOW)
    return bench, manager, log, move


async def test_everything_is_in_the_other_directory() -> None:
    bench, manager, log, move = await begun()
    before = read_all(log)
    assert append(log, idempotent(7, 0, 1)).last_offset == 21  # while it is copied
    assert move.lag > 0
    new = move.finish(NOW)
    assert manager.logs[A] is new
    assert (new.log_directory, new.topic_id, new.log_end_offset, new.high_watermark) == ("b", TOPIC_ID, 22, 18)
    assert read_all(new)[: len(before)] == before
    assert append(new, idempotent(7, 0, 1)).duplicate  # producers are known there
    assert bench.files.is_dir(f"b/{A}")
    assert not bench.files.is_dir(f"a/{A}")
    with pytest.raises((KafkaStorageError, StorageError)):
        append_many(log, 1)
    await manager.remove_deleted_files(all_of_them=True)
    assert [name for name in bench.files.listdir("a") if name.startswith("a-0")] == []
    await manager.close()
    again = await bench.start()
    assert (again.logs[A].log_directory, again.logs[A].log_end_offset) == ("b", 22)


async def test_what_was_deleted_at_the_beginning_stays_deleted() -> None:
    _, manager, log, move = await begun()
    log.advance_log_start(9)
    new = move.finish(NOW)
    assert (new.log_start_offset, new.log_end_offset) == (9, 21)
    assert manager.logs[A] is new


async def test_a_log_that_was_cut_and_grew_again_is_copied_anew() -> None:
    """A follower that has to give up what its new leader does not have: the copy has it already."""
    bench = Bench(("a", "b"))
    manager = await bench.start()
    log = manager.create(A, TOPIC_ID, CONFIG, "a")
    append_many(log, 10)
    move = manager.relocation(A, "b")
    move.begin()
    while move.copy_some(NOW):
        pass
    log.truncate_to(4)
    log.lead(5)
    append_many(log, 8, leader_epoch=5)
    new = move.finish(NOW)
    assert read_all(new) == read_all(manager.logs[A])
    assert new.log_end_offset == 12
    assert new.end_offset_for_epoch(5) == (5, 12)


async def test_a_crash_while_it_is_copied_leaves_the_log() -> None:
    bench, _, log, _ = await begun()
    before = read_all(log)
    bench.files.kill()
    manager = await bench.start()
    assert manager.logs[A].log_directory == "a"
    assert read_all(manager.logs[A]) == before
    await manager.remove_deleted_files(all_of_them=True)
    assert [name for name in bench.files.listdir("b") if partition_of_future(name) or "delete" in name] == []


@pytest.mark.parametrize("number", range(1, 5))
async def test_a_crash_between_any_two_steps_of_the_change_leaves_one_whole_log(number: int) -> None:
    """The process dies at the first rename, the sync after it, the second rename, the sync after that."""
    bench, _, log, move = await begun()
    before = read_all(log)
    steps = 0

    assert move.copy is not None
    places = {("rename", f"a/{A}"), ("rename", move.copy.directory), ("sync_dir", "a"), ("sync_dir", "b")}

    def crash(name: str, path: str) -> None:
        nonlocal steps
        if (name, path) == ("rename", f"a/{A}") or (steps and (name, path) in places):
            steps += 1
            if steps >= number:
                raise KeyboardInterrupt

    bench.files.fail = crash
    with pytest.raises(KeyboardInterrupt):
        move.finish(NOW)
    bench.files.fail = None
    bench.files.kill()
    manager = await bench.start()
    assert read_all(manager.logs[A]) == before
    assert manager.logs[A].topic_id == TOPIC_ID
    assert manager.logs[A].log_directory == ("a" if number == 1 else "b")


async def test_a_target_that_is_full_leaves_the_log_as_it_is() -> None:
    bench, manager, log, move = await begun()
    append_many(log, 20)
    bench.fail("append", ".log", errno.ENOSPC)
    with pytest.raises(KafkaStorageError):
        move.finish(NOW)
    bench.files.fail = None
    move.give_up()
    assert manager.logs[A] is log
    append_many(log, 1)
    assert len(read_all(log)) == 42
    await manager.remove_deleted_files(all_of_them=True)
    assert [name for name in bench.files.listdir("b") if "a-0" in name] == []


async def test_a_log_that_has_moved_is_deleted_where_it_is() -> None:
    bench, manager, _, move = await begun()
    move.finish(NOW)
    manager.delete(A)
    assert A not in manager.logs
    assert not bench.files.is_dir(f"b/{A}")


def test_names_of_copies() -> None:
    assert partition_of_future("a-b.c-12.0123abcd-future") == TopicPartition("a-b.c", 12)
    assert partition_of_future("a-0") is None
    assert partition_of_future("a.0123abcd-delete") is None
