"""The least a server of asyncio can do, as a process of its own: what a figure of ottla can be compared with.

It sends back what it receives, through the same kind of protocol as the broker's connections (`asyncio.BufferedProtocol`
with one buffer for all), and does nothing else.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.support.brokers import cpu_seconds

_REQUEST = b"x" * 80
_INTERVAL_S = 5.0


class _Echo(asyncio.BufferedProtocol):
    view = memoryview(bytearray(1 << 18))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.view

    def buffer_updated(self, nbytes: int) -> None:
        self._transport.write(bytes(self.view[:nbytes]))


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Echo, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def _running() -> Iterator[tuple[int, int]]:
    """Process id and port of an echo server."""
    process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield process.pid, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def us_per_echo(connections: int, requests: int) -> float:
    """Processor microseconds of one echo, where `requests` come one by one, evenly spread over five seconds."""
    with _running() as (pid, port):
        sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
        time.sleep(0.5)
        used = cpu_seconds(pid)
        began = time.perf_counter()
        for number in range(requests):
            wait = began + number * _INTERVAL_S / requests - time.perf_counter()
            if wait > 0:
                time.sleep(wait)
            line = sockets[number % connections]
            line.sendall(_REQUEST)
            line.recv(len(_REQUEST))
        used = cpu_seconds(pid) - used
        for line in sockets:
            line.close()
    return used / requests * 1e6


if __name__ == "__main__":
    asyncio.run(_serve())
