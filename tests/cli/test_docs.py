"""Every command line of docs/command-line.md runs, in the order of the page, against a new broker."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ottla.cli.main import main
from ottla.testing import Broker

PAGE = Path(__file__).parents[2] / "docs" / "command-line.md"


def test_the_command_lines_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    assert len(lines) > 30
    (tmp_path / "ottla").write_text(f'#!/bin/sh\nexec {sys.executable} -m ottla "$@"\n')
    (tmp_path / "ottla").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with Broker() as broker:
        for line in lines:
            line = line.replace("localhost:9092", broker.bootstrap_servers)
            if "context" in line:
                monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
            else:
                monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", broker.bootstrap_servers)
            if "|" in line:
                code = subprocess.run(["bash", "-o", "pipefail", "-c", line], timeout=60, check=False).returncode
            else:
                code = main(shlex.split(line)[1:])
            assert code == 0, (line, capfd.readouterr())
    assert '{"amount": 12, "who": "anna"}' in capfd.readouterr().out
