"""A broker for the tests of commands, and a way to run them as a person would."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
from tests.support.printed import without_librdkafka

from ottla.cli.main import main
from ottla.testing import Broker


@dataclass(frozen=True, slots=True)
class Done:
    """What a command left: its exit code, data, chatter."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[list[str]]:
        """The words of each line of data."""
        return [line.split() for line in self.out.splitlines()]


class Run(Protocol):
    def __call__(self, *arguments: str, stdin: bytes = b"") -> Done: ...


@pytest.fixture(scope="module")
def cluster() -> Iterator[Broker]:
    """A broker shared by the tests of a module: use topics of your own."""
    with Broker() as broker:
        yield broker


@pytest.fixture(autouse=True)
def no_contexts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in the home of whoever runs the tests has no say."""
    monkeypatch.setenv("OTTLA_CONFIG", str(tmp_path / "config.toml"))
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "OTTLA_CONTEXT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def ottla(cluster: Broker, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Run `ottla ARGUMENTS` against the cluster."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", cluster.bootstrap_servers)
    # The broker is in this process, and may find a log handler whose stream an earlier test has closed.
    monkeypatch.setattr(logging, "raiseExceptions", False)

    def run(*arguments: str, stdin: bytes = b"") -> Done:
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            code = main(arguments)
        sys.stdout.flush()
        shown = capfdbinary.readouterr()
        return Done(code, shown.out.decode("utf-8", "surrogateescape"), without_librdkafka(shown.err.decode()))

    return run
