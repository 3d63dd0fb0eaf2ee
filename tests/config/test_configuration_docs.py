from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_tables_say() -> None:
    tool = ROOT / "tools" / "generate_configuration_docs.py"
    done = subprocess.run(
        [sys.executable, tool, "--check"], cwd=ROOT / "src", capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
