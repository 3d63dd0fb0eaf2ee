"""The fixture in a project of somebody else's: every block of docs/testing.md is a test file of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_blocks_of_the_page_pass_as_tests(tmp_path: Path) -> None:
    programs = [block for block in BLOCKS if "def test_" not in block]
    tests = [block for block in BLOCKS if "def test_" in block]
    assert len(tests) == 5
    for number, block in enumerate(tests):
        (tmp_path / f"test_block{number}.py").write_text(block)
    plugins = ["-p", "ottla.testing.pytest_plugin", "-p", "no:cacheprovider", "-p", "no:asyncio", "-p", "no:xdist"]
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", *plugins]
    done = subprocess.run([*command, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout
    (program,) = programs
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "[b'a', b'b', b'c']" in done.stdout, done.stderr


def test_who_does_not_use_the_fixture_does_not_pay_for_it() -> None:
    script = (
        "import sys, ottla.testing.pytest_plugin, ottla.testing\n"
        "assert not [m for m in sys.modules if m.startswith(('ottla.broker', 'ottla.client', 'ottla.protocol'))]"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
