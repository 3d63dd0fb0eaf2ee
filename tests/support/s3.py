"""An S3 server of a test's own, versitygw: its folder and its port outlive `kill()` and `start()`.

The program is built once by Go, into `build/s3` or where OTTLA_S3_HOME says. Each bucket is a folder.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.ports import free_port

MODULE = "github.com/versity/versitygw/cmd/versitygw"
VERSION = "v1.8.0"
HOME = Path(os.environ.get("OTTLA_S3_HOME") or Path(__file__).parents[2] / "build" / "s3").absolute()
_BUILD_S = 1_200.0
_START_S = 60.0


@cache
def program() -> tuple[Path | None, str]:
    """Return the program, built if it is not yet; or None and the reason."""
    path = HOME / VERSION / "versitygw"
    if path.exists():
        return path, ""
    if shutil.which("go") is None:
        return None, "no S3 server: no go on PATH, which builds versitygw"
    try:
        subprocess.run(
            ["go", "install", f"{MODULE}@{VERSION}"],
            env={**os.environ, "GOBIN": str(path.parent)},
            capture_output=True,
            text=True,
            timeout=_BUILD_S,
            check=True,
        )
    except subprocess.SubprocessError as error:
        return None, f"no S3 server: {error} {(getattr(error, 'stderr', None) or '')[-500:]}"
    return path, ""


class S3:
    """`versitygw` on a free port, with one bucket.

    Attributes:
        bucket: its name.
    """

    bucket = "lake"

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ottla-s3-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.bucket_folder.mkdir(parents=True)

    @property
    def bucket_folder(self) -> Path:
        """Where the bucket's objects lie."""
        return self._folder / "data" / self.bucket

    @property
    def settings(self) -> dict[str, str]:
        """What a sink is told."""
        return {
            "store.url": f"s3://{self.bucket}",
            "store.option.endpoint": f"http://127.0.0.1:{self.port}",
            "store.option.region": "us-east-1",
            "store.option.access_key_id": "tester",
            "store.option.secret_access_key": "password-of-tester",
        }

    def unfinished_uploads(self) -> int:
        """Return how many uploads in parts were begun and neither completed nor aborted."""
        parts = self.bucket_folder / ".sgwtmp" / "multipart"
        return sum(1 for path in parts.glob("*/*") if path.is_dir())

    def start(self) -> None:
        """Start it; return when it answers."""
        found, reason = program()
        assert found is not None, reason
        command = [str(found), "--port", f"127.0.0.1:{self.port}", "posix", str(self._folder / "data")]
        keys = {"ROOT_ACCESS_KEY": "tester", "ROOT_SECRET_KEY": "password-of-tester"}
        with (self._folder / "log").open("ab") as log:
            self._process = process = subprocess.Popen(command, env={**os.environ, **keys}, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=10).close()
                return
            except OSError:
                assert process.poll() is None, f"versitygw has ended: {(self._folder / 'log').read_text()[-2000:]}"
                assert time.monotonic() < deadline, "versitygw does not answer"
                time.sleep(0.05)

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)
            self._process = None

    def close(self) -> None:
        """End it and remove its folder."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
