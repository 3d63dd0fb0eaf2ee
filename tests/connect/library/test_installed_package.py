"""A connector of a package that is installed with pip while a worker runs: it is listed, and runs, without a restart."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.connect.parity.rest_cases import Case
from tests.connect.parity.rest_parity import ask, until_it_answers
from tests.connect.test_rest import get, served, settings
from tests.connect.test_standalone import read, until
from tests.support.broker_process import RunningBroker

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "greetings-for-connect"
version = "1.0"
[project.entry-points."ottla.connectors"]
Greetings = "greetings_for_connect:Greetings"
[tool.setuptools]
py-modules = ["greetings_for_connect"]
"""
MODULE = """
from ottla.connect import ConfigDef, ConfigKey, SourceConnector, SourceRecord, SourceTask

class Greetings(SourceConnector):
    CONFIG = ConfigDef(ConfigKey(name="topic"))

    class Task(SourceTask):
        sent = False

        def poll(self):
            if self.sent:
                self.context.wait(1.0)
                return None
            self.sent = True
            return [SourceRecord(topic=self.values["topic"], value=f"hello {n}") for n in range(3)]
"""


@pytest.mark.soak
def test_a_package_that_is_installed_meanwhile(
    broker: RunningBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. The worker runs and knows no Greetings.  2. pip installs the package.  3. It is listed.  4. It runs."""
    packages, project = tmp_path / "packages", tmp_path / "project"
    packages.mkdir()
    project.mkdir()
    (project / "pyproject.toml").write_text(PROJECT)
    (project / "greetings_for_connect.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(packages))

    def classes(url: str) -> set[str]:
        return {plugin["class"] for plugin in get(url, "/connector-plugins")}

    with served(settings(broker, tmp_path)) as url:
        until_it_answers(url, tmp_path)
        assert "Greetings" not in classes(url)
        pip = [
            sys.executable,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "install",
            "--quiet",
            "--root-user-action=ignore",
        ]
        options = ["--no-deps", "--no-build-isolation", "--target", str(packages), str(project)]
        subprocess.run([*pip, *options], check=True, timeout=300)
        until(lambda: "Greetings" in classes(url), "the connector in the list")
        config = {"connector.class": "Greetings", "topic": "greetings"}
        made = ask(url, tmp_path, Case("POST", "/connectors", {"name": "hello", "config": config}))
        assert made.status == 201, made.body
        until(lambda: len(read(broker, "greetings")) == 3, "three records")
    assert [record.value for record in read(broker, "greetings")] == [b"hello 0", b"hello 1", b"hello 2"]
