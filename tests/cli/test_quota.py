"""`ottla quota`."""

from __future__ import annotations

import json

from tests.cli.conftest import Run


def test_limits_are_set_listed_and_deleted(ottla: Run) -> None:
    made = ottla("quota", "set", "--client-id", "loader", "producer_byte_rate=10MiB", "request_percentage=12.5")
    assert (made.code, made.out, made.err) == (0, "", "client-id loader: changed\n")
    assert ottla("quota", "set", "--user", "a b/c", "--client-id-default", "consumer_byte_rate=5").code == 0
    assert ottla("quota", "set", "--ip-default", "connection_creation_rate=7").code == 0
    listed = ottla("quota", "list")
    assert listed.lines[0] == ["USER", "CLIENT-ID", "IP", "LIMIT", "VALUE"]
    assert ["-", "loader", "-", "producer_byte_rate", "10485760"] in listed.lines
    assert ["-", "loader", "-", "request_percentage", "12.5"] in listed.lines
    told = json.loads(ottla("quota", "list", "--user", "a b/c", "--client-id-default", "--json").out)
    assert told == [{"user": "a b/c", "client-id": "(default)", "ip": "", "limit": "consumer_byte_rate", "value": "5"}]
    gone = ottla("quota", "delete", "--client-id", "loader", "producer_byte_rate")
    assert gone.err == "client-id loader: without producer_byte_rate\n"
    assert ottla("quota", "delete", "--client-id", "loader").err == "client-id loader: without request_percentage\n"
    again = ottla("quota", "delete", "--client-id", "loader")
    assert (again.code, again.err) == (1, "ottla: client-id loader: there are no limits\n")
    assert ottla("quota", "delete", "--user", "a b/c", "--client-id-default").code == 0
    assert ottla("quota", "delete", "--ip-default").code == 0


def test_what_is_typed_wrong_is_one_line(ottla: Run) -> None:
    for arguments, line in [
        (("set", "producer_byte_rate=1"), "say whose: --user, --client-id, --ip, or one of their defaults"),
        (("set", "--user", "a", "byte_rate=1"), "there is no limit 'byte_rate'"),
        (("set", "--user", "a", "producer_byte_rate=fast"), "producer_byte_rate takes a number, not 'fast'"),
        (("set", "--user", "a", "request_percentage=fast"), "request_percentage takes a number, not 'fast'"),
        (("set", "--user", "a", "request_percentage=0"), "request_percentage is more than 0"),
        (("set", "--user", "a", "--ip", "10.0.0.1", "request_percentage=1"), "--ip stands alone"),
        (("set", "--user", "a", "--user-default", "request_percentage=1"), "exclude each other"),
    ]:
        done = ottla("quota", *arguments)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), arguments
        assert line in done.err
    refused = ottla("quota", "set", "--ip", "10.0.0.1", "producer_byte_rate=1")
    assert (refused.code, refused.err) == (1, "ottla: Invalid configuration key producer_byte_rate\n")
