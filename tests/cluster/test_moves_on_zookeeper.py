"""Brokers come and go under load on a real ensemble, moved by `ottla cluster`: nothing acknowledged is lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from tests.cli.test_supervisor import until
from tests.cluster.test_restore_processes import Clients
from tests.support import zookeeper_anchor
from tests.support.ensemble_brokers import EnsembleBrokers
from tests.support.zookeeper_anchor import ZooKeeperEnsemble

from ottla import Admin

pytestmark = pytest.mark.zookeeper

#: A session long enough that a broker that has just died is still registered when it is asked.
SETTINGS = {
    "default.replication.factor": "2",
    "offsets.topic.num.partitions": "3",
    "min.insync.replicas": "2",
    "zookeeper.session.timeout.ms": "15000",
}


@pytest.fixture(scope="module")
def ensemble() -> Iterator[ZooKeeperEnsemble]:
    zookeeper_anchor.require()
    ensemble = ZooKeeperEnsemble(1)
    try:
        ensemble.start()
        yield ensemble
    finally:
        ensemble.stop()


def ottla(*arguments: str, code: int = 0) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "ottla", "cluster", *arguments], capture_output=True, text=True, check=False, timeout=180
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout, done.stderr


class Load:
    """A producer in a thread of its own."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._told = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._told.is_set():
            self._clients.send("orders", 50)

    def stop(self) -> None:
        self._told.set()
        self._thread.join(150)
        assert not self._thread.is_alive()


def test_a_broker_is_added_and_another_one_drained_under_load(ensemble: ZooKeeperEnsemble) -> None:
    """1. A fourth broker gets its share. 2. The first one is drained, stopped, forgotten. 3. Everything is there, once.

    4. A broker that has just died is registered and does not answer. 5. It comes back with an empty disk. 6. It is gone for
    good, and drained without its help.
    """
    connect = f"{ensemble.servers[0]}/moves"
    with EnsembleBrokers(connect, count=4, settings=SETTINGS) as brokers:
        brokers[4].terminate()
        clients = Clients(",".join(brokers[n].address for n in (2, 3)))
        until(lambda: len(clients.admin.list_topics(timeout=10).brokers) == 3)
        clients.create("orders", **{"segment.bytes": "1048576"})
        clients.create("other")
        clients.send("other", 10)
        clients.send("orders", 2000)
        load = Load(clients)
        try:
            brokers[4].start(timeout_s=60)
            where = ("-b", clients.bootstrap)
            plan = json.loads(ottla("add", "4", *where, "--dry-run", "--json")[0])
            assert plan["moves"]
            assert all(set(move["after"]) - set(move["before"]) <= {4} for move in plan["moves"])
            assert all(broker["before"]["replicas"] == 0 for broker in plan["brokers"] if broker["id"] == 4)
            ottla("add", "4", *where, "--yes", "--at-once", "2", "--throttle", "20MB")
            for kind, name in (("topic", "orders"), ("broker", "4")):
                with Admin(clients.bootstrap) as admin:
                    entries = admin.describe_configs(kind, name)
                assert all(entry.source == "default" for key, entry in entries.items() if "throttled" in key)
            drained = ottla("drain", "1", *where, "--yes")
            assert "broker 1 holds nothing: stop it" in drained[1]
            assert "broker 1 runs: stop it first" in ottla("unregister", "1", *where, code=1)[1]
            brokers[1].terminate()
            assert "broker 1 is forgotten" in ottla("unregister", "1", *where)[1]
            rebalanced = ottla("rebalance", "orders", "-r", "3", *where, "--yes")
            assert "4 of 4 partitions are where they are to be" in rebalanced[1]
        finally:
            load.stop()
        status = json.loads(ottla("status", *where, "--json")[0])
        assert [row["node_id"] for row in status["brokers"]] == [2, 3, 4]
        assert not status["under_replicated"]
        assert clients.read("orders", "readers", clients.sent - 10) == list(range(10, clients.sent))

        brokers[4].kill()
        told = ottla("status", *where, code=1)[0]
        assert "broker 4 does not answer" in told

        until(lambda: 4 not in clients.admin.list_topics(timeout=10).brokers, 60)
        ottla("unregister", "4", *where)
        shutil.rmtree(brokers[4].data_dir)
        brokers[4].start(timeout_s=60)
        until(lambda: clients.is_led("orders"), 90)
        assert clients.read("orders", "after a lost disk", clients.sent - 10) == list(range(10, clients.sent))

        brokers[4].kill()
        until(lambda: 4 not in clients.admin.list_topics(timeout=10).brokers, 60)
        assert "is to have 3 replicas, and there are 2 brokers" in ottla("drain", "4", *where, code=1)[1]
        ottla("rebalance", "orders", "-r", "2", *where, "--yes")
        ottla("drain", "4", *where, "--yes")
        status = json.loads(ottla("status", *where, "--json")[0])
        assert (status["missing_brokers"], status["under_replicated"]) == ([], [])
        clients.send("orders", 50)
