"""What a source task is told of its records and offsets, in a worker with a real broker."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.connect.test_standalone import Running, lines, until, worker_config
from tests.support.broker_process import RunningBroker

from ottla import connect
from ottla.connect.runtime.source_runner import SourceRunner

PLUGIN = """
from pathlib import Path
from ottla import connect

class Told(connect.SourceConnector):
    CONFIG = connect.ConfigDef(connect.ConfigKey(name="file"))

    class Task(connect.SourceTask):
        def start(self):
            self.file = Path(self.values["file"])
            self.next = (self.context.offset({"part": 1}) or {"at": 0})["at"]
            self.note(f"begins at {self.next}")

        def note(self, text):
            with self.file.open("a") as file:
                file.write(text + "\\n")

        def poll(self):
            if self.next >= 10:
                self.context.wait(0.05)
                return None
            self.next = 10
            part = {"part": 1}
            return [
                connect.SourceRecord(topic="told", value="a", source_partition=part, source_offset={"at": 1}),
                connect.SourceRecord(topic="told", value="b", source_partition=part, source_offset={"at": 2}),
                connect.Position(source_partition=part, source_offset={"at": 10}),
            ]

        def commit_record(self, record):
            self.note(f"record {record.value}")

        def commit(self, offsets):
            self.note(f"offset {offsets[0][1]['at']}")
"""


def test_a_task_is_told_what_is_acknowledged_and_written_down(
    broker: RunningBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. Two records and a place behind them.  2. The task hears of both, and of offset 10.  3. The next begins there."""
    (tmp_path / "told_plugin.py").write_text(PLUGIN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    notes = tmp_path / "notes"
    config = worker_config(broker, tmp_path) | {"plugin.modules": "told_plugin"}
    connector = {"name": "told", "connector.class": "told_plugin:Told", "file": str(notes)}
    with Running(config, connector):
        until(lambda: "offset 10" in lines(notes), "the last offset")
    assert [line for line in lines(notes) if line.startswith("record")] == ["record a", "record b"]
    with Running(config, connector):
        until(lambda: lines(notes)[-1] == "begins at 10", "a second start")


def test_an_ended_task_is_told_nothing(broker: RunningBroker) -> None:
    """Offsets may be written down after a task has ended: `stop` is the last call."""

    class Task(connect.SourceTask):
        calls: list[str] = []

        def start(self) -> None:
            raise connect.ConnectError("no")

        def stop(self) -> None:
            self.calls.append("stop")

        def commit(self, offsets: object) -> None:
            self.calls.append("commit")

    config = {"name": "ended", "connector.class": "x"}
    values = {"errors.tolerance": "none", "errors.retry.timeout": 0, "errors.retry.delay.max.ms": 0}
    values |= {"errors.log.enable": False, "errors.log.include.messages": False}
    task = Task({}, {})
    runner = SourceRunner("ended", task, {"bootstrap.servers": broker.address}, config, values, None)  # type: ignore[arg-type]
    with pytest.raises(connect.ConnectError):
        runner.run()
    runner.committed([({}, {})])
    assert task.calls == ["stop"]
