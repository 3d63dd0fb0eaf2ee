"""What the connection layer alone costs: trivial handlers, real sockets, the server's own CPU.

    python benchmarks/network_echo.py [--seconds 2] [--idle 1000]

Prints one line per case: throughput, and CPU of the server process (user + system) per GB or per request; then the
memory 1,000 idle connections cost. The client is a plain blocking socket in this process, the server a child process.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import resource
import socket
import struct
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

from ottla.file_region import Sendable
from ottla.network.binding import Listener
from ottla.network.server import Server

MB = 1_000_000
BODY = os.urandom(1 << 24)


def serve(pipe: Connection) -> None:
    """Child process: `P...` is answered with 4 bytes, `F` with a body, `R` with this process's CPU and memory."""
    ack = struct.pack(">ii", 4, 0)

    def handle(connection: object, frame: memoryview) -> list[Sendable]:
        kind = frame[0]
        if kind == 0x50:
            return [ack]
        if kind == 0x46:
            # A fresh body each time, as pread gives one.
            body = BODY[1 : struct.unpack_from(">i", frame, 1)[0] + 1]
            return [struct.pack(">i", len(body) + 100), bytes(100), body]
        usage = resource.getrusage(resource.RUSAGE_SELF)
        with open("/proc/self/statm", encoding="ascii") as statm:
            resident = int(statm.read().split()[1]) * resource.getpagesize()
        return [struct.pack(">iddq", 24, usage.ru_utime, usage.ru_stime, resident)]

    async def run() -> None:
        server = Server(handle)
        await server.start([Listener(name="PLAINTEXT", host="127.0.0.1", port=0)])
        pipe.send(server.addresses[0][2])
        await asyncio.Event().wait()

    asyncio.run(run())


class Client:
    """Blocking client that keeps some requests in flight."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = memoryview(bytearray(1 << 21))

    def read(self, size: int) -> None:
        while size:
            size -= self.socket.recv_into(self.buffer, min(size, len(self.buffer)))

    def usage(self) -> tuple[float, float, int]:
        self.socket.sendall(struct.pack(">i", 1) + b"R")
        data = b""
        while len(data) < 28:
            data += self.socket.recv(28 - len(data))
        found: tuple[float, float, int] = struct.unpack(">ddq", data[4:])
        return found

    def run(self, request: bytes, answer_size: int, in_flight: int, seconds: float) -> tuple[int, float, float, float]:
        """Send `request` over and over; return (count, elapsed, user, system) of the server."""
        for _ in range(20):
            self.socket.sendall(request)
            self.read(answer_size)
        user, system, _ = self.usage()
        started = time.perf_counter()
        sent = done = 0
        room = threading.Semaphore(in_flight)
        deadline = started + seconds

        def send() -> None:
            nonlocal sent
            while time.perf_counter() < deadline:
                room.acquire()
                self.socket.sendall(request)
                sent += 1

        def send_in_line() -> None:
            nonlocal sent
            self.socket.sendall(request)
            sent += 1

        if in_flight == 1:
            while time.perf_counter() < deadline:
                send_in_line()
                self.read(answer_size)
                done += 1
        elif len(request) < 1000:  # bursts: one thread is faster than two
            while time.perf_counter() < deadline:
                self.socket.sendall(request * in_flight)
                self.read(answer_size * in_flight)
                done += in_flight
        else:
            thread = threading.Thread(target=send)
            thread.start()
            while done < sent or thread.is_alive():
                if done == sent:
                    time.sleep(0)
                    continue
                self.read(answer_size)
                done += 1
                room.release()
            thread.join()
        elapsed = time.perf_counter() - started
        user_after, system_after, _ = self.usage()
        return done, elapsed, user_after - user, system_after - system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--idle", type=int, default=1000, help="idle connections to open")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child: Any = context.Process(target=serve, args=(theirs,), daemon=True)
    child.start()
    port = ours.recv()
    client = Client(port)
    for size in (10_000, 100_000, MB, 8 * MB):
        request = struct.pack(">i", size) + b"P" + bytes(size - 1)
        count, elapsed, user, system = client.run(request, 8, 5, arguments.seconds)
        report(f"in, {size:>9,} B frames", count * size, elapsed, user, system)
    for size in (10_000, 100_000, MB, 8 * MB):
        request = struct.pack(">ici", 5, b"F", size)
        count, elapsed, user, system = client.run(request, size + 104, 1, arguments.seconds)
        report(f"out, {size:>8,} B bodies", count * size, elapsed, user, system)
    for in_flight in (1, 5, 50):
        request = struct.pack(">i", 100) + b"P" * 100
        count, elapsed, user, system = client.run(request, 8, in_flight, arguments.seconds)
        cpu = (user + system) / count * 1e6
        print(f"100 B requests, {in_flight:>2} in flight   {count / elapsed:>9,.0f}/s   {cpu:6.2f} us of CPU each")
    child.terminate()
    child.join(5)
    idle_connections(context, arguments.idle)


def idle_connections(context: Any, count: int) -> None:
    """Open connections to a fresh server; each sends one request and then nothing."""
    ours, theirs = context.Pipe()
    child = context.Process(target=serve, args=(theirs,), daemon=True)
    child.start()
    port = ours.recv()
    client = Client(port)
    client.run(struct.pack(">i", 100) + b"P" * 100, 8, 1, 0.1)
    before = client.usage()[2]
    started = time.perf_counter()
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    for one in idle:
        one.sendall(struct.pack(">i", 100) + b"P" * 100)
    for one in idle:
        assert one.recv(8) == struct.pack(">ii", 4, 0)
    elapsed = time.perf_counter() - started
    after = client.usage()[2]
    print(
        f"{count:,} idle connections (one request each): {(after - before) / count / 1024:.1f} KiB of RSS each, "
        f"opened and answered in {elapsed:.2f} s; server RSS {before / 2**20:.0f} -> {after / 2**20:.0f} MiB"
    )
    for one in idle:
        one.close()
    child.terminate()
    child.join(5)


def report(what: str, size: int, elapsed: float, user: float, system: float) -> None:
    gigabytes = size / 1e9
    print(
        f"{what:<24} {gigabytes / elapsed:5.2f} GB/s   {(user + system) / gigabytes:5.3f} CPU s/GB "
        f"({user / gigabytes:.3f} user, {system / gigabytes:.3f} system)"
    )


if __name__ == "__main__":
    main()
