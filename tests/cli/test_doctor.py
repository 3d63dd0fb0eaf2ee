"""`ottla doctor`, `ottla bench`, `ottla completion`: what they find and print."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tests.cli.conftest import Run
from tests.support.ports import free_port

from ottla import TopicPartition
from ottla.cli.main import main
from ottla.testing import Broker


def findings(ottla: Run, *arguments: str) -> tuple[int, dict[str, str]]:
    done = ottla("doctor", "--json", *arguments)
    return done.code, {row["what"]: row["state"] for row in json.loads(done.out)}


def test_a_sound_cluster_is_sound(ottla: Run, cluster: Broker) -> None:
    cluster.create_topic("some")
    code, states = findings(ottla)
    assert code == 0
    assert set(states.values()) <= {"ok", "warning"}
    assert {"connection", "cluster", "partitions", "groups", "transactions"} <= states.keys()


def test_a_broker_that_is_not_there_is_a_problem(ottla: Run) -> None:
    port = free_port()
    done = ottla("doctor", "-b", f"127.0.0.1:{port}")
    assert done.code == 1
    assert f"problem: address 127.0.0.1:{port}: nothing listens there" in done.out
    assert "ottla serve" in done.out


def test_an_advertised_address_that_cannot_be_reached_is_a_problem() -> None:
    from ottla.cli.doctor import examine
    from ottla.cli.running import Connection

    with Broker({"advertised.listeners": f"PLAINTEXT://127.0.0.1:{free_port()}"}) as broker:
        found = {row.what: row for row in examine(Connection(broker.bootstrap_servers, None, [], {}))}
    broken = next(row for row in found.values() if row.state == "problem")
    assert broken.what.startswith("broker 1 at")
    assert "advertised.listeners" in broken.hint


def test_a_group_that_is_far_behind_is_a_warning(ottla: Run, cluster: Broker) -> None:
    cluster.produce("long", [b"x"] * 10_001)
    cluster.admin.alter_group_offsets("slow", {TopicPartition("long", 0): 0})
    code, states = findings(ottla)
    assert (code, states["group slow"]) == (0, "warning")


def test_bench_measures_and_leaves_nothing(ottla: Run, cluster: Broker) -> None:
    done = ottla("bench", "-n", "3000", "-p", "2", "--json", "-X", "linger.ms=2", "-X", "fetch.min.bytes=1")
    rows = json.loads(done.out)
    assert [row["what"] for row in rows] == ["produce", "consume", "one at a time"]
    assert [row["records"] for row in rows[:2]] == [3000, 3000]
    assert not [topic.name for topic in cluster.admin.list_topics() if topic.name.startswith("ottla-bench")]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(ottla: Run, shell: str) -> None:
    assert "_OTTLA_COMPLETE" in ottla("completion", shell).out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("ottla to", ["topic", "token"]),
        ("ottla topic de", ["delete", "delete-records", "describe"]),
        ("ottla consume shop-", ["shop-1", "shop-2"]),
        ("ottla group describe readers-", ["readers-1"]),
        ("ottla serve --adv", ["--advertise"]),
    ],
)
def test_a_shell_is_told_what_may_come_next(
    cluster: Broker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    expected: list[str],
) -> None:
    for name in ("shop-1", "shop-2"):
        cluster.admin.create_topic(name, exists_ok=True)
    cluster.admin.alter_group_offsets("readers-1", {TopicPartition("shop-1", 0): 0})
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", cluster.bootstrap_servers)
    monkeypatch.setenv("_OTTLA_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    assert main([]) == 0
    assert [line.rpartition(",")[2] for line in capsys.readouterr().out.split()] == expected


def test_serve_and_log_import_neither_click_nor_rich() -> None:
    for command in ("serve", "log"):
        script = (
            "import sys; from ottla.cli.main import main\n"
            f"assert main(['{command}', '--help']) == 0\n"
            "assert not {'click', 'rich'} & set(sys.modules), 'imported'"
        )
        subprocess.run([sys.executable, "-c", script], check=True, timeout=60, stdout=subprocess.DEVNULL)
    script = (
        "import sys; from ottla.cli.main import main; main(['--help'])\n"
        "assert not {'click', 'rich', 'asyncio'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, stdout=subprocess.DEVNULL)
