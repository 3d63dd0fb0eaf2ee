"""Connectors of other packages, installed by pip while a worker runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.connect.parity.rest_cases import Case
from tests.connect.parity.rest_parity import ask
from tests.connect.test_rest import get, served, settings
from tests.connect.test_standalone import read, until
from tests.support.broker_process import RunningBroker

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "ottla-connect-squares"
version = "1.2"
[project.entry-points."ottla.connectors"]
Squares = "squares:Squares"
"""
MODULE = """
from ottla.connect import ConfigDef, ConfigKey, SourceConnector, SourceRecord, SourceTask

class Squares(SourceConnector):
    CONFIG = ConfigDef(ConfigKey(name="topic"))
    VERSION = "1.2"
    class Task(SourceTask):
        def start(self):
            self.next = (self.context.offset({"part": 1}) or {"at": 0})["at"]
        def poll(self):
            if self.next >= 3:
                self.context.wait(0.1)
                return None
            self.next += 1
            return [SourceRecord(topic=self.values["topic"], value=str(self.next ** 2),
                                 source_partition={"part": 1}, source_offset={"at": self.next})]
"""


def test_a_package_that_pip_installs_runs_without_a_restart(
    broker: RunningBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. A worker runs, which does not know the connector.  2. pip builds and installs its package.  3. It is listed, and
    its records are in the topic."""
    packages, project = tmp_path / "site-packages", tmp_path / "project"
    packages.mkdir()
    project.mkdir()
    (project / "pyproject.toml").write_text(PROJECT)
    (project / "squares.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(packages))
    connector = {"name": "squares", "config": {"connector.class": "Squares", "topic": "squares"}}
    with served(settings(broker, tmp_path)) as url:
        assert ask(url, tmp_path, Case("POST", "/connectors", json.dumps(connector))).status == 400
        assert "Squares" not in [row["class"] for row in get(url, "/connector-plugins")]
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-index", "--no-deps"]
        command = [*pip, "--no-build-isolation", "--target", str(packages), str(project)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        assert {"class": "Squares", "type": "source", "version": "1.2"} in get(url, "/connector-plugins")
        assert ask(url, tmp_path, Case("POST", "/connectors", json.dumps(connector))).status == 201
        until(lambda: [record.value for record in read(broker, "squares")] == [b"1", b"4", b"9"], "the records")
