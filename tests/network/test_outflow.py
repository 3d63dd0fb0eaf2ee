"""Answers that are too large to go out at once: whole, in order, and at nobody else's cost."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.network.fakes import frame
from tests.network.sockets import Client, serving

from ottla.errors import RemoteProtocolError
from ottla.file_region import FileRegion
from ottla.network.connection import BrokerConnection, Reply
from ottla.network.outflow import TURN, Outflow
from ottla.network.output import PIECE
from ottla.offload import InlineOffload
from ottla.storage.files import OsFiles


class CountingFile:
    """A file on the disk that counts what is read from it, and whose bytes leave memory when the test says so."""

    def __init__(self, directory: Path, data: bytes) -> None:
        self.file = OsFiles().open(f"{directory}/file", create=True)
        self.file.append(data)
        self.bytes_read = 0
        self.bytes_sent = 0
        self.cold_from = len(data)
        self.disk = InlineOffload()

    def region(self, position: int, size: int) -> FileRegion:
        return FileRegion(self, position, size, self.disk)

    def pread(self, size: int, position: int) -> bytes:
        self.bytes_read += size
        return self.file.pread(size, position)

    def pread_nowait(self, size: int, position: int) -> bytes | None:
        return self.pread(size, position) if self.is_cached(size, position) else None

    def is_cached(self, size: int, position: int) -> bool:
        return position + size <= self.cold_from

    def send_to(self, socket_fd: int, size: int, position: int) -> int:
        assert self.is_cached(size, position), "would wait for the disk on the loop"
        sent = self.file.send_to(socket_fd, size, position)
        self.bytes_sent += sent
        return sent


LONG = random.Random(7).randbytes(24 << 20)


@pytest.mark.parametrize("size", [1, 40_000, 5 << 20, len(LONG)])
async def test_parts_of_files_arrive_between_what_surrounds_them(tmp_path: Path, size: int) -> None:
    file = CountingFile(tmp_path, LONG)

    def handle(connection: BrokerConnection, body: memoryview) -> Reply:
        start = body[0]
        region = file.region(start, size - start)
        return [(len(region) + 8).to_bytes(4, "big") + b"head", region, b"tail"]

    async with serving(handle) as server:
        client = await Client.to(server)
        for start in 0, 1, 0:
            client.writer.write(frame(bytes([start])))  # pipelined: order must hold
        for start in 0, 1, 0:
            assert await client.answer() == b"head" + LONG[start:size] + b"tail"
        client.writer.close()
    if size > 1 << 20:
        assert file.bytes_read < size, "most of it never came to this process"


async def test_a_peer_that_reads_late_gets_the_whole_file_and_holds_up_nobody(tmp_path: Path) -> None:
    file = CountingFile(tmp_path, LONG)

    def handle(connection: BrokerConnection, body: memoryview) -> Reply:
        if body[0]:
            return [frame(b"small")]
        return [len(LONG).to_bytes(4, "big"), file.region(0, len(LONG))]

    async with serving(handle) as server:
        late, other = await Client.to(server), await Client.to(server)
        late.writer.write(frame(b"\0") + frame(b"\1"))
        assert await other.ask(b"\1") == b"small"
        assert await late.answer() == LONG
        assert await late.answer() == b"small"
        late.writer.close()
        other.writer.close()


class HandOffload(InlineOffload):
    """A disk that answers when the test lets it."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.go = asyncio.Event()

    async def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        self.asked.set()
        await self.go.wait()
        return function(*args, **kwargs)


@pytest.mark.parametrize("cold_from", [0, 8 << 20])
async def test_what_has_left_memory_is_waited_for_off_the_loop(tmp_path: Path, cold_from: int) -> None:
    file = CountingFile(tmp_path, LONG)
    file.cold_from, file.disk = cold_from, (disk := HandOffload())

    def handle(connection: BrokerConnection, body: memoryview) -> Reply:
        return [len(LONG).to_bytes(4, "big"), file.region(0, len(LONG))] if not body[0] else [frame(b"small")]

    async with serving(handle) as server:
        client, other = await Client.to(server), await Client.to(server)
        client.writer.write(frame(b"\0") + frame(b"\1"))
        reading = asyncio.create_task(client.answer())
        await asyncio.wait_for(disk.asked.wait(), 20)
        assert await other.ask(b"\1") == b"small"
        assert not reading.done()
        disk.go.set()
        assert await asyncio.wait_for(reading, 20) == LONG
        assert await client.answer() == b"small"
        client.writer.close()
        other.writer.close()


async def test_a_disk_that_fails_in_the_middle_of_an_answer_ends_the_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = CountingFile(tmp_path, LONG)
    file.cold_from, file.disk = 1 << 20, (disk := HandOffload())

    def handle(connection: BrokerConnection, body: memoryview) -> Reply:
        return [len(LONG).to_bytes(4, "big"), file.region(0, len(LONG))]

    async with serving(handle) as server:
        client = await Client.to(server)
        client.writer.write(frame(b"x"))
        await asyncio.wait_for(disk.asked.wait(), 20)
        file.file.truncate(1 << 20)
        disk.go.set()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.answer()
        client.writer.close()
    assert "ends before the bytes that were to be sent" in caplog.text


class Taking(asyncio.Transport):
    """Takes whatever it is given, and tells `written`; holds `held` bytes back already; is closing or not."""

    def __init__(self, written: Callable[[int], None], held: int = 0, closing: bool = False) -> None:
        self.written = written
        self.held = held
        self.closing = closing

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return self.held

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written(len(data))


@pytest.mark.parametrize(("held", "closing"), [(1, False), (0, True)])
async def test_nothing_goes_past_a_transport_that_holds_something_back_or_is_closing(
    tmp_path: Path, held: int, closing: bool
) -> None:
    file = CountingFile(tmp_path, LONG)
    written: list[int] = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        outflow = Outflow(Taking(written.append, held, closing), ours.fileno(), lambda: None)
        outflow.add([b"head", file.region(0, 100_000)])
        assert outflow.advance() is closing
        with pytest.raises(BlockingIOError):
            theirs.recv(1)
    assert not written
    assert len(outflow) == (0 if closing else 100_004)


async def test_a_peer_as_quick_as_we_are_leaves_turns_to_others(tmp_path: Path) -> None:
    file = CountingFile(tmp_path, LONG)
    sent_in_a_turn: list[int] = []

    def count(size: int) -> None:
        sent_in_a_turn[-1] += size

    done = asyncio.Event()

    def go_on() -> None:
        sent_in_a_turn.append(0)
        if outflow.advance():
            done.set()

    outflow = Outflow(Taking(count), -1, go_on)
    outflow.add([file.region(0, len(LONG))])
    go_on()
    await asyncio.wait_for(done.wait(), 20)
    assert sum(sent_in_a_turn) == len(LONG)
    assert max(sent_in_a_turn) < TURN + PIECE


async def test_ending_a_connection_when_its_output_has_gone_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    ended = asyncio.Event()

    def handle(connection: BrokerConnection, body: memoryview) -> Reply:
        if body[0]:
            raise RemoteProtocolError("what is that?")
        connection.on_closed = ended.set
        return [frame(LONG)]

    async with serving(handle) as server:
        client = await Client.to(server)
        client.writer.write(frame(b"\0") + frame(b"\1"))  # the second is handled inside `resume_writing`
        assert await client.answer() == LONG
        await asyncio.wait_for(ended.wait(), 20)
        client.writer.close()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_file_that_was_cut_ends_the_connection(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = CountingFile(tmp_path, LONG[:100_000])
    file.cold_from = 200_000

    def handle(connection: BrokerConnection, body: memoryview) -> Reply:
        return [(200_000).to_bytes(4, "big"), file.region(0, 200_000)]

    async with serving(handle) as server:
        client = await Client.to(server)
        client.writer.write(frame(b"x"))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.answer()
        client.writer.close()
    assert "ends before the bytes that were to be sent" in caplog.text


async def test_a_peer_that_leaves_while_a_file_is_sent_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = CountingFile(tmp_path, LONG)
    ended = asyncio.Event()

    def handle(connection: BrokerConnection, body: memoryview) -> Reply:
        connection.on_closed = ended.set
        return [len(LONG).to_bytes(4, "big"), file.region(0, len(LONG))]

    async with serving(handle) as server:
        client = await Client.to(server)
        client.writer.write(frame(b"x"))
        await client.reader.readexactly(1000)
        client.writer.transport.abort()
        async with asyncio.timeout(10):
            await ended.wait()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
