"""The Java client as a child process that takes commands (native/Load.java), compiled on the spot.

It needs a JDK and the jars that the scripts in OTTLA_KAFKA_ANCHOR installed: `libs` under OTTLA_KAFKA_HOME, by default
~/.cache/ottla-anchors/kafka.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self

NATIVE = Path(__file__).parent / "native"
HOME = Path(os.environ.get("OTTLA_KAFKA_HOME") or Path.home() / ".cache" / "ottla-anchors" / "kafka")
HEAP = "-Xmx1g"


def missing() -> str | None:
    """Why there is no Java client here, or None."""
    for program in ("java", "javac"):
        if shutil.which(program) is None:
            return f"no {program} on PATH"
    if not any((HOME / "libs").glob("kafka-clients-*.jar")):
        return f"no kafka-clients in {HOME / 'libs'} (run the anchor's setup, or set OTTLA_KAFKA_HOME)"
    return None


def version() -> str:
    """Return the client's version, from the name of its jar."""
    jars = sorted((HOME / "libs").glob("kafka-clients-*.jar"))
    return jars[-1].stem.removeprefix("kafka-clients-") if jars else "none"


class JavaLoad:
    """One JVM with the load program. A context manager: leaving it ends the JVM."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="benchmark-java-")
        classes = self._directory.name
        jars = f"{HOME / 'libs'}/*"
        subprocess.run(["javac", "-cp", jars, "-d", classes, NATIVE / "Load.java"], check=True, timeout=120)
        self._process = subprocess.Popen(
            ["java", HEAP, "-Dlog4j2.StatusLogger.level=OFF", "-cp", f"{classes}:{jars}", "Load"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, command: str, port: int, topic: str, options: Mapping[str, object]) -> dict[str, float]:
        """Run one command and return its figures.

        Raises:
            RuntimeError: the client failed; the text is Java's.
        """
        self.start(command, port, topic, options)
        return self.finish()

    def start(self, command: str, port: int, topic: str, options: Mapping[str, object]) -> None:
        """Send a command without waiting for its end."""
        assert self._process.stdin is not None
        words = [command, f"bootstrap=127.0.0.1:{port}", f"topic={topic}"]
        words += [f"{name}={value}" for name, value in options.items()]
        self._process.stdin.write(" ".join(words) + "\n")
        self._process.stdin.flush()

    def finish(self) -> dict[str, float]:
        """Wait for the command that was started last."""
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            kind, _, rest = line.rstrip("\n").partition(" ")
            if kind == "ok":
                return {name: float(value) for name, _, value in (word.partition("=") for word in rest.split())}
            if kind == "error":
                raise RuntimeError(f"Java client: {rest}")
            # Anything else is the client's logging.
        raise RuntimeError(f"the Java client ended ({self._process.poll()})")

    def close(self) -> None:
        self._process.kill()
        self._process.wait(30)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._directory.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
