"""The Kafka Streams application of these tests: compiled once, started, ended and killed.

The jars (kafka-streams, rocksdbjni) are those of Apache Kafka's anchor: its `tool` runs any main class on its class
path, so it compiles, and says what that class path is.
"""

from __future__ import annotations

import os
import signal
import subprocess
from functools import cache
from pathlib import Path

from tests.support import kafka_anchor

SOURCE = Path(__file__).parent / "java" / "KillableApp.java"
JVM = ["-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]
QUIET = ["-Dlog4j2.StatusLogger.level=OFF", "-Dorg.apache.logging.log4j.level=WARN"]
STOP_TIMEOUT_S = 60.0


@cache
def class_path() -> str:
    """The class path of Apache Kafka's own programs."""
    shown = subprocess.run(
        [str(kafka_anchor.ANCHOR / "tool"), "com.sun.tools.javac.Main", "-version"],
        env={**os.environ, "KAFKA_HEAP": "-XshowSettings:properties"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stderr
    _, _, rest = shown.partition("java.class.path = ")
    jars = []
    for line in rest.splitlines():
        if " = " in line:
            break
        jars.append(line.strip())
    assert any("kafka-streams-" in jar for jar in jars), shown
    return ":".join(jars)


def compile_application(directory: Path) -> Path:
    """Compile the application into `directory`; raises if it does not compile."""
    done = kafka_anchor.run_tool("com.sun.tools.javac.Main", "-proc:none", "-d", str(directory), str(SOURCE))
    if done.returncode != 0:
        raise RuntimeError(done.stdout)
    return directory


class Application:
    """One instance (one JVM) of the application, with a state directory of its own that outlives its deaths."""

    def __init__(self, classes: Path, directory: Path, name: str, config: dict[str, str]) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self.gave_up = 0
        self._config = {**config, "state.dir": str(directory / f"{name}.state"), "client.id": name}
        self._classes = classes
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        assert not self.is_running()
        path = f"{self._classes}:{class_path()}"
        settings = [f"{key}={value}" for key, value in self._config.items()]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["java", *JVM, *QUIET, "-cp", path, "KillableApp", *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def restart_if_it_gave_up(self) -> bool:
        """Start it again if it ended by itself, which is counted: users' supervisors do the same."""
        if self.is_running():
            return False
        self.gave_up += 1
        self.start()
        return True

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_TIMEOUT_S)

    def stop(self) -> int:
        """SIGTERM: the application commits and leaves; its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(STOP_TIMEOUT_S)

    def has_printed(self, text: str) -> bool:
        return self.log.exists() and text in self.log.read_text(errors="replace")

    def tail(self, size: int = 6_000) -> str:
        return self.log.read_text(errors="replace")[-size:] if self.log.exists() else ""
