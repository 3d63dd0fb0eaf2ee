"""setup.py: the extension is built where that is possible, and its absence never fails an install."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ottla.protocol.records import kernels

pytestmark = pytest.mark.compiler

REPOSITORY = Path(__file__).parents[3]
SOURCE = Path("src/ottla/protocol/records/_records_cy.py")


def build(folder: Path, **environment: str) -> str:
    """Run setup.py in a scratch folder with nothing but the kernel, and return the status of what it built."""
    (folder / SOURCE).parent.mkdir(parents=True)
    shutil.copy(REPOSITORY / "setup.py", folder)
    shutil.copy(REPOSITORY / SOURCE, folder / SOURCE)
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", "built"],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return kernels.load(str(folder / "built/ottla/protocol/records"), (folder / SOURCE).read_bytes())[1]


def test_extension_is_built_and_fresh(tmp_path: Path) -> None:
    assert build(tmp_path) == "compiled"


@pytest.mark.parametrize("compiler", ["/bin/false", "/nonexistent/cc"])
def test_failing_compiler_fails_no_install(tmp_path: Path, compiler: str) -> None:
    assert build(tmp_path, CC=compiler) == "plain: no extension built"


def test_plain_on_request(tmp_path: Path) -> None:
    assert build(tmp_path, OTTLA_PLAIN="1") == "plain: no extension built"
