"""What a connector's code does to its own process does nothing to the worker, or to other connectors."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tests.connect.parity.rest_cases import Case
from tests.connect.parity.rest_parity import ask
from tests.connect.test_distributed import request, running
from tests.connect.test_distributed import settings as group_settings
from tests.connect.test_rest import served, settings
from tests.connect.test_standalone import file_source, lines, read, until
from tests.support.broker_process import RunningBroker

PLUGIN = '''
import ctypes, os, signal
from pathlib import Path
from ottla import connect

class Killed(connect.SourceConnector):
    class Task(connect.SourceTask):
        def poll(self):
            os.kill(os.getpid(), signal.SIGKILL)

class Patient(connect.SourceConnector):
    class Task(connect.SourceTask):
        def poll(self):
            if Path(self.config["note"]).exists():
                self.context.waits_for(None)
            else:
                self.context.waits_for(f"There is no {self.config['note']} yet")
            self.context.wait(0.1)

class Greedy(connect.SourceConnector):
    class Task(connect.SourceTask):
        """Takes memory without end."""
        def start(self):
            self.taken = []
        def poll(self):
            self.taken.append(bytearray(1 << 20))

class Holder(connect.SourceConnector):
    class Task(connect.SourceTask):
        """Keeps its interpreter to itself for longer than a session lasts."""
        def poll(self):
            note = Path(self.config["note"])
            if note.exists():
                self.context.wait(0.1)
                return
            ctypes.PyDLL(None).sleep(12)
            note.write_text("held")
'''
VERSION = """
from pathlib import Path
from ottla import connect

class Versioned(connect.SourceConnector):
    VERSION = "{0}"
    class Task(connect.SourceTask):
        def poll(self):
            with (Path(self.config["note"])).open("a") as file:
                file.write("{0}\\n")
            self.context.wait(0.1)
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "isolation_plugins.py").write_text(PLUGIN)
    (tmp_path / "versioned_plugin.py").write_text(VERSION.format(1))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # two versions of one second have one timestamp


@pytest.mark.usefixtures("plugins")
def test_a_process_that_was_killed_says_so(broker: RunningBroker, tmp_path: Path) -> None:
    """1. A process is killed, as by the system when memory is short.  2. Its task is FAILED, and says why.  3. Others run."""
    given = tmp_path / "in.txt"
    given.write_text("one\n")
    killed = {"name": "killed", "connector.class": "isolation_plugins:Killed"}
    config = settings(broker, tmp_path, plugin_modules="isolation_plugins")
    with served(config, killed, file_source(given, "living")) as url:

        def trace() -> str:
            if "killed" not in request(url, "GET", "/connectors"):
                return ""  # it is still added
            tasks = request(url, "GET", "/connectors/killed/status")["tasks"]
            return "".join(task.get("trace", "") for task in tasks if task["state"] == "FAILED")

        until(lambda: "was killed (SIGKILL)" in trace(), "the end of a process")
        with given.open("a") as file:
            file.write("two\n")
        until(lambda: len(read(broker, "living")) == 2, "the second line")


@pytest.mark.usefixtures("plugins")
@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_task_out_of_memory_broker_lives(broker: RunningBroker, tmp_path: Path) -> None:
    """1. A task takes more memory than it may.  2. It is FAILED, and says why.  3. Broker and other connectors go on."""
    given = tmp_path / "in.txt"
    given.write_text("one\n")
    greedy = {"name": "greedy", "connector.class": "isolation_plugins:Greedy"}
    config = settings(broker, tmp_path, plugin_modules="isolation_plugins", connector_memory_limit=str(700 << 20))
    with served(config, greedy, file_source(given, "modest")) as url:

        def trace() -> str:
            if "greedy" not in request(url, "GET", "/connectors"):
                return ""  # it is still added
            tasks = request(url, "GET", "/connectors/greedy/status")["tasks"]
            return "".join(task.get("trace", "") for task in tasks if task["state"] == "FAILED")

        until(lambda: "734,003,200 bytes (connector.memory.limit" in trace(), "the end of a process")
        with given.open("a") as file:
            file.write("two\n")
        until(lambda: len(read(broker, "modest")) == 2, "the second line")


@pytest.mark.usefixtures("plugins")
def test_the_status_shows_what_a_task_waits_for(broker: RunningBroker, tmp_path: Path) -> None:
    """1. A task waits: it is RUNNING, and its trace says for what.  2. It does while it is paused.  3. Then it is there."""
    note = tmp_path / "note"
    patient = {"name": "patient", "connector.class": "isolation_plugins:Patient", "note": str(note)}
    with served(settings(broker, tmp_path, plugin_modules="isolation_plugins"), patient) as url:

        def status() -> tuple[str, str | None]:
            if "patient" not in request(url, "GET", "/connectors"):
                return "", None
            (task,) = request(url, "GET", "/connectors/patient/status")["tasks"] or [{"state": ""}]
            return task["state"], task.get("trace")

        waits = f"There is no {note} yet"
        until(lambda: status() == ("RUNNING", waits), "the reason")
        request(url, "PUT", "/connectors/patient/pause")
        until(lambda: status() == ("PAUSED", waits), "the pause")
        request(url, "PUT", "/connectors/patient/resume")
        note.touch()
        until(lambda: status() == ("RUNNING", None), "the end of the reason")


@pytest.mark.usefixtures("plugins")
def test_upgrade_under_running_task(broker: RunningBroker, tmp_path: Path) -> None:
    """1. A task runs.  2. Its package is replaced: the task goes on as it was.  3. A restart runs what is installed now."""
    note = tmp_path / "note"
    connector = {"name": "versioned", "connector.class": "versioned_plugin:Versioned", "note": str(note)}
    with served(settings(broker, tmp_path, plugin_modules="versioned_plugin"), connector) as url:
        until(lambda: bool(lines(note)), "the first version")
        (tmp_path / "versioned_plugin.py").write_text(VERSION.format(2))
        count = len(lines(note))
        until(lambda: len(lines(note)) > count + 2, "more of it")
        assert set(lines(note)) == {"1"}
        assert ask(url, tmp_path, Case("POST", "/connectors/versioned/tasks/0/restart")).status == 204
        until(lambda: lines(note)[-1] == "2", "the second version")
        assert lines(note) == sorted(lines(note))


@pytest.mark.usefixtures("plugins")
def test_plugin_holds_the_gil_worker_stays_member(broker: RunningBroker, tmp_path: Path) -> None:
    """A task lets no other thread of its interpreter run for 12 s, longer than a session: the worker's is another one."""
    note = tmp_path / "note"
    config = group_settings(broker, "holding", session_timeout_ms="10000", plugin_modules="isolation_plugins")
    connector = {"name": "holder", "connector.class": "isolation_plugins:Holder", "note": str(note)}
    with running(config) as (worker,):
        body = json.dumps({"name": "holder", "config": connector})
        assert ask(worker.url, tmp_path, Case("POST", "/connectors", body)).status == 201
        until(lambda: [state for state, _ in worker.states("holder")] == ["RUNNING"], "the task")
        session = worker.served.worker._session  # type: ignore[attr-defined]
        before = session.generation
        until(note.exists, "the end of the hold")
        assert session.generation == before
        assert worker.served.worker.is_ready()
        assert worker.states("holder")[0][0] == "RUNNING"


def package(environment: Path, name: str, modules: dict[str, str], *connectors: str) -> None:
    """Put a package into a virtual environment, as pip does."""
    packages = environment / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    told = packages / f"{name}-1.0.dist-info"
    told.mkdir(parents=True)
    (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text("[ottla.connectors]\n" + "\n".join(connectors))
    for module, text in modules.items():
        (packages / f"{module}.py").write_text(text)


PAINTER = """
import colours
from ottla import connect

class Painter(connect.SourceConnector):
    class Task(connect.SourceTask):
        sent = False

        def poll(self):
            if self.sent:
                self.context.wait(0.1)
                return None
            self.sent = True
            return [connect.SourceRecord(topic="painted", value=colours.{0}())]
"""


def test_two_plugins_with_conflicting_dependencies(broker: RunningBroker, tmp_path: Path) -> None:
    """1. Two connectors need two versions of a module, and have environments of their own.  2. Both run.  3. One that
    the worker does not list is refused, and so is a name that two packages have; the answer names both."""
    for name, call in (("old", "colour"), ("new", "paint")):
        modules = {"colours": f"def {call}():\n    return '{name}'\n", "painting": PAINTER.format(call)}
        package(tmp_path / name, f"painter-{name}", modules, "Painter = painting:Painter")
    package(tmp_path / "new", "second", {}, "Twice = painting:Painter")
    package(tmp_path / "new", "third", {}, "Twice = painting:Painter")
    environments = {f"plugin.env.{name}": str(tmp_path / name) for name in ("old", "new")}
    with served(settings(broker, tmp_path) | environments) as url:

        def add(name: str, kind: str = "Painter") -> tuple[int, str]:
            config = {"connector.class": kind, "plugin.env": name, "tasks.max": "1"}
            body = json.dumps({"name": f"{kind}-{name}".lower(), "config": config})
            answer = ask(url, tmp_path, Case("POST", "/connectors", body))
            return answer.status, str(answer.body)

        until(lambda: ask(url, tmp_path, Case("GET", "/health")).status == 200, "the worker")
        assert [add(name)[0] for name in ("old", "new")] == [201, 201]
        until(lambda: len(read(broker, "painted")) == 2, "a record of each")
        assert {record.value for record in read(broker, "painted")} == {b"old", b"new"}
        status, message = add("/tmp")
        assert status == 400
        assert "has no plugin.env./tmp=FOLDER; it has new, old" in message
        status, message = add("new", "Twice")
        assert status == 400
        assert "Several packages have a connector Twice: second, third" in message
