"""Sends the fuzzer's frames to a broker over many connections, pipelined, and keeps account of each.

    python -m tests.hostile.storm --frames 1000000 --seed 1 [--start 0]

starts a broker and a well-behaved client of its own, and prints what became of the frames. `--start` continues a run, or
repeats the part of one where something happened: frame i of a seed is always the same.

Accounting. Answers come in order and carry the index of their frame. Each frame is exactly one of:
  * reached: an answer came, or an answer to a later frame of the same connection (acks=0 has none): a handler had it;
  * refused: the connection was closed on it (what was pipelined behind it is sent again on a new connection);
  * held: no answer within `stall_s`; we closed. A mutated wait, or a group member that others keep waiting.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import struct
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field

from tests.hostile.mutations import Frame, Frames

from ottla.protocol.api import ApiKey

#: Frames written to a connection before its answers are looked at.
CHUNK = 64
CONNECTIONS = 6
#: The broker announces answers up to its own frame size; nothing here may ask for more than this.
ANSWER_BYTES_MAX = 64 << 20


@dataclass(slots=True)
class Tally:
    """What became of the frames sent so far."""

    reached: int = 0
    refused: int = 0
    held: int = 0
    connections: int = 0
    answer_bytes: int = 0
    reached_by_key: Counter[ApiKey] = field(default_factory=Counter)
    by_mutation: Counter[str] = field(default_factory=Counter)
    reached_by_mutation: Counter[str] = field(default_factory=Counter)

    @property
    def frames(self) -> int:
        return self.reached + self.refused + self.held

    @property
    def share_reached(self) -> float:
        return self.reached / max(self.frames, 1)


class _Delivery(asyncio.Protocol):
    """One connection: takes the answers of one chunk. Not a StreamReader: that forgets what came before a reset."""

    def __init__(self, positions: dict[int, int]) -> None:
        self._positions = positions
        self._buffer = bytearray()
        self.answered = 0
        self.bytes = 0
        self.progress = asyncio.Event()
        self.ended = False

    def data_received(self, data: bytes) -> None:
        self.bytes += len(data)
        buffer = self._buffer
        buffer += data
        at = 0
        if buffer.startswith(b"HTTP"):  # a wrong size that spells GET: the port speaks both, and this was not Kafka
            buffer.clear()
        while len(buffer) - at >= 8:
            size, correlation_id = struct.unpack_from(">ii", buffer, at)
            assert 4 <= size <= ANSWER_BYTES_MAX, f"an answer of {size} bytes"
            position = self._positions.get(correlation_id)
            if position is not None:
                self.answered = max(self.answered, position + 1)
            if len(buffer) - at < 4 + size:
                break
            at += 4 + size
        del buffer[:at]
        self.progress.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        self.progress.set()


class Storm:
    """Sends `frames[start:start + count]`; `tally` may be read meanwhile."""

    def __init__(self, port: int, frames: Frames, *, connections: int = CONNECTIONS, stall_s: float = 0.25) -> None:
        self.port = port
        self.tally = Tally()
        self._frames = frames
        self._connections = connections
        self._stall_s = stall_s
        self._next = self._end = 0

    async def run(self, start: int, count: int) -> Tally:
        """Deliver `count` frames from number `start` on."""
        self._next, self._end = start, start + count
        async with asyncio.TaskGroup() as group:
            for number in range(self._connections):
                group.create_task(self._work(f"127.0.0.{number + 2}"))
        return self.tally

    async def _work(self, address: str) -> None:
        chunk: deque[tuple[int, Frame]] = deque()
        while True:
            while len(chunk) < CHUNK and self._next < self._end:
                chunk.append((self._next, self._frames[self._next]))
                self._next += 1
            if not chunk:
                return
            await self._deliver(chunk, address)

    async def _deliver(self, chunk: deque[tuple[int, Frame]], address: str) -> None:
        """Send the chunk; take from it what is accounted for: all, or all up to the frame the connection ended on."""
        loop = asyncio.get_running_loop()
        delivery = _Delivery({index & 0x7FFFFFFF: position for position, (index, _) in enumerate(chunk)})
        transport, _ = await loop.create_connection(lambda: delivery, "127.0.0.1", self.port, local_addr=(address, 0))
        self.tally.connections += 1
        transport.write(b"".join(frame.data for _, frame in chunk))
        stalled = False
        while delivery.answered < len(chunk) and not delivery.ended and not stalled:
            delivery.progress.clear()
            before = delivery.bytes
            try:
                async with asyncio.timeout(self._stall_s):
                    await delivery.progress.wait()
            except TimeoutError:
                stalled = delivery.bytes == before
        transport.abort()
        self.tally.answer_bytes += delivery.bytes
        for _ in range(delivery.answered):
            _, frame = chunk.popleft()
            self.tally.reached += 1
            self.tally.reached_by_key[frame.key] += 1
            self.tally.by_mutation[frame.mutation] += 1
            self.tally.reached_by_mutation[frame.mutation] += 1
        if chunk:
            _, frame = chunk.popleft()
            self.tally.by_mutation[frame.mutation] += 1
            if stalled:
                self.tally.held += 1
            else:
                self.tally.refused += 1


def main() -> None:
    from tests.hostile.trial import Trial

    parser = argparse.ArgumentParser(description="Mutated frames against a broker of its own")
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--report-every", type=int, default=20_000)
    options = parser.parse_args()
    with Trial(seed=options.seed) as trial:
        done, began = 0, time.monotonic()
        while done < options.frames:
            part = min(options.report_every, options.frames - done)
            trial.send(options.start + done, part)
            done += part
            rate = done / (time.monotonic() - began)
            print(
                f"{options.start + done:>9} frames, {rate:,.0f}/s, {trial.tally.share_reached:.1%} reached a handler, "
                f"RSS {trial.resident_bytes() >> 20} MiB",
                file=sys.stderr,
                flush=True,
            )
        print(json.dumps(trial.finish(), indent=2))


if __name__ == "__main__":
    main()
