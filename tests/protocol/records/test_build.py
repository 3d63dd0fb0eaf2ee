"""setup.py: the extension is built where that is possible, and its absence never fails an install."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ottla import compiled

pytestmark = pytest.mark.compiler

REPOSITORY = Path(__file__).parents[3]
RECORDS = Path("src/ottla/protocol/records")
KERNELS = ["_columns_cy", "_records_cy"]


def build(folder: Path, **environment: str) -> set[str]:
    """Run setup.py in a scratch folder with nothing but the kernels, and return the statuses of what it built."""
    (folder / RECORDS).mkdir(parents=True)
    shutil.copy(REPOSITORY / "setup.py", folder)
    for name in ("_varints.pxd", *(f"{kernel}.py" for kernel in KERNELS)):
        shutil.copy(REPOSITORY / RECORDS / name, folder / RECORDS / name)
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
    return {
        compiled.load(
            "ottla.protocol.records",
            kernel,
            str(folder / "built/ottla/protocol/records"),
            compiled.source_of(folder / RECORDS / f"{kernel}.py"),
        )[1]
        for kernel in KERNELS
    }


def test_extension_is_built_and_fresh(tmp_path: Path) -> None:
    assert build(tmp_path) == {"compiled"}


@pytest.mark.parametrize("compiler", ["/bin/false", "/nonexistent/cc"])
def test_failing_compiler_fails_no_install(tmp_path: Path, compiler: str) -> None:
    assert build(tmp_path, CC=compiler) == {"plain: no extension built"}


def test_plain_on_request(tmp_path: Path) -> None:
    assert build(tmp_path, OTTLA_PLAIN="1") == {"plain: no extension built"}
