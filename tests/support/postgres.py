"""A PostgreSQL server of a test's own: its folder and its port outlive `kill()` and `start()`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.ports import free_port

_USERS = ("postgres", "nobody")


def programs() -> Path | None:
    """Return the folder of PostgreSQL's programs, or None."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    found = [folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()]
    if found:
        return found[0]
    there = shutil.which("initdb")
    return Path(there).resolve().parent if there and shutil.which("postgres") else None


class Postgres:
    """`postgres` on a free port, for the user "postgres" without a password.

    Args:
        follows: the server that this one is a standby of; it takes over with `promote()`.
    """

    def __init__(self, follows: Postgres | None = None, **settings: str) -> None:
        folder = programs()
        assert folder is not None
        self._bin = folder
        self._folder = Path(tempfile.mkdtemp(prefix="ottla-postgres-"))
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        # The server refuses to run as root.
        self._as: dict[str, Any] = {"user": _user()} if os.geteuid() == 0 else {}
        if self._as:
            shutil.chown(self._folder, self._as["user"])
        if follows is not None:
            self._copy(follows)
            return
        command = [
            folder / "initdb",
            "-D",
            self._folder / "data",
            "-U",
            "postgres",
            "-A",
            "trust",
            "--no-sync",
            "-E",
            "UTF8",
        ]
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, cwd="/", **self._as)

    def _copy(self, server: Postgres) -> None:
        at = ["-h", "127.0.0.1", "-p", str(server.port), "-U", "postgres"]
        command = [
            str(self._bin / "pg_basebackup"),
            *at,
            "-D",
            str(self._folder / "data"),
            "-R",
            "-c",
            "fast",
            "--no-sync",
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", **self._as)

    def promote(self) -> None:
        """Have a standby take over; return when it has."""
        command = [str(self._bin / "pg_ctl"), "promote", "-w", "-D", str(self._folder / "data")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", **self._as)

    @property
    def url(self) -> str:
        """The address, as JDBC has it."""
        return f"jdbc:postgresql://127.0.0.1:{self.port}/postgres?user=postgres"

    @property
    def conninfo(self) -> str:
        """The address, as psycopg has it."""
        return f"host=127.0.0.1 port={self.port} dbname=postgres user=postgres"

    def start(self) -> None:
        """Start it; return when it answers."""
        given = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
        } | self._settings
        command = [str(self._bin / "postgres"), "-D", str(self._folder / "data")]
        options = [part for name, value in given.items() for part in ("-c", f"{name}={value}")]
        self._process = process = subprocess.Popen(
            [*command, *options], cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **self._as
        )
        ready = [str(self._bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        deadline = time.monotonic() + 60
        while subprocess.run(ready, check=False).returncode != 0:
            assert time.monotonic() < deadline, "PostgreSQL does not answer"
            assert process.poll() is None, "PostgreSQL has ended"
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill the server and its children: all that it has acknowledged is there when it starts again."""
        if self._process is not None:
            children = subprocess.run(
                ["ps", "-o", "pid=", "--ppid", str(self._process.pid)], capture_output=True, check=False
            )
            self._process.kill()
            self._process.wait()
            for child in children.stdout.split():
                try:
                    os.kill(int(child), signal.SIGKILL)
                except ProcessLookupError:
                    pass
            (self._folder / "data" / "postmaster.pid").unlink(missing_ok=True)
            self._process = None

    def close(self) -> None:
        """End it and remove its folder."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(60)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _user() -> str:
    import pwd

    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in _USERS if name in known)
