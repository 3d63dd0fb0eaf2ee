"""`make audit`: what it finds in a database of advisories."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tools.audit import ROOT, faults_of, is_affected, pins_of

LOCK = """\
# pip-compile
Some.Package==2.0.1 \\
    --hash=sha256:aa
other==1.0 ; python_version < "3.12" \\
    --hash=sha256:bb
"""
ADVISORY = """\
id: PYSEC-1-1
modified: {when}
published: 2020-01-01T00:00:00Z
aliases: [CVE-1-1]
{more}affected:
- package: {{ecosystem: PyPI, name: some_package}}
  ranges:
  - type: GIT
    events: [{{introduced: "0"}}]
  - type: ECOSYSTEM
    events: [{{introduced: "2.0"}}, {{fixed: 2.0.2}}]
  versions: []
"""


def database(directory: Path, when: datetime, more: str = "") -> Path:
    folder = directory / "vulns" / "some-package"
    folder.mkdir(parents=True)
    (folder / "PYSEC-1-1.yaml").write_text(ADVISORY.format(when=when.strftime("%Y-%m-%dT%H:%M:%SZ"), more=more))
    return directory


def test_a_pinned_version_with_a_fault_is_named(tmp_path: Path) -> None:
    (fault,) = faults_of(pins_of(LOCK), database(tmp_path, datetime.now(UTC)))
    assert str(fault) == "some-package 2.0.1: PYSEC-1-1 (CVE-1-1), fixed in 2.0.2"


def test_what_was_withdrawn_is_none(tmp_path: Path) -> None:
    where = database(tmp_path, datetime.now(UTC), "withdrawn: 2021-01-01T00:00:00Z\n")
    assert list(faults_of(pins_of(LOCK), where)) == []


@pytest.mark.parametrize(
    ("version", "is_one"),
    [("1.9", False), ("2.0", True), ("2.1", True), ("2.5", False), ("3.0rc1", True), ("3.1", False)],
)
def test_ranges_and_lists_of_versions(version: str, is_one: bool) -> None:
    events = [{"introduced": "2.0"}, {"fixed": "2.5"}, {"introduced": "3.0a1"}, {"last_affected": "3.0"}]
    assert is_affected(version, {"ranges": [{"type": "ECOSYSTEM", "events": events}]}) == is_one
    assert is_affected("7", {"versions": ["not one", 7]})


@pytest.mark.parametrize(("when", "code"), [(datetime(2020, 1, 1, tzinfo=UTC), 2), (datetime.now(UTC), 0)])
def test_an_old_database_is_no_answer(tmp_path: Path, when: datetime, code: int) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "audit.py", database(tmp_path, when)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert ("too old" in done.stderr) == (code == 2)
    assert "0 known faults" in done.stdout


def test_a_folder_that_is_no_database_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "audit.py", tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "is no checkout of pypa/advisory-database" in done.stderr
