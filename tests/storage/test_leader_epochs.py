"""Where two logs part: KIP-101, KIP-279."""

from __future__ import annotations

import pytest

from ottla.storage.checkpoints import CorruptCheckpointError
from ottla.storage.leader_epochs import EpochEntry, LeaderEpochs


def epochs(*entries: tuple[int, int]) -> LeaderEpochs:
    return LeaderEpochs([EpochEntry(*entry) for entry in entries])


def test_an_epoch_is_noted_once() -> None:
    cache = epochs()
    assert cache.assign(0, 0)
    assert not cache.assign(0, 10)
    assert cache.assign(2, 10)
    assert cache.entries == [(0, 0), (2, 10)]
    assert cache.latest == 2


def test_an_epoch_that_wrote_nothing_is_replaced_by_the_next() -> None:
    cache = epochs((0, 0), (1, 10))
    cache.assign(2, 10)
    assert cache.entries == [(0, 0), (2, 10)]


def test_entries_of_a_log_that_was_cut_go() -> None:
    cache = epochs((0, 0), (1, 10), (2, 20))
    cache.assign(3, 15)
    assert cache.entries == [(0, 0), (1, 10), (3, 15)]


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (-1, (-1, -1)),
        (1, (1, 5)),  # before all known ones: ends where the first known one begins
        (2, (2, 10)),
        (3, (2, 10)),  # unknown: the next smaller one
        (4, (4, 30)),
        (6, (6, 50)),  # the newest ends with the log
        (7, (-1, -1)),
    ],
)
def test_the_end_of_an_epoch(asked: int, answer: tuple[int, int]) -> None:
    assert epochs((2, 5), (4, 10), (6, 30)).end_offset_for(asked, 50) == answer


def test_the_end_of_any_epoch_is_unknown_in_an_empty_log() -> None:
    assert epochs().end_offset_for(0, 0) == (-1, -1)


def test_truncation_at_the_end_drops_what_starts_there() -> None:
    cache = epochs((0, 0), (1, 10), (2, 20))
    cache.truncate_end(20)
    assert cache.entries == [(0, 0), (1, 10)]
    assert cache.is_dirty


def test_truncation_at_the_start_moves_the_epoch_it_falls_into() -> None:
    cache = epochs((0, 0), (1, 10), (2, 20))
    cache.truncate_start(15)
    assert cache.entries == [(1, 15), (2, 20)]
    cache.truncate_start(20)
    assert cache.entries == [(2, 20)]
    cache.truncate_start(5)
    assert cache.entries == [(2, 20)]


def test_the_epoch_of_an_offset() -> None:
    cache = epochs((2, 5), (4, 10))
    assert [cache.epoch_for(offset) for offset in (0, 5, 9, 10, 99)] == [-1, 2, 2, 4, 4]


def test_the_file_has_kafkas_bytes() -> None:
    data = b"0\n2\n2 5\n4 10\n"
    assert epochs((2, 5), (4, 10)).encode() == data
    assert LeaderEpochs.decode(data, "x").entries == [(2, 5), (4, 10)]


@pytest.mark.parametrize(
    "data", [b"1\n", b"1\n0\n", b"0\n2\n2 5\n", b"0\n1\n2 x\n", b"0\nx\n", b"0\n1\n2 5 6\n", b"\xff"]
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptCheckpointError):
        LeaderEpochs.decode(data, "x")
