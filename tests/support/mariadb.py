"""A MariaDB server of a test's own, with a database `shop` for the user `u` with the password `p`."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.support.ports import free_port

_GRANTS = (
    "CREATE DATABASE shop; CREATE USER 'u'@'127.0.0.1' IDENTIFIED BY 'p'; GRANT ALL ON shop.* TO 'u'@'127.0.0.1'; "
    "FLUSH PRIVILEGES;"
)


def is_installed() -> bool:
    """Whether MariaDB's programs are there."""
    return all(shutil.which(name) is not None for name in ("mariadbd", "mariadb-install-db", "mariadb"))


class MariaDb:
    """`mariadbd` on a free port."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ottla-mariadb-"))
        self._socket = str(self._folder / "s")
        self.port = free_port()
        as_mysql: dict[str, Any] = {"user": "mysql"} if os.geteuid() == 0 else {}  # the server refuses to run as root
        if as_mysql:
            shutil.chown(self._folder, "mysql")
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
        data = f"--datadir={self._folder / 'data'}"
        install = ["mariadb-install-db", "--no-defaults", data, "--auth-root-authentication-method=normal"]
        subprocess.run(install, check=True, **quiet, **as_mysql)
        options = [data, f"--port={self.port}", "--bind-address=127.0.0.1", f"--socket={self._socket}"]
        self._process = subprocess.Popen(["mariadbd", "--no-defaults", *options], **quiet, **as_mysql)
        client = ["mariadb", "--no-defaults", "-S", self._socket, "-u", "root", "-e"]
        deadline = time.monotonic() + 60
        while subprocess.run([*client, "SELECT 1"], check=False, **quiet).returncode != 0:
            assert time.monotonic() < deadline, "MariaDB does not answer"
            assert self._process.poll() is None, "MariaDB has ended"
            time.sleep(0.1)
        subprocess.run([*client, _GRANTS], check=True, **quiet)

    @property
    def url(self) -> str:
        """The address, as JDBC has it."""
        return f"jdbc:mariadb://u:p@127.0.0.1:{self.port}/shop"

    def close(self) -> None:
        """End it and remove its folder."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
