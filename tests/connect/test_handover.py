"""Connectors handed over between Apache Kafka's standalone worker and ours: both keep offsets in the same file."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.connect.parity.oracle import find_jars
from tests.connect.test_standalone import Running, file_source, read, until, worker_config
from tests.support.broker_process import RunningBroker
from tests.support.ports import free_port

pytestmark = pytest.mark.kafka

#: Seconds for the start of a JVM with all of Connect, on a busy machine.
JAVA_LIMIT_S = 300.0


@contextmanager
def java_worker(folder: Path, config: dict[str, str], connector: dict[str, str]) -> Iterator[None]:
    """Run connect-standalone until the block ends."""
    settings = config | {"listeners": f"http://127.0.0.1:{free_port()}"}
    files = []
    for name, given in (("worker", settings), ("connector", connector)):
        files.append(folder / f"java-{name}.properties")
        files[-1].write_text("".join(f"{key}={value}\n" for key, value in given.items()))
    command = [
        "java",
        "-Xmx256m",
        "-cp",
        find_jars(folder / "jars"),
        "org.apache.kafka.connect.cli.ConnectStandalone",
        *map(str, files),
    ]
    with (folder / "java.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"LC_ALL": "C.UTF-8"})
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(90)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def test_a_file_source_goes_on_from_the_other_workers_offsets(broker: RunningBroker, tmp_path: Path) -> None:
    """1. Ours reads two lines.  2. Java's worker reads the third.  3. Ours reads the fourth. Each line is there once."""
    given = tmp_path / "in.txt"
    config, connector = worker_config(broker, tmp_path), file_source(given, "handed")
    del config["plugin.modules"]

    def found() -> list[str]:
        return [record.value.decode() for record in read(broker, "handed")]

    given.write_text("one\ntwo\n")
    with Running(config, connector):
        until(lambda: len(found()) == 2, "two lines from ours")
    with given.open("a") as file:
        file.write("three\n")
    with java_worker(
        tmp_path, config, connector | {"connector.class": "org.apache.kafka.connect.file.FileStreamSourceConnector"}
    ):
        until(lambda: len(found()) >= 3, "a line from Java's worker", JAVA_LIMIT_S)
    with given.open("a") as file:
        file.write("four\n")
    with Running(config, connector):
        until(lambda: len(found()) >= 4, "another line from ours")
    assert found() == ["one", "two", "three", "four"]
