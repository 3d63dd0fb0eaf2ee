"""`ottla user`: users with passwords."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Run


def test_a_user_is_made_listed_changed_and_deleted(ottla: Run, tmp_path: Path) -> None:
    (tmp_path / "p").write_text("wonder\n")
    password = ("--password-file", str(tmp_path / "p"))
    made = ottla("user", "create", "alice", *password, "-m", "scram-sha-256", "-m", "SCRAM-SHA-512")
    assert (made.code, made.out) == (0, "")
    assert "wonder" not in made.err
    listed = json.loads(ottla("user", "list", "--json").out)
    assert listed == [
        {"user": "alice", "mechanism": "SCRAM-SHA-256", "iterations": 8192},
        {"user": "alice", "mechanism": "SCRAM-SHA-512", "iterations": 8192},
    ]
    assert "there is a user alice already" in ottla("user", "create", "alice", *password).err
    assert ottla("user", "passwd", "alice", *password, "--iterations", "4096").code == 0
    assert {row["iterations"] for row in json.loads(ottla("user", "list", "--json").out)} == {4096}
    assert ottla("user", "delete", "alice", "-m", "SCRAM-SHA-256", "--yes").code == 0
    assert ["alice", "SCRAM-SHA-512", "4096"] in ottla("user", "list").lines
    assert ottla("user", "delete", "alice", "--yes").code == 0
    assert json.loads(ottla("user", "list", "--json").out) == []


def test_what_does_not_work_is_one_line(ottla: Run, tmp_path: Path) -> None:
    unknown = ottla("user", "delete", "nobody", "--yes")
    assert (unknown.code, unknown.err.count("\n")) == (1, 1)
    asked = ottla("user", "create", "bob")
    assert asked.code == 2
    assert "--password-file" in asked.err
    assert ottla("user", "create", "bob", "--generate").code == 2
    (tmp_path / "there").write_text("")
    done = ottla("user", "create", "bob", "--client-file", str(tmp_path / "there"))
    assert "is there already" in done.err
    assert json.loads(ottla("user", "list", "--json").out) == []


def test_a_client_file_of_a_plain_connection_has_no_tls(ottla: Run, tmp_path: Path) -> None:
    path = tmp_path / "carol.properties"
    assert ottla("user", "create", "carol", "--client-file", str(path)).code == 0
    assert "security.protocol=SASL_PLAINTEXT" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert ottla("user", "delete", "carol", "--yes").code == 0
