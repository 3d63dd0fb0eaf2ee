"""Disk space set aside for a segment that grows: in proportion, bounded, and given back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.storage.log_support import NOW

from ottla.storage import segment as module
from ottla.storage.open_files import OpenFiles
from ottla.storage.segment import Segment
from ottla.testing.memory_files import MemoryFile, MemoryFiles

CHUNK = b"." * 100_000
PATH = "t-0/00000000000000000000.log"


@pytest.fixture
def files() -> MemoryFiles:
    files = MemoryFiles(lambda: NOW)
    files.mkdir("t-0")
    return files


@pytest.fixture(autouse=True)
def smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESERVE_FROM", 1_000_000)
    monkeypatch.setattr(module, "RESERVE_MAX", 300_000)


def reserved(files: MemoryFiles) -> int:
    """Bytes set aside beyond the end, as of the last time; less what has been written since."""
    file = files.open(PATH)
    return max(file._node.reserved_to - file.size(), 0)


def grown(files: MemoryFiles, size: int) -> Segment:
    segment = Segment(OpenFiles(files), "t-0", 0)
    segment.create(NOW)
    while segment.size < size:
        segment.append(CHUNK)
        assert reserved(files) <= min(segment.size // module.RESERVE_SHARE, module.RESERVE_MAX)
    return segment


def test_a_small_segment_claims_nothing(files: MemoryFiles) -> None:
    grown(files, 900_000)
    assert reserved(files) == 0


def test_a_large_one_has_space_ahead_of_its_end_for_most_appends(files: MemoryFiles) -> None:
    segment = grown(files, 5_000_000)
    ahead = []
    for _ in range(30):
        ahead.append(reserved(files) >= len(CHUNK))
        segment.append(CHUNK)
    assert ahead.count(True) >= 20


def undo_and_go_on(segment: Segment) -> None:
    segment.undo_append(segment.size - 10)
    segment.append(CHUNK)


def reopen_as_after_a_crash(segment: Segment) -> None:
    Segment(segment.open_files, "t-0", 0).open_for_append()


@pytest.mark.parametrize("end", [Segment.finish, reopen_as_after_a_crash])
def test_what_was_set_aside_is_given_back(files: MemoryFiles, end: Callable[[Segment], None]) -> None:
    segment = grown(files, 3_000_000)
    while not reserved(files):
        segment.append(CHUNK)
    end(segment)
    assert reserved(files) == 0


def test_who_cuts_off_what_was_written_claims_anew(files: MemoryFiles) -> None:
    segment = grown(files, 3_000_000)
    while not reserved(files):
        segment.append(CHUNK)
    segment.undo_append(segment.size - 10)
    assert reserved(files) == 0
    segment.append(CHUNK)
    assert reserved(files) > 0


def test_who_refuses_once_is_not_asked_again(files: MemoryFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(MemoryFile, "reserve", lambda *given: asked.append(given))
    grown(files, 5_000_000)
    assert len(asked) == 1
