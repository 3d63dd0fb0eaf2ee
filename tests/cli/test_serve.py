"""Start, ready line, signals and stop, with a broker that is only a record of what it was told."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from ottla.broker.http.broker_facts import BrokerFacts
from ottla.cli import serve, terminal
from ottla.cluster.tree import ConnectionLostError, TreeUnavailableError


class FakeBroker:
    """Starts at once, fails to, or never finishes starting."""

    def __init__(self, error: Exception | None = None, *, endless: bool = False) -> None:
        self.log: list[str] = []
        self.failure: asyncio.Future[str] = asyncio.get_event_loop().create_future()
        self._error = error
        self._endless = endless

    async def start(self) -> None:
        self.log.append("start")
        if self._error is not None:
            raise self._error
        if self._endless:
            asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGTERM)
            await asyncio.Event().wait()

    async def stop(self) -> None:
        self.log.append("stop")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_the_broker_cleanly(number: signal.Signals) -> None:
    broker = FakeBroker()

    def announce(broker: FakeBroker) -> None:
        broker.log.append("ready")
        asyncio.get_running_loop().call_soon(signal.raise_signal, number)

    async with asyncio.timeout(10):
        assert await serve.serve(lambda: broker, announce) == 0
    assert broker.log == ["start", "ready", "stop"]


async def test_what_runs_beside_the_broker_starts_after_it_and_stops_before_it() -> None:
    broker = FakeBroker()

    class Beside:
        def start(self, broker: FakeBroker) -> None:
            broker.log.append("start beside")
            asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGTERM)

        async def stop(self) -> None:
            broker.log.append("stop beside")

    async with asyncio.timeout(10):
        assert await serve.serve(lambda: broker, lambda _: broker.log.append("ready"), beside=Beside()) == 0
    assert broker.log == ["start", "ready", "start beside", "stop beside", "stop"]


async def test_a_signal_during_the_start_ends_it() -> None:
    broker = FakeBroker(endless=True)
    async with asyncio.timeout(10):
        assert await serve.serve(lambda: broker, lambda broker: broker.log.append("ready")) == 0
    assert broker.log == ["start", "stop"]


async def test_a_start_that_fails_is_cleaned_up_and_reported() -> None:
    broker = FakeBroker(OSError(98, "port 9092 is already in use"))
    with pytest.raises(OSError, match="port 9092 is already in use"):
        await serve.serve(lambda: broker, lambda broker: broker.log.append("ready"))
    assert broker.log == ["start", "stop"]


async def test_a_start_that_loses_its_connection_with_zookeeper_is_tried_again() -> None:
    """ZooKeeper hangs for a moment while a broker starts; the finding: the broker ended with code 1."""
    lost = ConnectionLostError("ZooKeeper did not answer a request for /x (ConnectionLoss)")
    brokers = [FakeBroker(lost), FakeBroker(lost), FakeBroker(endless=True)]
    rest = iter(brokers)
    assert await serve.serve(lambda: next(rest), lambda _: None, patience_s=600) == 0
    assert [broker.log[0] for broker in brokers] == ["start"] * 3
    with pytest.raises(ConnectionLostError):
        await serve.serve(lambda: FakeBroker(lost), lambda _: None, patience_s=0)
    refused = FakeBroker(TreeUnavailableError("ZooKeeper refused the credentials of this broker"))
    with pytest.raises(TreeUnavailableError, match="credentials"):
        await serve.serve(lambda: refused, lambda _: None, patience_s=600)
    assert refused.log == ["start", "stop"]


def test_the_second_interrupt_ends_the_process_at_once() -> None:
    script = (
        "import asyncio, signal\n"
        "from ottla.cli import serve\n"
        "class Stuck:\n"
        "    async def start(self): pass\n"
        "    async def stop(self):\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(serve.serve(Stuck, lambda _: signal.raise_signal(signal.SIGINT)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGINT
    assert "Traceback" not in done.stderr


def test_the_ready_line_has_address_data_time_memory_and_kernels() -> None:
    facts = BrokerFacts(
        version="0.1.0",
        node_id=1,
        cluster_id="x",
        addresses=["localhost:9092"],
        data_dirs=["data"],
        kernels="plain: no extension built",
    )
    line = serve.ready_line(facts, 0.21)
    assert re.fullmatch(
        rf"ottla 0\.1\.0 ready on localhost:9092 \(kafka \+ http\) · data {re.escape(os.getcwd())}/data · \d+\.\d\d s"
        r"( · \d+ MB)? · kernels plain: no extension built",
        line,
    )


def test_an_error_is_told_without_pythons_decoration() -> None:
    assert terminal.reason(OSError(98, "port 9092 is already in use")) == "port 9092 is already in use"
    assert terminal.reason(FileNotFoundError(2, "No such file or directory", "/x")) == "/x: No such file or directory"
    assert terminal.reason(ValueError("plain")) == "plain"
    assert terminal.reason(KeyError()) == "KeyError"


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert terminal.complain("first\n  second", 1) == 1
    assert capsys.readouterr().err == "ottla: first second\n"


@pytest.mark.parametrize("more", [[], ["--port", "0"], ["--advertise", "broker.example.com"]])
def test_zookeeper_flag_opens_nothing(more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A broker of a cluster is told where to listen: no option but --host, and no file without listeners, opens a port."""
    arguments = ["--zookeeper", "localhost:1", "--broker-id", "1", "--data-dir", str(tmp_path / "data"), *more]
    assert serve.main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("ottla: --zookeeper alone would make a broker that no other machine reaches")
    assert "--host 0.0.0.0" in told
    assert not (tmp_path / "data").exists()
    file = tmp_path / "server.properties"
    file.write_text("num.partitions=3\n")
    assert serve.main([str(file), *arguments]) == 2

    def listeners(*options: str, variables: Mapping[str, str] | None = None) -> list[str]:
        config = serve.read_config(serve.parser().parse_args([*arguments, *options]), variables or {})
        return [listener.host for listener in config.listeners]

    file.write_text("listeners=PLAINTEXT://:9092\n")
    assert listeners(str(file)) == [""]
    assert listeners("--host", "127.0.0.1") == ["127.0.0.1"]
    assert listeners("-X", "listeners=PLAINTEXT://10.1.2.3:9092") == ["10.1.2.3"]
    assert listeners(variables={"KAFKA_LISTENERS": "PLAINTEXT://10.1.2.3:9092"}) == ["10.1.2.3"]


def test_without_kazoo_the_start_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "ottla.cluster.trees.zookeeper", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "kazoo"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "kazoo", None)
    assert (
        serve.main(
            ["--zookeeper", "localhost:1", "--host", "127.0.0.1", "--broker-id", "1", "--data-dir", str(tmp_path)]
        )
        == 1
    )
    assert capsys.readouterr().err == (
        "ottla: zookeeper.connect needs the package kazoo, which is not installed: pip install 'ottla[zookeeper]'\n"
    )
    assert list(tmp_path.iterdir()) == []
