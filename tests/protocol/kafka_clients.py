"""Kafka's own codec, asked through a small Java program (java/Oracle.java) compiled on the spot."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Self

import pytest
from tests.protocol.messages import kind_of

from ottla.protocol.primitives import Buffer
from ottla.protocol.schema import Message, Struct

VERSION = "4.4.0"
MAVEN = Path.home() / ".m2" / "repository"
ARTIFACTS = [
    ("org.apache.kafka", "kafka-clients", VERSION),
    ("org.apache.kafka", "kafka-group-coordinator", VERSION),
    ("org.apache.kafka", "kafka-share-coordinator", VERSION),
    ("org.apache.kafka", "kafka-transaction-coordinator", VERSION),
    ("org.slf4j", "slf4j-api", "1.7.36"),
]
PACKAGES = {
    "group_records": "org.apache.kafka.coordinator.group.generated",
    "share_records": "org.apache.kafka.coordinator.share.generated",
    "transaction_records": "org.apache.kafka.coordinator.transaction.generated",
}


def find_jar(directory: Path, group: str, artifact: str, version: str) -> Path:
    """Return a jar of Maven's local repository, copied from Maven Central if it is not there; or skip the test."""
    name = f"{artifact}-{version}.jar"
    local = MAVEN / group.replace(".", "/") / artifact / version / name
    if local.is_file():
        return local
    if shutil.which("mvn") is None:
        pytest.skip(f"{name} is not in Maven's local repository, and there is no mvn")
    command = ["mvn", "-q", "dependency:copy", f"-Dartifact={group}:{artifact}:{version}"]
    copied = subprocess.run([*command, f"-DoutputDirectory={directory}"], cwd=directory, timeout=300, check=False)
    if copied.returncode != 0:
        pytest.skip(f"mvn could not fetch {name}")
    return directory / name


class KafkaClients:
    """A JVM that answers how Kafka reads and writes bytes. A context manager: leaving it ends the JVM."""

    def __init__(self, directory: Path) -> None:
        for program in ("java", "javac"):
            if shutil.which(program) is None:
                pytest.skip(f"no {program}")
        jars = [find_jar(directory, *artifact) for artifact in ARTIFACTS]
        classpath = ":".join(map(str, [directory, *jars]))
        source = Path(__file__).parent / "java" / "Oracle.java"
        subprocess.run(["javac", "-cp", classpath, "-d", directory, source], check=True, timeout=120)
        self._process = subprocess.Popen(
            ["java", "-Xmx256m", "-XX:+UseSerialGC", "-cp", classpath, "Oracle"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=20)

    def read(self, cls: type[Message], version: int, data: Buffer) -> tuple[int, bytes, Any] | str:
        """Return (bytes consumed, bytes Kafka writes for what it read, values), or the name of Kafka's exception."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{java_name(cls)} {version} {bytes(data).hex()}\n")
        self._process.stdin.flush()
        outcome, rest = self._process.stdout.readline().rstrip("\n").split(" ", 1)
        if outcome == "no":
            return rest
        consumed, written, values = rest.split(" ", 2)
        return int(consumed), bytes.fromhex(written), json.loads(values, object_hook=snake_case_keys)


def java_name(cls: type[Message]) -> str:
    module = cls.__module__.rpartition(".")[2]
    package = PACKAGES.get(module, "org.apache.kafka.common.message")
    suffix = "Data" if kind_of(cls) != "data" or module == "headers" else ""
    return f"{package}.{cls.__name__}{suffix}"


def snake_case_keys(values: dict[str, Any]) -> dict[str, Any]:
    return {re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower(): value for name, value in values.items()}


def java_values(value: Any) -> Any:
    """Return a message in the terms of the oracle's answer: structs as dicts, strings and bytes as hex."""
    if isinstance(value, Struct):
        return {name: java_values(getattr(value, name)) for name in value.__slots__}
    if isinstance(value, list):
        return [java_values(item) for item in value]
    if isinstance(value, str):
        return value.encode().hex()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    return value
