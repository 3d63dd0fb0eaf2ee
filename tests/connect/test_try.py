"""`ottla connect try`: it shows what would happen, and nothing happens."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from tests.support.broker_process import RunningBroker

import ottla
from ottla.cli.connect import main

PLUGIN = """
from ottla import connect

@connect.source("numbers", topic="numbers")
def numbers(since):
    assert since is None
    for number in range(1, 100):
        yield connect.Row(value={"number": number}, offset=number)

class Silent(connect.SourceConnector):
    class Task(connect.SourceTask):
        def start(self):
            raise AssertionError("it must not start")

class Deaf(connect.SinkConnector):
    class Task(connect.SinkTask):
        def put(self, records):
            raise AssertionError("nothing is to be put")
"""


def write(path: Path, **texts: str) -> str:
    path.write_text("".join(f"{name.replace('__', '.')}={text}\n" for name, text in texts.items()))
    return str(path)


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return all files of a folder, and when they were changed."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir() if path.is_file()}


def test_try_leaves_no_trace(
    broker: RunningBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines through transforms into a file, rows of a table, a function's rows: no file, no topic and no group is new."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "in.txt").write_text("one\n\ntwo\nthree\n")
    (tmp_path / "try_plugin.py").write_text(PLUGIN)
    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, note TEXT)")
        database.execute("INSERT INTO orders VALUES (1, 'a'), (2, NULL)")
    database.close()
    worker = write(
        tmp_path / "worker.properties",
        bootstrap__servers=broker.address,
        plugin__modules="try_plugin",
        offset__storage__file__filename=str(tmp_path / "offsets"),
    )
    source = write(
        tmp_path / "source.properties",
        name="s",
        connector__class="FileStreamSource",
        file=str(tmp_path / "in.txt"),
        topic="tried",
        transforms="wrap",
        transforms__wrap__type="org.apache.kafka.connect.transforms.HoistField$Value",
        transforms__wrap__field="line",
    )
    sink = write(
        tmp_path / "sink.properties", name="t", connector__class="FileStreamSink", file="out.txt", topics="tried"
    )
    numbers = write(tmp_path / "numbers.properties", name="n", connector__class="numbers")
    silent = write(tmp_path / "silent.properties", name="x", connector__class="try_plugin:Silent")
    deaf = write(tmp_path / "deaf.properties", name="d", connector__class="try_plugin:Deaf", topics="other")
    with ottla.Admin(broker.address) as admin:
        topics, groups = admin.list_topics(), admin.list_groups()
        before = files(tmp_path)

        assert main(["try", source, "--to", sink, "--worker", worker]) == 0
        shown = capsys.readouterr().out.splitlines()
        assert shown[:3] == ["tried: string", '  1  "one"', '     to tried: {"line":"one"}']
        assert shown[-1] == f"{sink}: makes the file out.txt, with 4 lines"

        assert main(["try", f"sqlite:///{tmp_path}/shop.db.orders", "--to", deaf, "--worker", worker, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert [row["after"]["value"] for row in told["records"]] == [{"id": 1, "note": "a"}, {"id": 2, "note": None}]
        assert told["records"][0]["before"]["schema"] == "{id: int64?, note: string?} (orders)"
        assert told["plan"] == [
            "it does not read the topic orders",
            "try_plugin:Deaf has no preview: what it would do with these records is not known",
        ]

        assert main(["try", numbers, "--worker", worker, "--rows", "3"]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == '  3  {"number":3}'

        assert main(["try", silent, "--worker", worker]) != 0
        assert "try_plugin:Silent has no preview" in capsys.readouterr().err
        assert main(["try", sink, "--worker", worker]) != 0
        assert "is a sink: it stands behind --to" in capsys.readouterr().err
        assert main(["try", "nothing.properties"]) != 0
        assert "neither a file nor an address" in capsys.readouterr().err

        assert {name: found for name, found in files(tmp_path).items() if not name.endswith(".pyc")} == before
        assert admin.list_topics() == topics
        assert admin.list_groups() == groups
