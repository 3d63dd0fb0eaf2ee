"""Who holds which task directory, which slot a process has, and when a directory is a copy."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from ottla.streams.state.directory import Machine, StateDirectory
from ottla.streams.state.homes import StateError, StateLockedError

HERE = Machine("host", "boot")


def test_processes_share_dir(tmp_path: Path) -> None:
    """Two processes on one directory have one process id, a slot each, and never the same task."""
    first, second = StateDirectory(tmp_path, "app", HERE), StateDirectory(tmp_path, "app", HERE)
    assert first.process_id == second.process_id
    assert (first.slot, second.slot) == (0, 1)
    first.lock_task("0_1")
    with pytest.raises(StateLockedError, match=r"0_1 is in use by process \d+ on"):
        second.lock_task("0_1")
    second.lock_task("0_2")
    first.release_task("0_1")
    second.lock_task("0_1")
    first.close()
    again = StateDirectory(tmp_path, "app", HERE)
    assert (again.slot, again.process_id) == (0, second.process_id)
    again.close()
    second.close()


def test_cloned_volume(tmp_path: Path) -> None:
    """A directory that was made on another host or boot gets another process id, and keeps it."""
    ids = []
    for machine in (HERE, HERE, Machine("host", "other boot"), Machine("other host", "other boot")):
        directory = StateDirectory(tmp_path, "app", machine)
        ids.append(directory.process_id)
        directory.close()
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


def _hold(path: Path, ready: multiprocessing.synchronize.Event) -> None:
    directory = StateDirectory(path, "app", HERE)
    directory.lock_task("0_0")
    ready.set()
    multiprocessing.Event().wait(60)


def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(tmp_path, ready), daemon=True)
    process.start()
    assert ready.wait(30)
    directory = StateDirectory(tmp_path, "app", HERE)
    assert directory.slot == 1
    with pytest.raises(StateLockedError):
        directory.lock_task("0_0")
    process.kill()
    process.join(30)
    directory.lock_task("0_0")
    directory.close()


def test_wiping_a_task_keeps_its_lock(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path, "app", HERE)
    path = directory.lock_task("0_0")
    (path / "state.sqlite").write_bytes(b"x")
    (path / "more").mkdir()
    directory.wipe_task("0_0")
    assert [entry.name for entry in path.iterdir()] == [".lock"]
    assert directory.tasks_on_disk() == ["0_0"]
    directory.close()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "app").write_text("a file")
    with pytest.raises(StateError, match=r"state\.dir"):
        StateDirectory(tmp_path, "app", HERE)


def test_an_unreadable_process_file_gets_a_new_id(tmp_path: Path) -> None:
    first = StateDirectory(tmp_path, "app", HERE)
    first.close()
    (first.path / "process.json").write_text("{torn")
    second = StateDirectory(tmp_path, "app", HERE)
    assert second.process_id != first.process_id
    second.close()
