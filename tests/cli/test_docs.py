"""Every command line of docs/command-line.md runs, in the order of the page, against a new broker."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.client.conftest import make_broker

from ottla.cli.main import main
from ottla.testing import Broker

PAGE = Path(__file__).parents[2] / "docs" / "command-line.md"


@pytest.mark.parametrize("kind", ["ottla", pytest.param("kafka", marks=pytest.mark.kafka)])
def test_the_command_lines_of_the_page_run(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    assert len(lines) > 30
    (tmp_path / "ottla").write_text(f'#!/bin/sh\nexec {sys.executable} -m ottla "$@"\n')
    (tmp_path / "ottla").chmod(0o755)
    monkeypatch.chdir(tmp_path)  # where files go that commands write
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with ExitStack() as stack:
        if kind == "kafka":
            process = make_broker("kafka")
            stack.callback(process.close)
            process.start()
            address = process.address
        else:
            address = stack.enter_context(Broker()).bootstrap_servers
        for line in lines:
            line = line.replace("localhost:9092", address)
            if "context" in line:
                monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
            else:
                monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", address)
            if "|" in line:
                code = subprocess.run(["bash", "-o", "pipefail", "-c", line], timeout=60, check=False).returncode
            else:
                code = main(shlex.split(line)[1:])
            assert code == 0, (line, capfd.readouterr())
    assert '{"amount": 12, "who": "anna"}' in capfd.readouterr().out
