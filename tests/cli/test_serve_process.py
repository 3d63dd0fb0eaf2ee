"""`ottla serve` as a user has it: a process, a port, signals, a browser."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer
from prometheus_client.parser import text_string_to_metric_families


class Serve:
    """`ottla serve` with its ready line read."""

    def __init__(self, directory: Path, *arguments: str, port: int = 0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ottla", "serve", "--port", str(port), "--data-dir", str(directory), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        assert self.process.stdout is not None
        self.ready_line = self.process.stdout.readline().rstrip("\n")
        found = re.search(r"ready on \S+?:(\d+) ", self.ready_line)
        self.port = int(found[1]) if found else 0

    def end(self, number: signal.Signals | None = None) -> tuple[int, str, str]:
        """Send a signal, wait; (exit code, rest of stdout, stderr)."""
        if number is not None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err

    def get(self, path: str, host: str | None = None, method: str = "GET") -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, headers={"Host": host} if host else {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Serve]:
    served = Serve(tmp_path / "data")
    try:
        yield served
    finally:
        served.process.kill()
        served.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(broker: Serve, number: signal.Signals) -> None:
    assert re.fullmatch(
        r"ottla \S+ ready on localhost:\d+ \(kafka \+ http\) · data \S+ · \d+\.\d\d s · \d+ MB · kernels .+",
        broker.ready_line,
    )
    code, out, err = broker.end(number)
    assert (code, out) == (0, "")
    assert "Traceback" not in err


def test_a_port_in_use_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        served = Serve(tmp_path / "data", "--log-level", "error", port=port)
        code, _, err = served.end()
    assert code == 1
    assert err.count("\n") == 1
    assert f"port {port} is already in use" in err


def test_a_data_directory_in_use_is_one_line_and_exit_code_1(broker: Serve, tmp_path: Path) -> None:
    code, out, err = Serve(tmp_path / "data", "--log-level", "error").end()
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert str(tmp_path / "data") in err


def test_a_browser_sees_what_clients_did(broker: Serve) -> None:
    producer = Producer({"bootstrap.servers": f"127.0.0.1:{broker.port}"})
    for number in range(100):
        producer.produce("flights", json.dumps({"number": number}))
    assert producer.flush(20) == 0
    status, page = broker.get("/")
    assert status == 200
    assert re.search(r"<td>flights</td><td class=n>1</td><td class=n>100</td>", page)
    status, metrics = broker.get("/metrics")
    assert status == 200
    found = {
        (sample.name, sample.labels.get("topic")): sample.value
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
    }
    assert found["kafka_topic_partition_current_offset", "flights"] == 100
    assert found["kafka_server_brokertopicmetrics_messagesinpersec_total", "flights"] == 100
    assert (broker.get("/healthz"), broker.get("/readyz")) == ((200, "ok\n"), (200, "ready\n"))


def test_a_strangers_name_for_this_address_and_other_methods_are_refused(broker: Serve) -> None:
    assert broker.get("/", host="rebound.example.com")[0] == 421
    assert broker.get("/", method="POST")[0] == 405
    assert broker.get("/", host=f"localhost:{broker.port}")[0] == 200
