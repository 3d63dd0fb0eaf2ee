"""Every command line of docs/command-line.md runs, in the order of the page, against a new broker."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from ottla.testing import Broker

PAGE = Path(__file__).parents[2] / "docs" / "command-line.md"


def test_the_command_lines_of_the_page_run(tmp_path: Path) -> None:
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    assert len(lines) > 30
    (tmp_path / "ottla").write_text(f'#!/bin/sh\nexec {sys.executable} -m ottla "$@"\n')
    (tmp_path / "ottla").chmod(0o755)
    with Broker() as broker:
        environment = {
            **os.environ,
            "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
            "OTTLA_CONFIG": str(tmp_path / "config.toml"),
        }
        printed = ""
        for line in lines:
            line = line.replace("localhost:9092", broker.bootstrap_servers)
            address = {} if "context" in line else {"KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers}
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", line],
                env={**environment, **address},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, (line, done.stdout, done.stderr)
            printed += done.stdout
    assert '{"amount": 12, "who": "anna"}' in printed
