"""What TLS costs the network layer: CPU seconds of the server per GB, plain and encrypted, in and out, frames of 256 KiB.

    python -m benchmarks.tls [--rounds N]

Server and client are two processes over loopback; only the server's CPU time counts. Needs the `openssl` command.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import ssl
import statistics
import sys
import tempfile
from pathlib import Path

from tests.network.certificates import server_context

from ottla.network.binding import Listener
from ottla.network.server import Server

SIZE, COUNT = 256 * 1024, 2_000
SMALL = 8
SETTLE_S = 1.0


def frame(size: int) -> bytes:
    return size.to_bytes(4, "big") + bytes(size)


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def measure(direction: str, context: ssl.SSLContext | None) -> float:
    """CPU seconds of this process per GB."""
    answer = frame(SIZE if direction == "out" else SMALL)
    server = Server(lambda connection, body: [answer])
    tls = None if context is None else lambda: context
    await server.start([Listener(name="MEASURED", host="127.0.0.1", port=0, tls=tls)])
    port = server.addresses[0][2]
    arguments = ("-m", "benchmarks.tls", "--client", direction, "--port", str(port))
    client = await asyncio.create_subprocess_exec(sys.executable, *arguments, *(["--encrypted"] if tls else []))
    await asyncio.sleep(SETTLE_S / 2)
    before = cpu_seconds()
    await client.wait()
    used = cpu_seconds() - before
    await server.stop(0.1)
    return used / (SIZE * COUNT / 1e9)


async def be_client(direction: str, port: int, *, encrypted: bool) -> None:
    context = None
    if encrypted:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, limit=1 << 20)
    await asyncio.sleep(SETTLE_S)
    request = frame(SIZE if direction == "in" else SMALL)
    size = (SMALL if direction == "in" else SIZE) + 4
    for _ in range(COUNT):
        writer.write(request)
        await reader.readexactly(size)
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--client", choices=("in", "out"), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--encrypted", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.client:
        asyncio.run(be_client(given.client, given.port, encrypted=given.encrypted))
        return
    with tempfile.TemporaryDirectory() as directory:
        context, _ = server_context(Path(directory))
        for direction in ("in", "out"):
            pairs = [
                (asyncio.run(measure(direction, None)), asyncio.run(measure(direction, context)))
                for _ in range(given.rounds)
            ]
            plain, encrypted = (statistics.median(values) for values in zip(*pairs, strict=True))
            added = statistics.median(one - other for other, one in pairs)
            print(f"{direction}: plain {plain:.2f}, TLS {encrypted:.2f}, TLS adds {added:.2f} CPU s/GB")


if __name__ == "__main__":
    main()
