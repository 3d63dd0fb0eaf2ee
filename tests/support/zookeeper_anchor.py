"""Apache ZooKeeper, the real ensembles that the coordination tree is kept on: servers as processes of this machine.

They come from the scripts `start` and `stop` in the directory that OTTLA_ZOOKEEPER_ANCHOR names (by default
`../shared/anchors/zookeeper`, beside the repository). OTTLA_ZOOKEEPER_HOME chooses the release. Tests that need it skip where
it is absent.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest
from tests.support.ports import free_port, is_free

REPOSITORY = Path(__file__).resolve().parents[2]
ANCHOR = Path(
    os.environ.get("OTTLA_ZOOKEEPER_ANCHOR") or REPOSITORY.parent / "shared" / "anchors" / "zookeeper"
).absolute()
HOME = Path(os.environ.get("OTTLA_ZOOKEEPER_HOME") or Path.home() / ".cache" / "ottla-anchors" / "zookeeper")
START_TIMEOUT_S = 60.0


@cache
def missing() -> str | None:
    """Why ZooKeeper cannot be used here, or None."""
    for script in ("start", "stop"):
        if not (ANCHOR / script).is_file():
            return f"no ZooKeeper: {ANCHOR / script} does not exist (set OTTLA_ZOOKEEPER_ANCHOR)"
    if shutil.which("java") is None:
        return "no ZooKeeper: no java on PATH"
    if not (HOME / "libs").is_dir():
        return f"no ZooKeeper in {HOME}: run {ANCHOR / 'setup'} (or set OTTLA_ZOOKEEPER_HOME)"
    return None


def require() -> None:
    """Skip the calling test where ZooKeeper is absent."""
    if reason := missing():
        pytest.skip(reason)


class ZooKeeperEnsemble:
    """Servers on loopback; data in a temporary directory.

    Args:
        count: how many servers; one alone needs no majority.
        configuration: more lines of zoo.cfg.
        options: more -D flags of the servers.
    """

    def __init__(self, count: int = 1, *, configuration: Sequence[str] = (), options: Sequence[str] = ()) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="zookeeper-anchor-")
        self.directory = Path(self._temporary.name) / "ensemble"
        self.count = count
        self._more: Mapping[str, str] = {
            "ZOOKEEPER_CFG": "\\n".join(configuration),
            "ZOOKEEPER_OPTS": " ".join(["-XX:TieredStopAtLevel=1", *options]),
            "OTTLA_ZOOKEEPER_HOME": str(HOME),
        }
        self.port = _free_ports(count)
        self.servers = [f"127.0.0.1:{self.port + number}" for number in range(count)]

    def start(self) -> None:
        """Start all servers; return when they serve."""
        self._script("start", str(self.port), str(self.directory), str(self.count))
        for number in range(1, self.count + 1):
            self.wait(number)

    def start_again(self, number: int) -> None:
        """Start a server (1, 2, ...) that was killed."""
        self._script("start", "--only", str(number), str(self.directory))
        self.wait(number)

    def wait(self, number: int) -> None:
        """Wait until a server serves: alone, or as a member of a majority."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while "Mode:" not in self.ask(number, "srvr"):
            if time.monotonic() > deadline:
                log = (self.directory / str(number) / "server.log").read_text()[-2000:]
                raise AssertionError(f"ZooKeeper server {number} does not serve: {log}")
            time.sleep(0.05)

    def ask(self, number: int, word: str) -> str:
        """Return what a server answers to a four-letter word, "" if nothing."""
        try:
            with socket.create_connection(("127.0.0.1", self.port + number - 1), timeout=2) as connection:
                connection.sendall(word.encode())
                parts = []
                while part := connection.recv(65536):
                    parts.append(part)
                return b"".join(parts).decode(errors="replace")
        except OSError:
            return ""

    def leader(self) -> int:
        """Return the number of the server that leads."""
        for number in range(1, self.count + 1):
            if "Mode: leader" in self.ask(number, "srvr"):
                return number
        raise AssertionError("no server leads")

    def signal(self, number: int, kind: signal.Signals) -> None:
        os.kill(int((self.directory / str(number) / "pid").read_text()), kind)

    def kill(self, number: int) -> None:
        """kill -9; return when nothing answers any more."""
        self.signal(number, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while self.ask(number, "srvr") and time.monotonic() < deadline:
            time.sleep(0.02)
        (self.directory / str(number) / "pid").unlink()

    def stop(self) -> None:
        for number in range(1, self.count + 1):
            try:
                self.signal(number, signal.SIGCONT)
                self.signal(number, signal.SIGKILL)
            except (OSError, ValueError):
                pass
        self._script("stop", str(self.directory), "--wipe")
        self._temporary.cleanup()

    def _script(self, name: str, *arguments: str) -> None:
        subprocess.run(
            [str(ANCHOR / name), *arguments],
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, **self._more},
        )


def _free_ports(count: int) -> int:
    """Return a port that is free, as are the ones after it, and those 100 and 200 higher."""
    while True:
        port = free_port(neighbours=count)
        if all(is_free(port + distance + n) for distance in (100, 200) for n in range(count)):
            return port
