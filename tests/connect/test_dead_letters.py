"""Dead letters of a sink whose process is killed, with a real broker."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.connect.test_standalone import Running, fill, lines, read, sink, until, worker_config
from tests.support.broker_process import RunningBroker

import ottla

PLUGIN = '''
import os, signal
from pathlib import Path
from ottla import connect

FOLDER = Path(os.environ["CONNECT_TEST_FOLDER"])

def note(text):
    with (FOLDER / "notes").open("a") as file:
        file.write(text + "\\n")

def die(step):
    """Kill this process, once, at one step."""
    if os.environ["CONNECT_TEST_STEP"] == step and not (FOLDER / "killed").exists():
        (FOLDER / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)

class Choosy(connect.SinkConnector):
    """Rejects what is bad."""

    class Task(connect.SinkTask):
        def put(self, records):
            for record in records:
                if record.value == "next":
                    die("after the commit")
                note(record.value)
                if record.value == "bad":
                    self.context.reject(record, ValueError("it says so"))

        def pre_commit(self, offsets):
            if any(end > 1 for end in offsets.values()):
                die("before the dead letter is sent")
            return offsets
'''


@pytest.mark.parametrize("step", ["before the dead letter is sent", "after the commit"])
def test_dead_letter_unacknowledged_then_kill(
    broker: RunningBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whenever a sink's process is killed, a record that was rejected is not committed, or it is a dead letter.

    The producer keeps dead letters for ten minutes unless somebody flushes it.
    1. A good record is put and committed.  2. A bad one is rejected, and the process is killed, before the dead letter is
    acknowledged or at the record after the commit.  3. In a new process everything is put that was not committed.
    """
    topic = f"rejected-{step.split()[0]}"
    (tmp_path / "connect_test_plugins.py").write_text(PLUGIN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("CONNECT_TEST_FOLDER", str(tmp_path))
    monkeypatch.setenv("CONNECT_TEST_STEP", step)
    connector = sink("connect_test_plugins:Choosy", topic) | {
        "name": topic,
        "errors.tolerance": "all",
        "errors.deadletterqueue.topic.name": f"{topic}-dead",
        "errors.deadletterqueue.topic.replication.factor": "1",
    }
    settings = worker_config(
        broker, tmp_path,
        producer_linger_ms="600000", producer_delivery_timeout_ms="1200000", consumer_session_timeout_ms="6000",
    )  # fmt: skip
    with ottla.Admin(broker.address) as admin:

        def committed() -> list[int]:
            return [found.offset for found in admin.list_group_offsets(f"connect-{topic}").values()]

        fill(broker, topic, "good")
        with Running(settings, connector) as running:
            until(lambda: committed() == [1], "the commit of the good record")
            fill(broker, topic, "bad")
            if step == "after the commit":
                until(lambda: committed() == [2], "the commit of the bad record")
                fill(broker, topic, "next")
            until(lambda: running.code is not None, "the end of the worker, whose only task was killed")
        assert committed() == [1 if step.startswith("before") else 2]
        if step.startswith("before"):
            fill(broker, topic, "next")
        with Running(settings, connector):
            until(lambda: committed() == [3], "the commit of everything")
    assert [record.value for record in read(broker, f"{topic}-dead")] == [b"bad"]
    wanted = ["good", "bad", "bad", "next"] if step.startswith("before") else ["good", "bad", "next"]
    assert lines(tmp_path / "notes") == wanted
