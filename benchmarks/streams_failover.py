"""How long a task stands still when its instance is killed: with and without a copy of its state, with both kinds of groups.

    python -m benchmarks.streams_failover --mb 100 --rounds 5
    python -m benchmarks.streams_failover --mb 5 --rounds 1 --protocols classic

Two instances of an application with one task, exactly once, a commit each 100 ms, sessions and transactions of 6 s; its
store has a changelog of so many MB, written before. Fifty records a second go in. The instance that has the task is killed
(SIGKILL) once all is quiet, with a copy once the other one has it whole. Time runs from the kill to the first result, for
readers of committed records, of a record that was written after the kill. So a session of 6 s, for which nobody knows of
the death, is in every figure. Each round takes all four in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.streams_restore import VALUE_BYTES, write_changelog
from benchmarks.streams_speed import RIVALS
from tests.support.broker_process import BrokerProcess
from tests.support.ports import free_port

import ottla

STATE = Path("benchmarks/results/streams_failover.jsonl")
PATIENCE_S = 300.0
BROKER = {
    "group.min.session.timeout.ms": "6000",
    "group.initial.rebalance.delay.ms": "0",
    "group.streams.initial.rebalance.delay.ms": "0",
    "group.streams.min.session.timeout.ms": "1000",
    "group.streams.min.heartbeat.interval.ms": "100",
}


class Load:
    """Writes the time every 20 ms, and sees the committed results."""

    def __init__(self, address: str, app: str) -> None:
        #: When a record was written, and when its result was seen.
        self.seen: list[tuple[float, float]] = []
        self._address, self._app = address, app
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._write, self._read)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _write(self) -> None:
        with ottla.Producer(self._address, config={"linger.ms": 0}) as producer:
            while not self._stop.wait(0.02):
                producer.send(f"in-{self._app}", repr(time.time()).encode(), key=b"x")

    def _read(self) -> None:
        topic = f"out-{self._app}"
        with ottla.Consumer(
            self._address, topics=[topic], auto_offset_reset="earliest", isolation_level="read_committed"
        ) as consumer:
            while not self._stop.is_set():
                for record in consumer.poll(1000, timeout=0.05):
                    with suppress(ValueError):  # the record that was there before
                        self.seen.append((float(record.value or b""), time.time()))


def until(what: str, condition: Callable[[], bool]) -> None:
    """Wait.

    Raises:
        RuntimeError: it does not come.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {PATIENCE_S:g} s: {what}")
        time.sleep(0.1)


def has_task(port: int) -> bool:
    """Whether the instance at a port has the task, and runs it."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/state", timeout=5) as response:
            return any(standing is not None for standing in json.load(response)["tasks"].values())
    except (OSError, ValueError):
        return False


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder, those that vanish meanwhile left out."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size
    return total


def measure(broker: BrokerProcess, protocol: str, copies: int, mb: float) -> float:
    """Return the seconds from the kill to the next result."""
    app = f"failover-{protocol}-{copies}-{time.time_ns() % 10**9}"
    write_changelog(broker.address, app, round(mb * 1e6 / (VALUE_BYTES + 16)))
    if protocol == "streams":
        group = {"streams.session.timeout.ms": "6000", "streams.heartbeat.interval.ms": "500"}
        with ottla.Admin(broker.address) as admin:
            admin.alter_configs("group", app, {**group, "streams.num.standby.replicas": str(copies)})
    ports = [free_port(), free_port()]
    processes: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="streams-failover-") as made:
        folder = Path(made)
        try:
            for index, port in enumerate(ports):
                environment = {
                    **os.environ,
                    "BENCH_APP": app,
                    "BENCH_BOOTSTRAP": broker.address,
                    "BENCH_STATE": str(folder / f"state-{index}"),
                    "BENCH_PROTOCOL": protocol,
                    "BENCH_COPIES": str(copies),
                    "BENCH_SERVER": f"127.0.0.1:{port}",
                }
                command = [sys.executable, str(RIVALS / "ottla_restore.py"), "sqlite"]
                with (folder / f"log-{index}").open("wb") as log:
                    processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
                if not index:
                    until("the first instance has the task", lambda: has_task(ports[0]))
            with Load(broker.address, app) as load:
                until("results", lambda: len(load.seen) > 50)
                if copies:
                    until("the copy is whole", lambda: size_of(folder / "state-1") >= mb * 1e6)
                until("one has the task", lambda: any(map(has_task, ports)))
                quiet = time.monotonic() + 5
                until("a quiet moment", lambda: time.monotonic() > quiet)
                owner = 0 if has_task(ports[0]) else 1
                killed = time.time()
                processes[owner].kill()
                until("a result", lambda: any(written > killed for written, _ in load.seen))
                return min(came for written, came in list(load.seen) if written > killed) - killed
        except RuntimeError as error:
            logs = "\n".join((folder / f"log-{index}").read_text()[-2000:] for index in range(len(processes)))
            raise RuntimeError(f"{error}\n{logs}") from error
        finally:
            for process in processes:
                process.kill()
                process.wait()


def table(runs: list[dict[str, float | str]]) -> str:
    """Return medians as Markdown."""
    lines = ["| group | copies | MB | s, median | s, from to | tries |", "|---|---:|---:|---:|---:|---:|"]
    for key in sorted({(run["protocol"], run["copies"], run["mb"]) for run in runs}):
        its = [float(run["s"]) for run in runs if (run["protocol"], run["copies"], run["mb"]) == key]
        spread = f"{min(its):.1f} to {max(its):.1f}"
        lines.append(f"| {key[0]} | {key[1]} | {key[2]:g} | {statistics.median(its):.1f} | {spread} | {len(its)} |")
    return "\n".join(lines)


def main() -> int:
    """Measure, or print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=float, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--protocols", nargs="+", choices=["classic", "streams"], default=["classic", "streams"])
    parser.add_argument("--state", type=Path, default=STATE, help="file that keeps every try")
    parser.add_argument("--table", action="store_true", help="print what was measured so far")
    chosen = parser.parse_args()
    if not chosen.table:
        chosen.state.parent.mkdir(parents=True, exist_ok=True)
        broker = BrokerProcess(BROKER)
        try:
            broker.start()
            for number in range(chosen.rounds):
                for protocol in chosen.protocols:
                    for copies in (0, 1):
                        took_s = measure(broker, protocol, copies, chosen.mb)
                        run = {"protocol": protocol, "copies": copies, "mb": chosen.mb, "round": number, "s": took_s}
                        print(f"{protocol}, copies: {copies}, round {number}: {took_s:.1f} s", flush=True)
                        with chosen.state.open("a") as state:
                            state.write(json.dumps(run) + "\n")
        finally:
            broker.close()
    print(table([json.loads(line) for line in chosen.state.read_text().splitlines()]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
