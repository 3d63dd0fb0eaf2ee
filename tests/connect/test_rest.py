"""The REST interface of a standalone worker: Java's answers, secrets, plugins that hang, TLS and logins."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.connect.parity.rest_cases import Case, life_of_a_sink, life_of_a_source, states
from tests.connect.parity.rest_cases import cases as all_cases
from tests.connect.parity.rest_parity import ask, compare, java_standalone, kept_answers, prepare, until_it_answers
from tests.connect.test_standalone import lines, sink, until, worker_config
from tests.network.certificates import server_context
from tests.support.broker_process import RunningBroker

from ottla.cli.connect import connect, server_tls
from ottla.connect.errors import ConnectError
from ottla.connect.rest.login import EXTENSION, BasicLogin, users_file
from ottla.connect.rest.server import RestServer
from ottla.connect.runtime.children import Nursery
from ottla.connect.runtime.inspection import Inspection, InspectionError
from ottla.connect.runtime.serving import ServedWorker
from ottla.connect.runtime.standalone import worker_settings
from ottla.web import WebResponse

PLUGINS = """
import time
from ottla.connect import ConfigDef, ConfigKey, ConfigType, SinkConnector, SinkTask, SourceConnector, SourceTask

class Leaky(SourceConnector):
    CONFIG = ConfigDef(ConfigKey(name="password", type=ConfigType.PASSWORD), ConfigKey(name="from", default=""))
    class Task(SourceTask):
        def poll(self):
            raise RuntimeError(f"cannot log in with {self.values['password'].value} of {self.values['from']}")

class Slow(SourceConnector):
    def task_configs(self, tasks_max):
        time.sleep(3600)
"""
NO_TLS = ssl.SSLContext


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rest_test_plugins.py").write_text(PLUGINS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@contextmanager
def served(config: dict[str, str], *connectors: dict[str, str]) -> Iterator[str]:
    """Run a worker; yields the address of its REST interface."""
    worker = ServedWorker(
        {"listeners": "http://127.0.0.1:0"} | config,
        connectors,
        tls=lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
        users=lambda path: {},
    )
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield worker.urls[0]
    finally:
        worker.stop()
        thread.join(120)
        assert not thread.is_alive()


def settings(broker: RunningBroker, folder: Path, **more: str) -> dict[str, str]:
    own = worker_config(broker, folder, **more)
    return own | {"listeners": "http://127.0.0.1:0", "plugin.modules": more.get("plugin_modules", "")}


def get(url: str, path: str) -> Any:
    return ask(url, Path("/nowhere"), Case("GET", path)).body


def differences(url: str, folder: Path, wanted: list[Case]) -> tuple[list[str], Counter[str]]:
    """Put requests to a worker; return what is different from Java, and how often which explanation was needed."""
    pairs = zip(all_cases(), kept_answers(), strict=True)
    left = list(wanted)
    found, explained = [], Counter[str]()
    for case, java in pairs:
        if not left or case != left[0]:
            continue
        left.pop(0)
        is_right, why = compare(case, java, ask(url, folder, case))
        if is_right:
            explained[why] += 1
        else:
            found.append(why)
    assert not left
    return found, explained


def java_like(broker: RunningBroker, folder: Path) -> dict[str, str]:
    return {
        "bootstrap.servers": broker.address,
        "key.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "offset.storage.file.filename": str(folder / "ours.offsets"),
        "offset.flush.interval.ms": "500",
        "rest.secrets": "java",
        "task.shutdown.graceful.timeout.ms": "60000",
    }


def test_answers_are_those_of_java(broker: RunningBroker, tmp_path: Path) -> None:
    """Requests that start no task; those that do are in the soak."""
    starts = [*life_of_a_source(), *life_of_a_sink(), *states()]
    wanted = [case for case in all_cases() if case not in starts]
    prepare(tmp_path, broker.address)
    with served(java_like(broker, tmp_path)) as url:
        until_it_answers(url, tmp_path)
        found, explained = differences(url, tmp_path, wanted)
    assert found == []
    assert explained[""] > 200


@pytest.mark.soak
def test_all_answers_are_those_of_java(broker: RunningBroker, tmp_path: Path) -> None:
    prepare(tmp_path, broker.address)
    with served(java_like(broker, tmp_path)) as url:
        until_it_answers(url, tmp_path)
        found, explained = differences(url, tmp_path, all_cases())
    assert found == []
    assert explained[""] > 300
    print(explained)


@pytest.mark.kafka
def test_java_still_answers_so(broker: RunningBroker, tmp_path: Path) -> None:
    """What is kept is what Apache Kafka's worker says today."""
    prepare(tmp_path, broker.address)
    with java_standalone(tmp_path, broker.address) as url:
        found, _ = differences(url, tmp_path, all_cases())
    assert found == []


@pytest.mark.usefixtures("plugins")
def test_secret_in_traceback(broker: RunningBroker, tmp_path: Path) -> None:
    """A password, and what came from a file, stand in no answer: neither in a configuration nor in a trace.

    A connector from a file is there, too; the worker goes on when all tasks have failed, as Java's does.
    """
    (tmp_path / "secrets.properties").write_text("place=the-cellar\n")
    providers = {
        "config.providers": "file",
        "config.providers.file.class": "org.apache.kafka.common.config.provider.FileConfigProvider",
    }
    config = {
        "connector.class": "rest_test_plugins:Leaky",
        "password": "opensesame",
        "from": f"${{file:{tmp_path}/secrets.properties:place}}",
    }
    worker = settings(broker, tmp_path, plugin_modules="rest_test_plugins") | providers
    with served(worker, sink("FileStreamSink", "t", file="/no/such/folder/x") | {"name": "from-file"}) as url:
        until_it_answers(url, tmp_path)
        ask(url, tmp_path, Case("GET", "/connectors/from-file/status", until=("RUNNING", "FAILED")))
        made = ask(url, tmp_path, Case("POST", "/connectors", {"name": "leaky", "config": config}))
        assert made.status == 201
        ask(url, tmp_path, Case("GET", "/connectors/leaky/status", until=("RUNNING", "FAILED")))
        connection = http.client.HTTPConnection(url.partition("//")[2], timeout=60)
        connection.request("GET", "/connectors/leaky/status")
        status = connection.getresponse().read().decode()
        connection.close()
        told = status + json.dumps([get(url, f"/connectors/leaky{path}") for path in ("", "/config", "/tasks")])
        validated = ask(url, tmp_path, Case("PUT", "/connector-plugins/Leaky/config/validate", config))
        wrong = ask(url, tmp_path, Case("PUT", "/connectors/leaky/config", config | {"tasks.max": config["from"]}))
        assert (validated.status, wrong.status) == (200, 400)
    assert "cannot log in with [hidden] of [hidden]" in status
    told += json.dumps(validated.body) + json.dumps(made.body) + json.dumps(wrong.body)
    assert "opensesame" not in told
    assert "the-cellar" not in told
    assert "secrets.properties:place}" in told


def test_rest_cannot_name_arbitrary_callables(broker: RunningBroker, tmp_path: Path) -> None:
    """Neither connectors nor transforms nor converters come from modules that the worker's file does not list."""
    with served(settings(broker, tmp_path)) as url:
        until_it_answers(url, tmp_path)
        for kind in ("os:system", "os.system", "rest_test_plugins:Leaky", "subprocess:Popen"):
            answer = ask(url, tmp_path, Case("POST", "/connectors", {"name": "x", "config": {"connector.class": kind}}))
            assert answer.status == 400
        base = {"name": "x", "connector.class": "FileStreamSource", "topic": "t", "file": "f"}
        for more in (
            {"transforms": "a", "transforms.a.type": "os:system"},
            {"key.converter": "os:system"},
            {"predicates": "p", "predicates.p.type": "os:system"},
        ):
            answer = ask(url, tmp_path, Case("POST", "/connectors", {"name": "x", "config": base | more}))
            assert answer.status == 400
            assert "Class os:system could not be found" in answer.body["message"]
        assert get(url, "/connectors") == []


@pytest.mark.usefixtures("plugins")
def test_a_plugin_that_does_not_answer_costs_its_process_only(tmp_path: Path) -> None:
    nursery = Nursery()
    worker = {"plugin.modules": "rest_test_plugins"}
    inspection = Inspection(worker, nursery, deadline_s=20)
    try:
        assert "rest_test_plugins:Leaky" not in [row["class"] for row in inspection.plugins()]
        inspection._deadline_s = 0.5
        with pytest.raises(InspectionError, match=r"did not answer within 0\.5 s"):
            inspection.tasks({"name": "slow", "connector.class": "rest_test_plugins:Slow"})
        inspection._deadline_s = 60
        assert inspection.definition("FileStreamSource")
    finally:
        inspection.close()
        nursery.close()


def test_a_package_installed_meanwhile_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No restart: what pip puts beside the others is there at the next request. Two of one name are refused."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    nursery = Nursery()
    inspection = Inspection({}, nursery)

    def install(package: str) -> None:
        (tmp_path / f"{package}.py").write_text(
            "from ottla.connect import SourceConnector, SourceTask\n"
            "class Late(SourceConnector):\n    VERSION = '7'\n    class Task(SourceTask):\n        pass\n"
        )
        info = tmp_path / f"{package}-7.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 7\n")
        (info / "entry_points.txt").write_text(f"[ottla.connectors]\nlate = {package}:Late\n")

    try:
        assert "late" not in [row["class"] for row in inspection.plugins()]
        install("late_one")
        assert {"class": "late", "type": "source", "version": "7"} in inspection.plugins()
        install("late_two")
        with pytest.raises(InspectionError, match="Several packages have a connector late: late_one, late_two"):
            inspection.tasks({"name": "x", "connector.class": "late"})
    finally:
        inspection.close()
        nursery.close()


def test_commands_add_show_and_delete(broker: RunningBroker, tmp_path: Path) -> None:
    """`ottla connect add`, `list`, `status`, `pause`, `resume`, `restart`, `offsets`, `stop`, `delete`, `plugins`."""
    (tmp_path / "in.txt").write_text("one\n")
    file = {
        "name": "in",
        "config": {"connector.class": "FileStreamSource", "topic": "cli", "file": f"{tmp_path}/in.txt"},
    }
    (tmp_path / "in.json").write_text(json.dumps(file))
    (tmp_path / "out.properties").write_text(
        f"name=out\nconnector.class=FileStreamSink\ntopics=cli\nfile={tmp_path}/out.txt\n"
    )
    (tmp_path / "back.json").write_text(
        json.dumps({"offsets": [{"partition": {"filename": f"{tmp_path}/in.txt"}, "offset": {"position": 0}}]})
    )

    def run(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(connect, [*arguments, "--url", url])
        assert result.exit_code == code, result.output
        return result.output

    with served(settings(broker, tmp_path)) as url:
        until_it_answers(url, tmp_path)
        assert "in: added, 1 task" in run("add", str(tmp_path / "in.json"))
        assert "out: added" in run("add", str(tmp_path / "out.properties"))
        assert "in: changed" in run("add", str(tmp_path / "in.json"))
        until(lambda: lines(tmp_path / "out.txt") == ["one"], "the line in the other file")
        until(lambda: "1 RUNNING" in run("list"), "both in the list")
        assert "FileStreamSink" in run("plugins")
        until(lambda: '"position": 4' in run("offsets", "in"), "the offset")
        run("pause", "in")
        until(lambda: run("status", "in").count("PAUSED") == 2, "the pause")
        run("stop", "in")
        assert "altered successfully" in run("offsets", "in", "--set", str(tmp_path / "back.json"))
        run("resume", "in")
        until(lambda: lines(tmp_path / "out.txt") == ["one", "one"], "the line once more")
        run("restart", "out")
        run("restart", "out", "--task", "0")
        assert "must be in the STOPPED state" in run("offsets", "in", "--reset", code=1)
        run("delete", "in", "out")
        assert "Connector in not found" in run("delete", "in", code=1)
        (tmp_path / "list.json").write_text(json.dumps({"name": "wrong", "topics": ["a", "b"]}))
        assert "the value of topics is neither a text nor a number" in run("add", str(tmp_path / "list.json"), code=1)
        (tmp_path / "bound.json").write_text(
            json.dumps({"name": "in", "connector.class": "FileStreamSource", "worker": "nohost"})
        )
        assert "Invalid value nohost for configuration worker" in run("add", str(tmp_path / "bound.json"), code=1)
        (tmp_path / "early.properties").write_text(
            "name=early\nconnector.class=JdbcSourceConnector\nmode=bulk\ntable.whitelist=ord*\ntopic.prefix=x.\n"
            f"connection.url=jdbc:sqlite:{tmp_path}/shop.db\n"
        )
        said = run("add", str(tmp_path / "early.properties"), code=1)
        assert "early: added, 0 tasks: it FAILED" in said
        assert "There is no table ord*" in said
    assert "no worker answers at" in run("list", code=1)


# Listeners


def rest_of(listeners: str, tmp_path: Path, **more: str) -> dict[str, Any]:
    return worker_settings(
        {"offset.storage.file.filename": str(tmp_path / "o"), "listeners": listeners}
        | {name.replace("_", "."): text for name, text in more.items()}
    )


def test_an_address_that_is_wrong_or_taken_is_said(tmp_path: Path) -> None:
    for wrong in ("localhost:8083", "ftp://localhost:1", "http://localhost", "http://localhost:99999"):
        with pytest.raises(ConnectError, match="listeners"):
            RestServer(rest_of(wrong, tmp_path), tls=lambda: NO_TLS(ssl.PROTOCOL_TLS_SERVER))
    first = RestServer(rest_of("http://127.0.0.1:0", tmp_path), tls=lambda: NO_TLS(ssl.PROTOCOL_TLS_SERVER))
    try:
        with pytest.raises(ConnectError, match=r"cannot listen on .*another port"):
            RestServer(rest_of(first.urls[0], tmp_path), tls=lambda: NO_TLS(ssl.PROTOCOL_TLS_SERVER))
    finally:
        first.close()


@pytest.mark.parametrize(
    ("listeners", "login", "is_open"),
    [
        ("http://127.0.0.1:0", None, False),
        ("http://0.0.0.0:0", None, True),
        ("http://127.0.0.1:0,http://0.0.0.0:0", None, True),
        ("http://0.0.0.0:0", BasicLogin({"alice": "x"}), False),
        ("http://0.0.0.0:0", BasicLogin({}), True),
    ],
)
def test_an_open_interface_is_known(tmp_path: Path, listeners: str, login: BasicLogin | None, is_open: bool) -> None:
    server = RestServer(rest_of(listeners, tmp_path), tls=lambda: NO_TLS(ssl.PROTOCOL_TLS_SERVER), login=login)
    server.close()
    assert server.is_open is is_open


def test_the_advertised_address_is_the_workers_id(tmp_path: Path) -> None:
    server = RestServer(
        rest_of("http://127.0.0.1:0", tmp_path, rest_advertised_host_name="connect-1", rest_advertised_port="80"),
        tls=lambda: NO_TLS(ssl.PROTOCOL_TLS_SERVER),
    )
    server.close()
    assert server.worker_id == "connect-1:80"


def test_rest_over_tls_with_a_login(tmp_path: Path) -> None:
    """1. HTTPS with a PEM store.  2. Without the password: 401.  3. With it: 200. Commands say what is missing."""
    server_context(tmp_path)
    store = tmp_path / "store.pem"
    store.write_text((tmp_path / "key.pem").read_text() + (tmp_path / "certificate.pem").read_text())
    worker = {
        "ssl.keystore.type": "PEM",
        "listeners.https.ssl.keystore.type": "PEM",
        "listeners.https.ssl.keystore.location": str(store),
    }
    login = BasicLogin({"alice": "wonder:land"})
    server = RestServer(rest_of("https://localhost:0", tmp_path), tls=lambda: server_tls(worker), login=login)
    server.start(lambda request: WebResponse(body=["ok"]))
    try:
        url = server.urls[0]
        context = ssl.create_default_context(cafile=str(store))

        def status(password: str | None) -> int:
            headers = {}
            if password is not None:
                headers["Authorization"] = "Basic " + base64.b64encode(f"alice:{password}".encode()).decode()
            connection = http.client.HTTPSConnection(url.partition("//")[2], context=context, timeout=60)
            connection.request("GET", "/connectors", headers=headers)
            answer = connection.getresponse()
            answer.read()
            connection.close()
            return answer.status

        assert [status(None), status("wrong"), status("wonder:land")] == [401, 401, 200]
        options = ["--url", url, "--cacert", str(store)]
        result = CliRunner().invoke(connect, ["pause", "x", *options])
        assert "wants a name and a password: --user NAME:PASSWORD" in result.output
        assert CliRunner().invoke(connect, ["pause", "x", *options, "--user", "alice:wonder:land"]).exit_code == 0
    finally:
        server.close()


def test_the_file_with_users_may_be_named_as_java_does(tmp_path: Path) -> None:
    jaas = tmp_path / "jaas.conf"
    jaas.write_text(
        "KafkaConnect {\n  org.apache.kafka.connect.rest.basic.auth.extension.PropertyFileLoginModule required\n"
        '  file="/etc/connect/users.properties";\n};\n'
    )
    options = f"-Xmx1g -Djava.security.auth.login.config={jaas}"
    assert users_file(None, options, lambda path: Path(path).read_text()) == "/etc/connect/users.properties"
    assert users_file("own", options, lambda path: "") == "own"
    with pytest.raises(ConnectError, match=r"rest\.basic\.auth\.file"):
        users_file(None, "", lambda path: "")


def test_an_unknown_extension_is_refused(broker: RunningBroker, tmp_path: Path) -> None:
    config = settings(broker, tmp_path) | {"rest.extension.classes": "com.example.Other"}
    with pytest.raises(ConnectError, match=EXTENSION), served(config):
        pass
