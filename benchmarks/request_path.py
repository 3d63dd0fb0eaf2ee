"""What a request costs in a broker that does nothing else: no sockets, no waiting, all in the processor's caches.

    python -m benchmarks.request_path [--api NAME] [--partitions N] [--records N] [--size BYTES] [--codec NAME]
        [--requests N] [--profile]

Hands the same request again and again to a connection of a real broker in this process, whose answers go nowhere. Prints
user and system time per request, the cheapest of five passes; what a request costs more over a socket is asyncio, the
kernel's TCP, and caches that others have used meanwhile. Times come in ticks of 10 ms, so ask for thousands of requests;
what they carry is written to the system's temporary directory or under OTTLA_BENCH_DIR. `--profile` adds the functions
that take most.

`--api` is one of produce, fetch (one batch of a partition, in a session), empty-fetch (a session with nothing new),
heartbeat, consumer-heartbeat (KIP-848), commit (one partition; without a socket, too, the loop is turned until it is
answered) and tail: a produce, and the long poll of a consumer that it answers, which needs `--socket`.

With `--socket` the request goes through a socket and the loop, one at a time, in this process; with `--asyncio`, too,
asyncio's transport is below the connection, not the reactor. `--instructions` runs it under valgrind and prints how many
instructions a request takes outside of the kernel, with `--socket` those of its client as well: other work on the machine
does not change that.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import itertools
import os
import pstats
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from benchmarks.path_requests import APIS, Frames, Requests, make_batch

from ottla.broker.broker import Broker
from ottla.broker.config import BrokerConfig
from ottla.broker.wiring.machine import machine
from ottla.network import server
from ottla.network.connection import RECEIVE_SIZE, BrokerConnection
from ottla.types import CompressionType

PASSES = 5
#: Requests whose instructions are counted.
COUNTED = 500


class Nowhere(asyncio.Transport):
    """Hands requests to a connection, takes its answers and counts them; turns the loop for those that come later."""

    def __init__(self, loop: asyncio.AbstractEventLoop, broker: Broker) -> None:
        super().__init__()
        self.answers = 0
        self._turn = loop._run_once  # type: ignore[attr-defined]
        broker.server._quota.admit("127.0.0.1")  # as the listener does for those it accepts
        self._connection = BrokerConnection(broker.server, broker.server.addresses[0][0])
        self._connection.connection_made(self)

    def ask(self, frame: bytes) -> None:
        if len(frame) > RECEIVE_SIZE:
            raise SystemExit(f"a request of {len(frame)} bytes is not received in one piece (at most {RECEIVE_SIZE})")
        before = self.answers
        self._connection.get_buffer(65536)[: len(frame)] = frame
        self._connection.buffer_updated(len(frame))
        while self.answers == before:
            if self._connection.closing:
                raise RuntimeError("the connection was closed instead of an answer")
            self._turn()

    def end(self) -> None:
        self._connection.connection_lost(None)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no buffer."""

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.answers += 1


class Socket:
    """Sends requests through a socket, turns the loop until it has answered, and counts the answers."""

    def __init__(self, loop: asyncio.AbstractEventLoop, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setblocking(False)
        self._turn = loop._run_once  # type: ignore[attr-defined]
        self.answers = 0

    def ask(self, frame: bytes) -> None:
        self.send(frame)
        self.receive()

    def send(self, frame: bytes) -> None:
        self._socket.send(frame)

    def receive(self) -> None:
        while True:
            self._turn()
            try:
                self.answers += bool(self._socket.recv(65536))
                return
            except BlockingIOError:
                pass

    def end(self) -> None:
        self._socket.close()


def measure(options: argparse.Namespace, directory: str) -> None:
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        broker, requests, frames = runner.run(_start(options, directory))
        port = broker.server.addresses[0][2]
        try:
            asyncio._set_running_loop(loop)  # as for everything that a broker does
            way: Socket | Nowhere = Socket(loop, port) if options.socket else Nowhere(loop, broker)
            if options.api == "tail":
                _measure(options, way, _tailing(loop, port, requests, frames))
            else:
                _measure(options, way, lambda way, number: way.ask(frames(number)))
        finally:
            asyncio._set_running_loop(None)
            runner.run(broker.stop())


async def _start(options: argparse.Namespace, directory: str) -> tuple[Broker, Requests, Frames]:
    """Return a broker that has what the requests need, and the requests."""
    settings = [f"log.dirs={directory}", "listeners=PLAINTEXT://127.0.0.1:0", "group.initial.rebalance.delay.ms=0"]
    broker = Broker(BrokerConfig.from_sources(overrides=settings), machine())
    await broker.start()
    batch = make_batch(options.records, options.size, options.codec)
    requests = Requests(broker.server.addresses[0][2], options.partitions, batch)
    return broker, requests, await requests.prepare(options.api)


def _tailing(
    loop: asyncio.AbstractEventLoop, port: int, requests: Requests, frames: Frames
) -> Callable[[Socket | Nowhere, int], None]:
    """Return what has a consumer wait, and a producer give it something."""
    consumer = Socket(loop, port)
    produce = requests.produce()

    def ask(way: Socket | Nowhere, number: int) -> None:
        consumer.send(frames(number))
        way.ask(produce)
        consumer.receive()

    return ask


def _measure(options: argparse.Namespace, way: Socket | Nowhere, ask: Callable[[Socket | Nowhere, int], None]) -> None:
    numbers = itertools.count()

    def run(requests: int) -> tuple[float, float]:
        before = os.times()
        for _ in range(requests):
            ask(way, next(numbers))
        after = os.times()
        return after.user - before.user, after.system - before.system

    run(max(options.requests // 10, 1))
    if options.counted:
        _count("on")
    user, system = min((run(options.requests) for _ in range(options.passes)), key=sum)
    if options.counted:
        _count("off")
    if way.answers != options.requests * options.passes + max(options.requests // 10, 1):
        raise RuntimeError("not every request was answered")
    per_request = 1e6 / options.requests
    print(f"{user * per_request:.1f} us user, {system * per_request:.1f} us system per request")
    if options.profile:
        with cProfile.Profile() as profile:
            run(options.requests)
        pstats.Stats(profile).sort_stats("tottime").print_stats(30)
    way.end()


def instructions(arguments: list[str]) -> int:
    """Return what callgrind counts per request: of two runs of different lengths, so that nothing but requests is left."""
    few, many = (_collected(arguments, requests) for requests in (COUNTED // 10, COUNTED * 11 // 10))
    return (many - few) // COUNTED


def _collected(arguments: list[str], requests: int) -> int:
    python = [sys.executable, "-m", "benchmarks.request_path"]
    ours = [*(a for a in arguments if a != "--instructions"), "--requests", str(requests), "--passes", "1", "--counted"]
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--callgrind-out-file=/dev/null", *python, *ours],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONHASHSEED": "0"},
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if found is None:
        raise RuntimeError(done.stderr)
    return int(found[1])


def _count(switch: str) -> None:
    """Have callgrind begin to count in this process, or end."""
    subprocess.run(["callgrind_control", "-i", switch, str(os.getpid())], check=True, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("partitions", 1), ("records", 1), ("size", 100), ("requests", 20_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--api", default="produce", choices=APIS)
    parser.add_argument("--codec", default="none", choices=[codec.name.lower() for codec in CompressionType])
    parser.add_argument("--passes", type=int, default=PASSES, help="the cheapest counts")
    parser.add_argument("--counted", action="store_true", help=argparse.SUPPRESS)  # by `--instructions` itself
    for flag in ("--profile", "--socket", "--asyncio", "--instructions"):
        parser.add_argument(flag, action="store_true")
    options = parser.parse_args()
    if options.api == "tail" and not options.socket:
        parser.error("--api tail needs --socket: its consumer waits at one")
    if options.asyncio:
        setattr(server, "new_reactor", lambda _host, frames_max: None)  # noqa: B010
    if options.instructions:
        print(f"{instructions(sys.argv[1:]):,} instructions per request")
        return
    with tempfile.TemporaryDirectory(prefix="ottla-path-", dir=os.environ.get("OTTLA_BENCH_DIR")) as directory:
        measure(options, directory)


if __name__ == "__main__":
    main()
