"""The file source: what it reads, and where it goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ottla.connect.connectors import SourceContext
from ottla.connect.library.file_stream import FileSourceTask, FileStreamSourceConnector

OPENED: list[FileSourceTask] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().stop()


class Reading:
    """A file source at work on one file; `stop` and a new one stand for a worker that was stopped and started."""

    def __init__(self, path: Path, offset: dict[str, Any] | None = None) -> None:
        self.offset = offset
        stopping = threading.Event()
        stopping.set()  # waits return at once
        config = {"file": str(path), "topic": "lines"}
        self.task = FileSourceTask(config, FileStreamSourceConnector.CONFIG.parse(config))
        self.task.context = SourceContext(lambda partition: self.offset, stopping)
        self.task.start()
        OPENED.append(self.task)

    def lines(self) -> list[str]:
        """Return what is there now."""
        found: list[str] = []
        for _ in range(6):  # a few looks: the end of one file, the next one
            for batch in self.task.poll() or ():
                found += batch.values
                self.offset = dict(batch.source_offset or {})
        return found

    def restarted(self, path: Path) -> Reading:
        self.task.stop()
        return Reading(path, self.offset)


def test_partial_last_line(tmp_path: Path) -> None:
    """A line counts when its newline is there, also across a restart; positions count bytes."""
    path = tmp_path / "a.txt"
    path.write_text("größe\ntwo")
    reading = Reading(path)
    assert reading.lines() == ["größe"]
    assert reading.offset is not None
    assert reading.offset["position"] == len("größe\n".encode())
    reading = reading.restarted(path)
    with path.open("a") as file:
        file.write(" more\r\nthree\n")
    assert reading.lines() == ["two more", "three"]


def test_a_file_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    reading = Reading(tmp_path / "a.txt")
    assert reading.lines() == []
    (tmp_path / "a.txt").write_text("here\n")
    assert reading.lines() == ["here"]


def test_copytruncate(tmp_path: Path) -> None:
    """The file is copied away and cut to nothing, while it is read and while it is not: reading begins anew."""
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n")
    reading = Reading(path)
    assert reading.lines() == ["one", "two"]
    path.write_text("new\n")
    assert reading.lines() == ["new"]
    reading = reading.restarted(path)
    path.write_text("other, and longer than before\n")
    assert reading.lines() == ["other, and longer than before"]


def test_rotated_while_stopped(tmp_path: Path) -> None:
    """The renamed file is read to its end, then the new one from its beginning."""
    path = tmp_path / "a.txt"
    path.write_text("one\n")
    reading = Reading(path)
    assert reading.lines() == ["one"]
    reading.task.stop()
    with path.open("a") as file:
        file.write("two\n")
    path.rename(tmp_path / "a.txt.1")
    path.write_text("three\n")
    reading = Reading(path, reading.offset)
    assert reading.lines() == ["two", "three"]
    assert reading.restarted(path).lines() == []


def test_rotated_while_it_is_read(tmp_path: Path) -> None:
    """What the renamed file still gets is read, and its last line counts without a newline."""
    path = tmp_path / "a.txt"
    path.write_text("one\n")
    reading = Reading(path)
    assert reading.lines() == ["one"]
    with path.open("a") as file:
        path.rename(tmp_path / "a.txt.1")
        file.write("two\nno newline")
    path.write_text("three\n")
    assert reading.lines() == ["two", "no newline", "three"]


def test_an_offset_of_java_has_a_position_only(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n")
    assert Reading(path, {"position": 4}).lines() == ["two"]
