"""HDFS of a test's own: a NameNode and a DataNode of Hadoop in one JVM. Folder and ports outlive `kill()` and `start()`.

Maven brings org.apache.hadoop:hadoop-client-minicluster (105 MB) once, into `build/hdfs` or where OTTLA_HDFS_HOME says.
"""

from __future__ import annotations

import getpass
import http.client
import json
import os
import shutil
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.ports import free_port

from ottla.connect.errors import ConnectError
from ottla.connect.library.files.webhdfs import WebHdfs

VERSION = "3.5.0"
HOME = Path(os.environ.get("OTTLA_HDFS_HOME") or Path(__file__).parents[2] / "build" / "hdfs").absolute()
_PROGRAM = Path(__file__).with_name("Hdfs.java")
_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
<modelVersion>4.0.0</modelVersion><groupId>hdfs</groupId><artifactId>hdfs</artifactId><version>1</version>
<dependencies><dependency><groupId>org.apache.hadoop</groupId><artifactId>hadoop-client-minicluster</artifactId>
<version>{VERSION}</version></dependency></dependencies></project>
"""
_MAVEN_S = 1_200.0
_START_S = 180.0


@cache
def program() -> tuple[str, str]:
    """Return the class path, with the program compiled; or nothing and the reason."""
    folder = HOME / VERSION
    if shutil.which("javac") is None:
        return "", "no HDFS: no JDK on PATH"
    try:
        if not (folder / "done").exists():
            if shutil.which("mvn") is None:
                return "", "no HDFS: no mvn on PATH, which brings Hadoop"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "pom.xml").write_text(_POM)
            command = ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={folder / 'lib'}"]
            subprocess.run(command, cwd=folder, check=True, timeout=_MAVEN_S, capture_output=True, text=True)
            command = ["javac", "-nowarn", "-cp", f"{folder}/lib/*", "-d", str(folder / "classes"), str(_PROGRAM)]
            subprocess.run(command, check=True, timeout=_MAVEN_S, capture_output=True, text=True)
            (folder / "done").touch()
    except subprocess.SubprocessError as error:
        return "", f"no HDFS: {error} {(getattr(error, 'stderr', None) or '')[-500:]}"
    return f"{folder}/classes:{folder}/lib/*", ""


class Hdfs:
    """One NameNode and one DataNode.

    Attributes:
        address: of the NameNode's web port.
        rpc: what Hadoop's own clients name.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ottla-hdfs-"))
        self._rpc_port, self.port = free_port(), free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.rpc = f"hdfs://127.0.0.1:{self._rpc_port}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> dict[str, str]:
        """What a sink is told."""
        return {"store.url": f"webhdfs://{self.address}/lake", "store.option.user": "tester"}

    def start(self) -> None:
        """Start it; return when it takes files."""
        found, reason = program()
        assert found, reason
        command = ["java", "-Xmx512m", "-XX:+UseSerialGC", "-cp", found, "Hdfs"]
        command += [str(self._folder / "data"), str(self._rpc_port), str(self.port)]
        with (self._folder / "log").open("ab") as log:
            self._process = process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_S
        while not self._answers():
            assert process.poll() is None, f"HDFS has ended: {(self._folder / 'log').read_text()[-3000:]}"
            assert time.monotonic() < deadline, "HDFS does not answer"
            time.sleep(0.2)

    def _answers(self) -> bool:
        """Whether it lets the user of the tests in, and takes a file: there is a DataNode, and no safe mode."""
        try:
            self.ask("PUT", "/", op="SETPERMISSION", permission="777")
            self._store().put("_ready/file", b"yes")
        except (OSError, http.client.HTTPException, AssertionError, ConnectError):
            return False
        return True

    def _store(self) -> WebHdfs:
        return WebHdfs(self.settings["store.url"], {"user": "tester"}, scratch="_ready")

    def ask(self, method: str, path: str, *, user: str = "", **parameters: str) -> Any:
        """Return what WebHDFS answers to the user who runs HDFS, or to another one."""
        connection = http.client.HTTPConnection(self.address, timeout=60)
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        try:
            connection.request(method, f"/webhdfs/v1{path}?{query}&user.name={user or getpass.getuser()}")
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        assert answer.status < 400, data
        return json.loads(data) if data.strip() else None

    def files(self, folder: str) -> dict[str, bytes]:
        """Return the files below a folder of `/lake`, by path, as a client reads them."""
        store = self._store()
        return {path: store.get(path) for path in store.list(folder)}

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
