"""Three workers share thirty connectors, and one of them is killed again and again: how soon every task runs, and where.

    python -m tests.campaigns.connect_workers --minutes 10 --state tests/campaigns/results/connect-workers.json

Every 30 s a worker, another one each time, is killed with SIGKILL, and started again 10 s later. Each task notes every 0.1 s
that it runs, and in which process. How long it paused is the longest time between two notes since the kill. No process may
begin to note for a task before the one before it has noted its last. Ends with 1 if a task paused for longer than
15 s, or ran twice. The file has the figures of all runs; a failed one is in it, too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.support.broker_process import BrokerProcess
from tests.support.ports import free_port

WORKERS, CONNECTORS = 3, 30
EVERY_S, BACK_S, LIMIT_S = 30.0, 10.0, 15.0
PLUGIN = """
import os, time
from pathlib import Path
from ottla.connect import SourceConnector, SourceTask

class Ticker(SourceConnector):
    class Task(SourceTask):
        def start(self):
            self.file = (Path(self.config["folder"]) / self.config["name"]).open("a", buffering=1)
        def poll(self):
            self.file.write(f"{os.getpid()} {time.monotonic()}\\n")
            self.context.wait(0.1)
"""


class Worker:
    """`ottla connect worker`, which may be killed and started again at the same address."""

    def __init__(self, folder: Path, number: int, broker: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._folder = folder
        self._log = (folder / f"worker-{number}.log").open("ab")
        self._path = folder / f"worker-{number}.properties"
        settings = {
            "bootstrap.servers": broker,
            "group.id": "campaign",
            "listeners": self.url,
            "plugin.modules": "campaign_ticker",
            "session.timeout.ms": "6000",
            "heartbeat.interval.ms": "1000",
            "scheduled.rebalance.max.delay.ms": "5000",
            **{f"{part}.storage.topic": f"campaign-{part}" for part in ("config", "offset", "status")},
            **{f"{part}.storage.replication.factor": "1" for part in ("config", "offset", "status")},
        }
        self._path.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "ottla", "connect", "worker", "-v", str(self._path)]
        environment = os.environ | {"PYTHONPATH": str(self._folder)}
        self.process = subprocess.Popen(command, env=environment, stdout=self._log, stderr=self._log)

    def end(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(60)
            self.process = None


def ask(url: str, method: str, path: str, body: Any = None) -> Any:
    """Return what a worker answers; None: not now."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = answer.read()
            return json.loads(found) if found else {}
    except (urllib.error.URLError, OSError):
        return None


def notes(folder: Path, name: str) -> list[tuple[int, float]]:
    """Return what a task has noted: process and time."""
    path = folder / name
    rows = path.read_text().splitlines() if path.exists() else []
    return [(int(row.split()[0]), float(row.split()[1])) for row in rows if len(row.split()) == 2]


def twice(rows: list[tuple[int, float]]) -> int:
    """Return how many processes began before the one that had begun before had ended."""
    spans: dict[int, tuple[float, float]] = {}
    for process, at in rows:
        first, last = spans.get(process, (at, at))
        spans[process] = (min(first, at), max(last, at))
    return sum(later[0] <= earlier[1] for earlier, later in pairwise(sorted(spans.values())))


def run(minutes: float, folder: Path) -> dict[str, Any]:
    """Run it; return what was measured."""
    (folder / "campaign_ticker.py").write_text(PLUGIN)
    ticks = folder / "ticks"
    ticks.mkdir()
    broker = BrokerProcess({"group.initial.rebalance.delay.ms": "0"})
    workers: list[Worker] = []
    names = [f"connector-{number:02}" for number in range(CONNECTORS)]
    try:
        broker.start()
        workers = [Worker(folder, number, broker.address) for number in range(WORKERS)]
        for worker in workers:
            worker.start()
        _until(lambda: all(ask(worker.url, "GET", "/health") is not None for worker in workers), 120)
        for name in names:
            config = {"name": name, "connector.class": "campaign_ticker:Ticker", "folder": str(ticks)}
            made = ask(workers[0].url, "POST", "/connectors", {"name": name, "config": config})
            assert made is not None, f"{name} was not made"
        _until(lambda: all(notes(ticks, name) for name in names), 240)
        time.sleep(10)
        return _kill(workers, names, ticks, minutes)
    finally:
        for worker in workers:
            worker.end(signal.SIGTERM)
        broker.close()


def _kill(workers: list[Worker], names: list[str], ticks: Path, minutes: float) -> dict[str, Any]:
    end, kills = time.monotonic() + minutes * 60, 0
    times: list[float] = []
    loads: list[float] = []
    while time.monotonic() < end:
        worker = workers[kills % WORKERS]
        begun = time.monotonic()
        worker.end(signal.SIGKILL)
        kills += 1
        time.sleep(max(0.0, begun + BACK_S - time.monotonic()))
        worker.start()
        time.sleep(max(0.0, begun + EVERY_S - time.monotonic()))
        loads.append(os.getloadavg()[0])
        # Of each task: the longest time without a note since the kill.
        for name in names:
            at = [begun, *(when for _, when in notes(ticks, name) if when > begun), time.monotonic()]
            times.append(max(later - earlier for earlier, later in pairwise(at)))
        print(f"{kills} kills, the longest pause of a task {max(times):.1f} s, load {loads[-1]:.0f}", flush=True)
    return {
        "kills": kills,
        "tasks": len(names),
        "pauses": len(times),
        "longest pause s": round(max(times), 2),
        "median of pauses over 1 s": round(statistics.median([each for each in times if each > 1] or [0]), 2),
        "pauses over 15 s": sum(each > LIMIT_S for each in times),
        "twice": sum(twice(notes(ticks, name)) for name in names),
        "load of the machine (2 cores)": [round(min(loads), 1), round(max(loads), 1)],
    }


def _until(condition: Any, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "the workers do not start"
        time.sleep(0.5)


def main() -> int:
    """Run the campaign; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--state", type=Path, required=True, help="file with the figures of all runs")
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ottla-connect-workers-"))
    found = {"minutes": chosen.minutes} | run(chosen.minutes, folder)
    print(json.dumps(found, indent=2))
    runs = json.loads(chosen.state.read_text()) if chosen.state.exists() else []
    chosen.state.parent.mkdir(parents=True, exist_ok=True)
    chosen.state.write_text(json.dumps([*runs, found], indent=2) + "\n")
    if found["twice"] or found["pauses over 15 s"]:
        print(f"what was noted, and the logs of the workers, is in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
