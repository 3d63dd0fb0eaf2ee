"""`ottla topic` and `ottla config`."""

from __future__ import annotations

import json

from tests.cli.conftest import Run

from ottla.testing import Broker


def test_a_topic_is_made_listed_described_changed_and_deleted(ottla: Run) -> None:
    made = ottla("topic", "create", "orders", "-p", "3", "-c", "retention.ms=1d")
    assert (made.code, made.out, made.err) == (0, "", "orders is there\n")
    listed = ottla("topic", "list")
    assert listed.lines[0][:2] == ["NAME", "PARTITIONS"]
    assert ["orders", "3", "1"] in [line[:3] for line in listed.lines]
    described = ottla("topic", "describe", "orders")
    assert "retention.ms=86400000" in described.out
    assert [line[0] for line in described.lines[-3:]] == ["0", "1", "2"]
    assert ottla("topic", "alter", "orders", "-c", "segment.bytes=64MiB", "-d", "retention.ms").code == 0
    assert ottla("topic", "add-partitions", "orders", "4").code == 0
    told = json.loads(ottla("topic", "describe", "orders", "--json").out)
    assert told[0]["configs"] == {"segment.bytes": str(64 * 2**20)}
    assert len(told[0]["partitions"]) == 4
    assert ottla("topic", "delete", "orders", "--yes").code == 0
    assert ottla("topic", "delete", "orders", "--yes", "--if-exists").code == 0


def test_what_does_not_work_is_one_line_and_exit_code_1(ottla: Run) -> None:
    ottla("topic", "create", "twice")
    again = ottla("topic", "create", "twice")
    assert (again.code, again.err) == (1, "ottla: Topic 'twice' already exists.\n")
    assert ottla("topic", "create", "twice", "--if-not-exists").code == 0
    missing = ottla("topic", "describe", "nothing")
    assert (missing.code, missing.err) == (1, "ottla: There is no topic 'nothing'.\n")
    checked = ottla("topic", "create", "thought-of", "--dry-run")
    assert checked.err == "thought-of could be made\n"
    assert "thought-of" not in ottla("topic", "list").out


def test_what_is_typed_wrong_is_one_line_and_exit_code_2(ottla: Run) -> None:
    for arguments, line in [
        (("topic", "lst"), "No such command 'lst'. Did you mean 'list'?; see ottla topic --help"),
        (("topic", "create"), "Missing argument 'NAME'; see ottla topic create --help"),
        (("topic", "create", "a", "-c", "x"), "-c takes key=value, not 'x'; see ottla topic create --help"),
        (
            ("topic", "create", "a", "-c", "retention.ms=soon"),
            "retention.ms='soon' is not valid: it takes milliseconds",
        ),
        (("topic", "list", "-X", "liner.ms=3"), "Unknown key 'liner.ms'."),
        (("topic", "list", "--context", "nowhere"), "has no context 'nowhere'. It has none."),
    ]:
        done = ottla(*arguments)
        assert done.code == 2, arguments
        assert done.out == ""
        assert line in done.err
        assert done.err.count("\n") == 1


def test_deleting_asks_and_without_a_terminal_wants_to_be_told(ottla: Run, cluster: Broker) -> None:
    cluster.create_topic("kept")
    refused = ottla("topic", "delete", "kept")
    assert refused.code == 2
    assert "Say so with --yes" in refused.err
    assert "kept" in ottla("topic", "list").out


def test_records_ahead_of_a_place_are_deleted(ottla: Run, cluster: Broker) -> None:
    cluster.produce("short", [b"%d" % number for number in range(10)])
    done = ottla("topic", "delete-records", "short", "-o", "-3", "--yes", "--json")
    assert json.loads(done.out) == [{"partition": 0, "start": 7}]
    assert cluster.topic("short").values() == [b"7", b"8", b"9"]


def test_configurations_are_shown_changed_and_taken_back(ottla: Run, cluster: Broker) -> None:
    cluster.create_topic("set")
    assert ottla("config", "get", "topic", "set").lines == [["KEY", "VALUE", "SOURCE"]]
    changed = ottla("config", "set", "topic", "set", "retention.ms=2d", "cleanup.policy+=compact")
    assert changed.code == 0
    shown = ottla("config", "get", "topic", "set").lines
    assert ["retention.ms", "172800000", "dynamic-topic"] in shown
    assert any(line[0] == "cleanup.policy" and "compact" in line[1] for line in shown)
    assert ottla("config", "unset", "topic", "set", "retention.ms").code == 0
    (entry,) = json.loads(ottla("config", "get", "topic", "set", "retention.ms", "--json", "--explain").out)
    assert entry["source"] == "default"
    assert entry["documentation"]
    unknown = ottla("config", "get", "topic", "set", "retention")
    assert (unknown.code, unknown.err) == (2, "ottla: a topic has no key retention\n")
    # What was typed is wrong, whichever side finds it: a key, a value that is no duration, a value that the broker refuses.
    for pair in ("no.such=1", "retention.ms=soon", "cleanup.policy=soon"):
        assert ottla("config", "set", "topic", "set", pair).code == 2
    absent = ottla("config", "get", "topic", "absent")
    assert (absent.code, absent.err) == (1, "ottla: The topic 'absent' does not exist.\n")
    assert ottla("config", "get", "tpoic", "set").code == 2


def test_answers_are_yaml_too(ottla: Run, cluster: Broker) -> None:
    cluster.create_topic("yaml-1", configs={"retention.ms": "1h"})
    lines = ottla("topic", "describe", "yaml-1", "--output", "yaml").out.splitlines()
    assert lines[0] == "- name: yaml-1"
    assert "  configs:" in lines
    assert '    retention.ms: "3600000"' in lines
    assert "    - partition: 0" in lines
