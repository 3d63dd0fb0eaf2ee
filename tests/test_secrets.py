"""Where secrets come from."""

from __future__ import annotations

import ast
import os
from pathlib import Path

from ottla.broker.wiring.machine import machine

SOURCE = Path(__file__).parents[1] / "src" / "ottla"


def test_no_secret_from_random() -> None:
    """A real machine's secrets are the system's; nothing under `security` imports `random`."""
    around = machine()
    assert around.secret_bytes is os.urandom
    around.offload.close()
    for path in (SOURCE / "security").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            modules = [*names, node.module] if isinstance(node, ast.ImportFrom) else names
            assert "random" not in modules, f"{path} imports random"
