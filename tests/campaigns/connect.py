"""Connectors with their real servers, killed under load: what arrives is what was sent.

    python -m tests.campaigns.connect --connector jdbc-sink --kills 20 --state tests/campaigns/results/connect.json
    python -m tests.campaigns.connect --connector jdbc-source --kills 20 --state tests/campaigns/results/connect.json
    python -m tests.campaigns.connect --connector exactly-once-source --kills 20 --state tests/campaigns/results/connect.json
    python -m tests.campaigns.connect --connector mqtt-source --kills 20 --state tests/campaigns/results/connect.json
    python -m tests.campaigns.connect --connector files-sink-s3 --kills 20 --state tests/campaigns/results/connect.json
    python -m tests.campaigns.connect --connector files-sink-hdfs --kills 20 --state tests/campaigns/results/connect.json
    python -m tests.campaigns.connect --connector mirror --kills 20 --state tests/campaigns/results/connect.json
    python -m tests.campaigns.connect --connector change-data --kills 20 --changes 1000000 --state ...

The exactly-once source runs in two workers of a group, each its boundary of transactions; one of them is killed. The worker,
the broker and, where there is one, the connector's server are killed with SIGKILL, by chance, and started
again. Records and rows are written meanwhile. At the end of a round of 10 kills everything is compared: what is exactly
once has each record once, what is at least once has each at least once, and the file says how many came twice. Started
again, the campaign goes on where the file says. A difference ends it with exit code 1, and its seed.

With `change-data` a table of PostgreSQL is changed, followed into a topic, and from there into a copy in another database:
after each round the copy is the table, row for row. `--changes` asks for more rounds until so many rows were changed.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from paho.mqtt import MQTTException
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
from tests.support.broker_process import BrokerProcess
from tests.support.hdfs import Hdfs
from tests.support.mosquitto import Mosquitto
from tests.support.ports import free_port
from tests.support.postgres import Postgres
from tests.support.s3 import S3

import ottla

ROUND = 10
_START_S = 120.0
_JSON = "org.apache.kafka.connect.json.JsonConverter"
_CONVERTERS = "org.apache.kafka.connect.converters"


class Worker:
    """`ottla connect run` in a folder of its own, which outlives `kill()`."""

    command: tuple[str, ...] = ("run", "worker.properties")

    def __init__(self, folder: Path, address: str, connectors: Sequence[dict[str, str]]) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self._log = (folder / "worker.log").open("ab")
        settings = {
            "bootstrap.servers": address,
            "listeners": "",
            "key.converter": _JSON,
            "key.converter.schemas.enable": "false",
            "value.converter": _JSON,
            "value.converter.schemas.enable": "false",
            "offset.storage.file.filename": str(folder / "offsets"),
            "offset.flush.interval.ms": "500",
            # A member that was killed is gone after six seconds, so that the next one is at work when it is killed.
            "consumer.session.timeout.ms": "6000",
            "consumer.heartbeat.interval.ms": "1000",
        } | self.more()
        self._files = [f"{number}.properties" for number in range(len(connectors))]
        for name, given in (("worker.properties", settings), *zip(self._files, connectors, strict=True)):
            text = "".join(f"{key}={value}\n" for key, value in given.items())
            (folder / name).write_text(text)
        self.process: subprocess.Popen[bytes] | None = None

    def more(self) -> dict[str, str]:
        """Return further settings of the worker."""
        return {}

    def start(self) -> None:
        command = [sys.executable, "-m", "ottla", "connect", *self.command, *self._files]
        self.process = subprocess.Popen(command, cwd=self._folder, stdout=self._log, stderr=self._log)

    def check(self) -> None:
        """Raise if the worker has ended by itself."""
        assert self.process is not None
        log = (self._folder / "worker.log").read_text(errors="replace")
        assert self.process.poll() is None, f"the worker ended with {self.process.returncode}: {log[-3000:]}"
        assert " failed, and is not" not in log, f"a task failed: {log[-3000:]}"

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        self.kill()
        self._log.close()


class GroupWorker(Worker):
    """`ottla connect worker`, whose sources are exactly once. A task may fail, and is started again."""

    command = ("worker", "worker.properties")

    def __init__(self, folder: Path, address: str) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self._seen = 0
        super().__init__(folder, address, ())

    def more(self) -> dict[str, str]:
        parts = ("config", "offset", "status")
        return {
            "listeners": self.url,
            "group.id": "workers",
            "session.timeout.ms": "6000",
            "heartbeat.interval.ms": "1000",
            "scheduled.rebalance.max.delay.ms": "0",
            "exactly.once.source.support": "enabled",
            **{f"{part}.storage.topic": f"workers-{part}" for part in parts},
            **{f"{part}.storage.replication.factor": "1" for part in parts},
        }

    def check(self) -> None:
        """Raise if the worker has ended by itself. One that finds no broker at its start does so, and is started again."""
        log = (self._folder / "worker.log").read_text(errors="replace")
        if self.process is not None and self.process.poll() is not None and "Nothing listens" in log[self._seen :]:
            self._seen = len(log)
            self.start()
        super().check()


class Workers:
    """Two workers of a group, of which one at a time, by chance, is killed."""

    def __init__(self, folder: Path, address: str, connectors: list[dict[str, str]], dice: random.Random) -> None:
        self._workers = [GroupWorker(folder / f"worker-{number}", address) for number in range(2)]
        self._connectors = connectors
        self._dice = dice
        self._victim: GroupWorker | None = None

    def start(self) -> None:
        """Start the one that was killed; at first both, and their connectors."""
        if self._victim is not None:
            self._victim.start()
            return
        for worker in self._workers:
            worker.start()
        for connector in self._connectors:
            self._add(connector)

    def _add(self, connector: dict[str, str]) -> None:
        deadline = time.monotonic() + _START_S
        body = json.dumps(connector).encode()
        url = f"{self._workers[0].url}/connectors/{connector['name']}/config"
        while True:
            request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="PUT")
            try:
                urllib.request.urlopen(request, timeout=60).close()
                return
            except OSError:
                self.check()
                assert time.monotonic() < deadline, "the connector cannot be made"
                time.sleep(0.5)

    def check(self) -> None:
        for worker in self._workers:
            worker.check()

    def kill(self) -> None:
        self._victim = self._dice.choice(self._workers)
        self._victim.kill()

    def close(self) -> None:
        for worker in self._workers:
            worker.close()


class Flow:
    """One connector at work: `write` is called all the time, `equal` at the end."""

    exactly_once = True
    settle_s = 180.0

    def __init__(self, folder: Path, broker: BrokerProcess, server: Any) -> None:
        self.folder = folder
        self.broker = broker
        self.server = server
        self.next = 0
        #: Rows that were changed.
        self.changes = 0

    def connectors(self) -> list[dict[str, str]]:
        return [self.connector()]

    def connector(self) -> dict[str, str]:
        raise NotImplementedError

    def worker(self, dice: random.Random) -> Worker | Workers:
        """Return what runs it."""
        return Worker(self.folder, self.broker.address, self.connectors())

    def prepare(self) -> None:
        """Make what has to be there."""

    def write(self) -> None:
        """Write a few more."""
        raise NotImplementedError

    def sent(self) -> Counter[Any]:
        """Return what was written, by number."""
        raise NotImplementedError

    def arrived(self) -> Counter[Any]:
        """Return what has arrived, by number."""
        raise NotImplementedError

    def close(self) -> None:
        """End what `prepare` has begun."""

    def check(self) -> None:
        """Raise if something else than the records is not as it should be, when all have arrived."""

    def has_all(self, sent: Counter[Any], arrived: Counter[Any]) -> bool:
        """Whether nothing is still to come."""
        return arrived.keys() >= sent.keys()


def _topic(broker: BrokerProcess, topic: str) -> Counter[int]:
    config = {"isolation.level": "read_committed"}
    with ottla.Consumer(broker.address, topics=[topic], auto_offset_reset="earliest", config=config) as consumer:
        return Counter(json.loads(record.value or b"{}")["id"] for record in consumer.records(until="end"))


class _ToTopic(Flow):
    """Records are written into a topic."""

    def prepare(self) -> None:
        with ottla.Admin(self.broker.address) as admin:
            admin.create_topics([ottla.NewTopic(name="orders", partitions=3, replication_factor=1)])
        self._producer: ottla.Producer = ottla.Producer(self.broker.address)

    def write(self) -> None:
        for _ in range(20):
            value = json.dumps({"id": self.next, "text": f"order {self.next}"})
            self._producer.send("orders", value, key=str(self.next))
            self.next += 1

    def sent(self) -> Counter[int]:
        self._producer.flush()
        return _topic(self.broker, "orders")


class JdbcSink(_ToTopic):
    """Plain inserts into a table without a key: what came twice would be there twice."""

    def connector(self) -> dict[str, str]:
        return {
            "name": "sink",
            "connector.class": "JdbcSinkConnector",
            "topics": "orders",
            "tasks.max": "2",
            "connection.url": self.server.url,
            "auto.create": "true",
            "retry.backoff.ms": "300",
            "max.retries": "100",
        }

    def arrived(self) -> Counter[int]:
        with psycopg.connect(self.server.conninfo) as connection:
            if connection.execute("SELECT to_regclass('orders')").fetchone() == (None,):
                return Counter()
            return Counter(row[0] for row in connection.execute("SELECT id FROM orders"))


class JdbcSource(Flow):
    """Rows of transactions that last differently; each comes at least once."""

    exactly_once = False

    def connector(self) -> dict[str, str]:
        return {
            "name": "source",
            "connector.class": "JdbcSourceConnector",
            "connection.url": self.server.url,
            "table.whitelist": "rows",
            "topic.prefix": "from-",
            "mode": "timestamp+incrementing",
            "timestamp.column.name": "at",
            "incrementing.column.name": "id",
            "poll.interval.ms": "200",
        }

    def prepare(self) -> None:
        with psycopg.connect(self.server.conninfo) as connection:
            connection.execute("CREATE TABLE rows (id SERIAL PRIMARY KEY, at TIMESTAMPTZ NOT NULL DEFAULT now())")
        with ottla.Admin(self.broker.address) as admin:
            admin.create_topics([ottla.NewTopic(name="from-rows", partitions=1, replication_factor=1)])

    def write(self) -> None:
        """A transaction stays open while another one, with later moments and numbers, commits."""
        try:
            with (
                psycopg.connect(self.server.conninfo, connect_timeout=5) as slow,
                psycopg.connect(self.server.conninfo, connect_timeout=5) as quick,
            ):
                slow.execute("INSERT INTO rows DEFAULT VALUES")
                quick.execute("INSERT INTO rows SELECT FROM generate_series(1, 10)")
                quick.commit()
                time.sleep(0.3)
        except psycopg.OperationalError:
            time.sleep(0.2)  # the server was killed

    def sent(self) -> Counter[int]:
        with psycopg.connect(self.server.conninfo) as connection:
            return Counter(row[0] for row in connection.execute("SELECT id FROM rows"))

    def arrived(self) -> Counter[int]:
        return _topic(self.broker, "from-rows")


class FilesSink(_ToTopic):
    """Parquet files, closed by their number and by the clock."""

    def connector(self) -> dict[str, str]:
        return {
            "name": "lake",
            "connector.class": "FilesSinkConnector",
            "topics": "orders",
            "tasks.max": "2",
            "store.url": (self.folder / "lake").as_uri(),
            "flush.size": "200",
            "rotate.interval.ms": "3000",
        }

    def arrived(self) -> Counter[int]:
        found: Counter[int] = Counter()
        for path in (self.folder / "lake").glob("topics/orders/*.parquet"):
            found.update(pq.read_table(path)["id"].to_pylist())
        return found


class FilesSinkS3(FilesSink):
    """The same in a bucket of an S3 server."""

    def connector(self) -> dict[str, str]:
        settings: dict[str, str] = self.server.settings
        return super().connector() | settings

    def arrived(self) -> Counter[int]:
        found: Counter[int] = Counter()
        for path in self.server.bucket_folder.glob("topics/orders/*.parquet"):
            found.update(pq.read_table(path, partitioning=None)["id"].to_pylist())
        return found


class FilesSinkHdfs(FilesSink):
    """The same in HDFS."""

    settle_s = 400.0

    def connector(self) -> dict[str, str]:
        settings: dict[str, str] = self.server.settings
        return super().connector() | settings | {"errors.restart.enable": "true"}

    def arrived(self) -> Counter[int]:
        found: Counter[int] = Counter()
        for data in self.server.files("topics/orders").values():
            found.update(pq.read_table(pa.BufferReader(data))["id"].to_pylist())
        return found


class ExactlyOnceSource(Flow):
    """Lines of two files, in transactions of batches and of an interval."""

    def worker(self, dice: random.Random) -> Workers:
        connectors = [
            {
                "name": boundary,
                "connector.class": "FileStreamSource",
                "file": str(self.folder / f"{boundary}.txt"),
                "topic": "from-lines",
                "exactly.once.support": "required",
                "transaction.boundary": boundary,
                "transaction.boundary.interval.ms": "2000",
                "value.converter": "org.apache.kafka.connect.storage.StringConverter",
                "errors.restart.enable": "true",
            }
            for boundary in ("poll", "interval")
        ]
        return Workers(self.folder, self.broker.address, connectors, dice)

    def prepare(self) -> None:
        with ottla.Admin(self.broker.address) as admin:
            admin.create_topics([ottla.NewTopic(name="from-lines", partitions=3, replication_factor=1)])

    def write(self) -> None:
        for name in ("poll", "interval"):
            with (self.folder / f"{name}.txt").open("a") as file:
                for _ in range(10):
                    file.write(f"{json.dumps({'id': self.next})}\n")
                    self.next += 1

    def sent(self) -> Counter[int]:
        return Counter(range(self.next))

    def arrived(self) -> Counter[int]:
        return _topic(self.broker, "from-lines")


class ChangeData(Flow):
    """A table with long values, new columns, keys that change and great transactions; its copy is in another database."""

    settle_s = 1500.0

    def connectors(self) -> list[dict[str, str]]:
        schemas = {f"{side}.converter.schemas.enable": "true" for side in ("key", "value")}
        schemas |= {f"{side}.converter": _JSON for side in ("key", "value")}
        source = {
            "name": "shop",
            "connector.class": "PostgresConnector",
            "database.hostname": "127.0.0.1",
            "database.port": str(self.server.port),
            "database.user": "postgres",
            "database.dbname": "postgres",
            "topic.prefix": "shop",
            "table.include.list": "public.orders",
        }
        copy = {
            "name": "copy",
            "connector.class": "JdbcSinkConnector",
            "topics": "shop.public.orders",
            "tasks.max": "2",
            "connection.url": self.server.url.replace("/postgres?", "/copy?"),
            "table.name.format": "orders",
            "insert.mode": "upsert",
            "pk.mode": "record_key",
            "delete.enabled": "true",
            "auto.create": "true",
            "auto.evolve": "true",
            "retry.backoff.ms": "300",
            "max.retries": "100",
        }
        return [source | schemas, copy | schemas]

    def prepare(self) -> None:
        self._dice = random.Random(self.folder.name)
        self._writes = self._columns = 0
        with psycopg.connect(self.server.conninfo, autocommit=True) as connection:
            connection.execute("CREATE DATABASE copy")
            connection.execute(
                "CREATE TABLE orders (id BIGINT PRIMARY KEY, note TEXT, price NUMERIC(12, 2), at TIMESTAMPTZ NOT NULL, "
                "body TEXT)"
            )
            connection.execute("ALTER TABLE orders ALTER body SET STORAGE EXTERNAL")
            connection.execute(_INSERT, {"first": 1, "last": 2000})
        self.next = 2001
        with ottla.Admin(self.broker.address) as admin:
            admin.create_topics([ottla.NewTopic(name="shop.public.orders", partitions=3, replication_factor=1)])

    def write(self) -> None:
        """Two transactions; now and then a new column, and one that adds 60,000 rows and changes every row."""
        self._writes += 1
        try:
            with psycopg.connect(self.server.conninfo, connect_timeout=5, autocommit=True) as connection:
                if self._writes % 40 == 20:
                    self._columns += 1
                    connection.execute(f"ALTER TABLE orders ADD COLUMN more{self._columns} TEXT".encode())
                if self._writes % 60 == 30:
                    with connection.transaction():
                        self._change(connection, _MANY, {})
                        self._change(connection, "UPDATE orders SET note = note || '.'", {})
                    self._change(connection, "DELETE FROM orders WHERE id > 5000000000", {})
                first, self.next = self.next, self.next + 20
                with connection.transaction():
                    self._change(connection, _INSERT, {"first": first, "last": first + 19})
                    self._change(connection, _UPDATE.format(f"more{self._columns}" if self._columns else "note"), {})
                with connection.transaction():
                    self._change(
                        connection, "DELETE FROM orders WHERE id %% 97 = %(n)s", {"n": self._dice.randrange(97)}
                    )
                    moved = {"n": self._dice.randrange(500), "by": 1_000_000_000}
                    self._change(
                        connection, "UPDATE orders SET id = id + %(by)s WHERE id %% 500 = %(n)s AND id < %(by)s", moved
                    )
        except psycopg.Error:
            time.sleep(0.2)  # the server was killed

    def _change(self, connection: psycopg.Connection[Any], statement: str, given: dict[str, Any]) -> None:
        self.changes += max(0, connection.execute(statement.encode(), given or None).rowcount)

    def sent(self) -> Counter[Any]:
        return self._rows("postgres")

    def arrived(self) -> Counter[Any]:
        return self._rows("copy")

    def _rows(self, database: str) -> Counter[Any]:
        with psycopg.connect(self.server.conninfo.replace("dbname=postgres", f"dbname={database}")) as connection:
            if connection.execute("SELECT to_regclass('orders')").fetchone() == (None,):
                return Counter()
            # A column that was null since it was added is not in the copy.
            found = connection.execute("SELECT id, md5(jsonb_strip_nulls(to_jsonb(o))::text) FROM orders o")
            return Counter((row[0], row[1]) for row in found)

    def has_all(self, sent: Counter[Any], arrived: Counter[Any]) -> bool:
        return sent == arrived


_INSERT = (
    "INSERT INTO orders (id, note, price, at, body) SELECT n, 'new', n / 7.0, clock_timestamp(), repeat(n::text || '-', 400) "
    "FROM generate_series(%(first)s::bigint, %(last)s::bigint) n"
)
_MANY = (
    "INSERT INTO orders (id, note, price, at) SELECT 5000000000 + n, 'many', n, clock_timestamp() "
    "FROM generate_series(1, 60000) n"
)
_UPDATE = (
    "UPDATE orders SET {} = md5(id::text || clock_timestamp()::text), price = price + 0.01 WHERE id IN "
    "(SELECT id FROM orders TABLESAMPLE BERNOULLI (5) LIMIT 60)"
)


class Mirror(Flow):
    """Another broker's topic, at least once; a group of readers there goes on here, and leaves out no record."""

    exactly_once = False

    def connectors(self) -> list[dict[str, str]]:
        common = {
            "source.cluster.alias": "old",
            "source.cluster.bootstrap.servers": self.server.address,
            "target.cluster.alias": "new",
            "target.cluster.bootstrap.servers": self.broker.address,
            "topics": "orders",
            "groups": "readers",
            **{f"{part}.converter": f"{_CONVERTERS}.ByteArrayConverter" for part in ("key", "value", "header")},
        }
        source = {
            "name": "mirror",
            "connector.class": "MirrorSourceConnector",
            "tasks.max": "2",
            "replication.factor": "1",
            "offset.lag.max": "10",
        }
        groups = {
            "name": "groups",
            "connector.class": "MirrorCheckpointConnector",
            "emit.checkpoints.interval.seconds": "1",
            "sync.group.offsets.enabled": "true",
            "sync.group.offsets.interval.seconds": "1",
        }
        return [source | common, groups | common]

    def prepare(self) -> None:
        with ottla.Admin(self.server.address) as admin:
            admin.create_topics([ottla.NewTopic(name="orders", partitions=3, replication_factor=1)])
        self._producer: ottla.Producer = ottla.Producer(self.server.address)

    def write(self) -> None:
        for _ in range(20):
            self._producer.send("orders", json.dumps({"id": self.next}), key=str(self.next))
            self.next += 1
        if self.next % 400 == 0:
            self._read()

    def _read(self) -> None:
        """Commit for the readers that they have read everything that is there now."""
        parts = [ottla.TopicPartition("orders", number) for number in range(3)]
        try:
            with ottla.Admin(self.server.address) as admin:
                ends = admin.list_offsets(parts, "latest")
                admin.alter_group_offsets("readers", {where: found.offset or 0 for where, found in ends.items()})
        except ottla.errors.KafkaError:
            pass  # the broker was killed

    def sent(self) -> Counter[int]:
        self._producer.flush()
        return _topic(self.server, "orders")

    def arrived(self) -> Counter[int]:
        with ottla.Admin(self.broker.address) as admin:
            if "old.orders" not in {topic.name for topic in admin.list_topics()}:
                return Counter()
        return _topic(self.broker, "old.orders")

    def check(self) -> None:
        """A record may come twice to the readers that go on here; the ones that they had not read there all come."""
        to_come, comes = (
            _left_of(broker, topic) for broker, topic in ((self.server, "orders"), (self.broker, "old.orders"))
        )
        assert to_come < set(range(self.next)), "the readers have read nothing"
        assert comes < set(range(self.next)), "no offset of the readers was translated"
        assert to_come <= comes, f"the readers would leave out {sorted(to_come - comes)[:20]}"


def _left_of(broker: BrokerProcess, topic: str) -> set[int]:
    """Return the records that the group of readers has before it."""
    with ottla.Admin(broker.address) as admin:
        offsets = {where: found.offset for where, found in admin.list_group_offsets("readers").items()}
    with ottla.Consumer(broker.address, topics=[topic], auto_offset_reset="earliest") as consumer:
        return {
            json.loads(record.value or b"{}")["id"]
            for record in consumer.records(until="end")
            if record.offset >= offsets.get(record.topic_partition, 0)
        }


class MqttSource(Flow):
    """Messages with QoS 1, each at least once."""

    exactly_once = False

    def connector(self) -> dict[str, str]:
        return {
            "name": "things",
            "connector.class": "MqttSourceConnector",
            "mqtt.server.uri": self.server.url,
            "mqtt.topics": "rooms/#",
            "kafka.topic": "rooms",
            "key.converter": "org.apache.kafka.connect.storage.StringConverter",
            "value.converter": "org.apache.kafka.connect.converters.ByteArrayConverter",
        }

    def prepare(self) -> None:
        """Have the MQTT broker know the client, so that it keeps messages for it from the first one on."""
        with ottla.Admin(self.broker.address) as admin:
            admin.create_topics([ottla.NewTopic(name="rooms", partitions=3, replication_factor=1)])
        client = Client(CallbackAPIVersion.VERSION2, client_id="ottla-things", clean_session=False)
        known: list[int] = []
        client.on_subscribe = lambda *_: known.append(1)
        _subscribe(client, "rooms/#")
        client.connect("127.0.0.1", self.server.port)
        deadline = time.monotonic() + _START_S
        while not known:
            client.loop(0.1)
            assert time.monotonic() < deadline, "Mosquitto does not take a subscription"
        client.disconnect()
        self._acknowledged: set[int] = set()

    def write(self) -> None:
        numbers = range(self.next, self.next + 20)
        self.next += 20
        messages = [(f"rooms/{number % 7}", json.dumps({"id": number}).encode()) for number in numbers]
        try:
            self.server.publish(*messages)
        except (OSError, MQTTException):
            time.sleep(0.2)  # the server was away; whether these arrive is open
            return
        self._acknowledged.update(numbers)

    def sent(self) -> Counter[Any]:
        return Counter(self._acknowledged)

    def arrived(self) -> Counter[Any]:
        found = _topic(self.broker, "rooms")
        return Counter({number: times for number, times in found.items() if number in self._acknowledged})


def _subscribe(client: Client, topic: str) -> None:
    """Subscribe whenever the client is connected."""

    def on_connect(found: Client, _: Any, *told: Any) -> None:
        found.subscribe(topic, 1)

    client.on_connect = on_connect


class MqttSink(_ToTopic):
    """Records as messages, which a client with a session of its own hears."""

    exactly_once = False

    def connector(self) -> dict[str, str]:
        return {
            "name": "out",
            "connector.class": "MqttSinkConnector",
            "topics": "orders",
            "tasks.max": "2",
            "mqtt.server.uri": self.server.url,
            "key.converter": "org.apache.kafka.connect.storage.StringConverter",
            "value.converter": "org.apache.kafka.connect.storage.StringConverter",
        }

    def prepare(self) -> None:
        super().prepare()
        self._heard: Counter[int] = Counter()
        ready = threading.Event()
        self._client = client = Client(CallbackAPIVersion.VERSION2, client_id="listener", clean_session=False)
        client.on_message = lambda _, __, message: self._heard.update([json.loads(message.payload)["id"]])
        _subscribe(client, "orders")
        client.on_subscribe = lambda *_: ready.set()
        client.reconnect_delay_set(1, 1)
        client.connect("127.0.0.1", self.server.port)
        client.loop_start()
        assert ready.wait(_START_S), "Mosquitto does not take a subscription"

    def arrived(self) -> Counter[Any]:
        return Counter(self._heard)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def _postgres() -> Postgres:
    return Postgres(wal_level="logical")


FLOWS: dict[str, tuple[type[Flow], Callable[[], Any] | None]] = {
    "jdbc-sink": (JdbcSink, _postgres),
    "jdbc-source": (JdbcSource, _postgres),
    "files-sink": (FilesSink, None),
    "files-sink-s3": (FilesSinkS3, S3),
    "files-sink-hdfs": (FilesSinkHdfs, Hdfs),
    "exactly-once-source": (ExactlyOnceSource, None),
    "change-data": (ChangeData, _postgres),
    "mirror": (Mirror, BrokerProcess),
    "mqtt-source": (MqttSource, Mosquitto),
    "mqtt-sink": (MqttSink, Mosquitto),
}


def run_round(kind: str, seed: int, kills: int) -> tuple[Counter[str], int, int, int]:
    """Kill so often; return what was killed, how many records there were, how many of them came twice, and how many rows
    were changed.

    Raises:
        AssertionError: what arrived is not what was sent, or the worker ended by itself.
    """
    dice = random.Random(seed)
    flow_kind, make_server = FLOWS[kind]
    killed: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = None if make_server is None else make_server()
        broker = BrokerProcess({"group.initial.rebalance.delay.ms": "0"}, data_dir=folder / "data")
        worker: Worker | Workers | None = None
        flow: Flow | None = None
        writing = threading.Event()
        try:
            if server is not None:
                server.start()
            broker.start(timeout_s=_START_S)
            made = flow_kind(folder, broker, server)
            made.prepare()
            flow = made
            writer = threading.Thread(target=_write, args=(flow, writing))
            worker = flow.worker(dice)
            worker.start()
            writing.set()
            writer.start()
            targets = ["worker", "worker", "broker", *(["server"] if server is not None else [])]
            for _ in range(kills):
                time.sleep(dice.uniform(4, 20))
                worker.check()
                target = dice.choice(targets)
                victim: Any = {"worker": worker, "broker": broker, "server": server}[target]
                victim.kill()
                time.sleep(dice.uniform(0, 1))
                if target == "broker":
                    broker.start(timeout_s=_START_S)
                else:
                    victim.start()
                killed[target] += 1
            writing.clear()
            writer.join()
            return killed, *_compared(flow, worker), flow.changes
        finally:
            writing.clear()
            for part in (worker, flow, broker, server):
                if part is not None:
                    part.close()


def _write(flow: Flow, writing: threading.Event) -> None:
    while writing.is_set():
        flow.write()
        time.sleep(0.05)


def _compared(flow: Flow, worker: Worker | Workers) -> tuple[int, int]:
    """Wait until all has arrived; return how many records there are, and how many came twice."""
    sent = flow.sent()
    deadline = time.monotonic() + flow.settle_s
    while True:
        arrived = flow.arrived()
        if flow.has_all(sent, arrived) or time.monotonic() > deadline:
            break
        worker.check()
        time.sleep(1)
    assert arrived.keys() == sent.keys(), (
        f"missing {sorted(sent - arrived)[:20]}, unknown {sorted(arrived - sent)[:20]}"
    )
    twice = sum((arrived - sent).values())
    if flow.exactly_once:
        assert arrived == sent, f"{twice} came twice, the first are {sorted(arrived - sent)[:20]}"
    flow.check()
    return len(sent), twice


def main() -> int:
    """Run the campaign; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connector", choices=sorted(FLOWS), required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--changes", type=int, default=0, help="go on until so many rows were changed")
    parser.add_argument("--state", type=Path, required=True, help="file that says how far it is")
    chosen = parser.parse_args()
    states: dict[str, Any] = json.loads(chosen.state.read_text()) if chosen.state.exists() else {}
    state = states.setdefault(chosen.connector, {"rounds": 0, "killed": {}, "records": 0, "twice": 0})
    while (done := sum(state["killed"].values())) < chosen.kills or state.get("changes", 0) < chosen.changes:
        seed = state["rounds"]
        try:
            kills = min(ROUND, chosen.kills - done) if done < chosen.kills else ROUND
            killed, records, twice, changes = run_round(chosen.connector, seed, kills)
        except AssertionError as error:
            print(f"{chosen.connector}, seed {seed}: {error}", file=sys.stderr)
            return 1
        state |= {
            "rounds": seed + 1,
            "killed": dict(Counter(state["killed"]) + killed),
            "records": state["records"] + records,
            "twice": state["twice"] + twice,
        }
        if changes:
            state["changes"] = state.get("changes", 0) + changes
        chosen.state.parent.mkdir(parents=True, exist_ok=True)
        chosen.state.write_text(json.dumps(states, indent=2) + "\n")
        print(f"{chosen.connector}: {sum(state['killed'].values())} of {chosen.kills} kills, {state}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
