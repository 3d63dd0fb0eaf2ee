"""The files of docs/connectors.md work as they stand there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.dataset
import pytest
from tests.connect.library.test_jdbc_sink import Database
from tests.connect.test_standalone import Running, until, worker_config
from tests.support.broker_process import RunningBroker
from tests.support.ports import free_port

import ottla
import ottla.testing
from ottla.connect import settings
from ottla.connect.runtime.finding import connector_class

PAGE = (Path(__file__).parents[3] / "docs" / "connectors.md").read_text()
FILES = [
    dict(line.split("=", 1) for line in block.splitlines())
    for block in re.findall(r"```\n(name=.*?)```", PAGE, re.DOTALL)
]


def test_every_key_on_the_page_is_one_and_every_key_is_on_the_page() -> None:
    for name in re.findall(r"^\| \[`(\w+)`\]", PAGE, re.MULTILINE):
        for key in connector_class(name, []).CONFIG.keys:
            assert f"`{key}`" in PAGE, f"{name}: {key}"
    for given in FILES:
        known = connector_class(given["connector.class"], []).CONFIG.keys
        common = {key.name for key in (*settings.CONNECTOR, *settings.SINK)}
        # Any option of the store, and of converters.
        named = {key for key in given if not key.startswith(("store.option.", "key.converter.", "value.converter."))}
        assert named <= set(known) | common, given["name"]


def test_orders_go_into_a_table_and_out_of_it(
    broker: RunningBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made-up orders become rows of SQLite and Parquet files; another connector reads them into a topic, each once."""
    monkeypatch.chdir(tmp_path)
    by_name = {given["name"]: given for given in FILES}
    config = worker_config(broker, tmp_path) | {"plugin.modules": ""}
    with Running(config, by_name["made-up"], by_name["to-shop"], by_name["to-lake"]) as running:
        database = Database("jdbc:sqlite:shop.db")
        until(lambda: (tmp_path / "shop.db").exists() and _count(database) == 200, "200 rows in the table")
        until(lambda: _in_lake(tmp_path) == 200, "200 records in the files")
        assert running.told("failed") == []
    with (
        Running(config, by_name["from-shop"]) as running,
        ottla.Consumer(broker.address, topics=["shop.orders"], auto_offset_reset="earliest") as consumer,
    ):
        found: list[bytes] = []
        until(lambda: len(_more(consumer, found)) >= 200, "200 records in the topic")
        assert running.told("failed") == []
    assert len(found) == len({re.search(rb'"id":(\d+)', value)[1] for value in found}) == 200  # type: ignore[index]
    database.engine.dispose()


@contextmanager
def shop(folder: Path) -> Iterator[str]:
    """The shop of the page, on a free port; yields its address."""
    (text,) = re.findall(r"```python\n(.*?ThreadingHTTPServer.*?)```", PAGE, re.DOTALL)
    port = free_port()
    (folder / "shop.py").write_text(text.replace("8000", str(port)))
    with subprocess.Popen([sys.executable, "shop.py"], cwd=folder, stderr=subprocess.DEVNULL) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def _orders(url: str, after: int) -> list[int]:
    try:
        with urllib.request.urlopen(f"{url}/?after={after}", timeout=60) as answer:
            return [order["id"] for order in json.load(answer)["orders"]]
    except OSError:
        return []  # it starts


def test_orders_go_to_a_shop_by_http_and_come_from_it(
    broker: RunningBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made-up orders become requests to the shop of the page, which tells them, each once."""
    monkeypatch.chdir(tmp_path)
    by_name = {given["name"]: given for given in FILES}
    config = worker_config(broker, tmp_path) | {"plugin.modules": ""}
    with shop(tmp_path) as url:
        to_web, from_web = (
            by_name[name] | {"http.url": by_name[name]["http.url"].replace("http://127.0.0.1:8000", url)}
            for name in ("to-web", "from-web")
        )
        with Running(config, by_name["made-up"], to_web) as running:
            until(lambda: _orders(url, 148) == list(range(149, 199)), "the first 199 orders")
            until(lambda: _orders(url, 198) == [199], "the last order")
            assert running.told("failed") == []
        assert _orders(url, -1) == list(range(50))
        with (
            Running(config, from_web) as running,
            ottla.Consumer(broker.address, topics=["web.orders"], auto_offset_reset="earliest") as consumer,
        ):
            found: list[bytes] = []
            until(lambda: len(_more(consumer, found)) >= 200, "200 records in the topic")
            assert running.told("failed") == []
        assert [json.loads(value)["id"] for value in found] == list(range(200))


def test_rows_of_a_folder_go_into_a_topic(
    broker: RunningBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands of the page: a file with two rows, and a third one that comes later."""
    monkeypatch.chdir(tmp_path)
    (make,) = re.findall(r"```\n(mkdir -p inbox\n.*?)```", PAGE, re.DOTALL)
    (more,) = re.findall(r"`(echo .* >> inbox/orders.csv)`", PAGE)
    subprocess.run(["sh", "-e", "-c", make], check=True)
    by_name = {given["name"]: given for given in FILES}
    config = worker_config(broker, tmp_path) | {"plugin.modules": ""}
    with (
        Running(config, by_name["from-folder"]) as running,
        ottla.Consumer(broker.address, topics=["inbox"], auto_offset_reset="earliest") as consumer,
    ):
        found: list[bytes] = []
        until(lambda: len(_more(consumer, found)) >= 2, "two rows")
        subprocess.run(["sh", "-e", "-c", more], check=True)
        until(lambda: len(_more(consumer, found)) >= 3, "the third row")
        assert running.told("failed") == []
    assert [json.loads(value)["payload"] for value in found] == [
        {"id": 1, "item": "pen", "price": 1.5},
        {"id": 2, "item": "lamp", "price": 29.9},
        {"id": 3, "item": "cup", "price": 4.2},
    ]


def _count(database: Database) -> int:
    with database.engine.connect() as connection:
        there = connection.exec_driver_sql("SELECT count(*) FROM sqlite_master WHERE name = 'orders'").scalar_one()
        return connection.exec_driver_sql("SELECT count(*) FROM orders").scalar_one() if there else 0


def _in_lake(folder: Path) -> int:
    lake = folder / "lake" / "topics" / "orders"
    return pyarrow.dataset.dataset(lake, partitioning="hive").count_rows() if lake.exists() else 0


def _more(consumer: ottla.Consumer, found: list[bytes]) -> list[bytes]:
    found += [record.value or b"" for record in consumer.poll(timeout=1.0)]
    return found


def test_topics_and_groups_of_another_cluster_are_copied(broker: RunningBroker, tmp_path: Path) -> None:
    """The files of the page, with the addresses of two brokers: records, and where a group goes on."""
    by_name = {given["name"]: given for given in FILES}
    with ottla.testing.Broker() as old, ottla.Producer(old.bootstrap_servers) as producer:
        for number in range(50):
            producer.send("orders", str(number).encode())
        producer.flush()
        addresses = {
            "source.cluster.bootstrap.servers": old.bootstrap_servers,
            "target.cluster.bootstrap.servers": broker.address,
            "emit.checkpoints.interval.seconds": "1",
            "sync.group.offsets.interval.seconds": "1",
        }
        with ottla.Admin(old.bootstrap_servers) as admin:
            admin.alter_group_offsets("readers", {ottla.TopicPartition("orders", 0): 50})
        mirror, groups = ({**by_name[name], **addresses} for name in ("mirror", "groups"))
        config = worker_config(broker, tmp_path) | {"plugin.modules": ""}
        with Running(config, mirror, groups) as running, ottla.Admin(broker.address) as admin:
            with ottla.Consumer(broker.address, topics=["old.orders"], auto_offset_reset="earliest") as consumer:
                found: list[bytes] = []
                until(lambda: len(_more(consumer, found)) >= 50, "50 records in the topic")
            assert found == [str(number).encode() for number in range(50)]
            where = ottla.TopicPartition("old.orders", 0)

            def offset() -> int:
                found = admin.list_group_offsets("readers")
                return found[where].offset if where in found else -1

            until(lambda: offset() == 50, "the group's offset")
            assert running.told("failed") == []
