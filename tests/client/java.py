"""Small Java programs on Apache Kafka's class path, for tests with the `kafka` marker."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.compatibility.streams.application import class_path
from tests.support import kafka_anchor


def run_java(source: Path, *arguments: str, timeout_s: float = 120.0) -> str:
    """Compile one class and run its `main`; return what it prints. Skips where Apache Kafka is absent."""
    kafka_anchor.require()
    done = kafka_anchor.run_tool("com.sun.tools.javac.Main", "-proc:none", "-d", str(source.parent), str(source))
    assert done.returncode == 0, done.stdout
    finished = subprocess.run(
        [
            "java",
            "-Xmx256m",
            "-XX:TieredStopAtLevel=1",
            "-cp",
            f"{source.parent}:{class_path()}",
            source.stem,
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env=dict(os.environ),
    )
    assert finished.returncode == 0, finished.stderr[-3000:] + finished.stdout[-1000:]
    return finished.stdout
