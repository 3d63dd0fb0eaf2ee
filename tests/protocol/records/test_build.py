"""setup.py: the extension is built where that is possible, and its absence never fails an install."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ottla import extensions

pytestmark = pytest.mark.compiler

REPOSITORY = Path(__file__).parents[3]
SOURCES = {
    "ottla.protocol.records._records_cy": Path("src/ottla/protocol/records/_records_cy.py"),
    "ottla.network._reactor_cy": Path("src/ottla/network/_reactor_cy.py"),
}


def build(folder: Path, **environment: str) -> set[str]:
    """Run setup.py in a scratch folder with nothing but the kernels, and return the statuses of what it built."""
    shutil.copy(REPOSITORY / "setup.py", folder)
    for source in SOURCES.values():
        (folder / source).parent.mkdir(parents=True)
        shutil.copy(REPOSITORY / source, folder / source)
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
        extensions.load(str(folder / "built" / source.relative_to("src").parent), name, (folder / source).read_bytes())[
            1
        ]
        for name, source in SOURCES.items()
    }


def test_every_kernel_is_known_here() -> None:
    assert set(SOURCES.values()) == {path.relative_to(REPOSITORY) for path in (REPOSITORY / "src").rglob("_*_cy.py")}


def test_extension_is_built_and_fresh(tmp_path: Path) -> None:
    assert build(tmp_path) == {"compiled"}


@pytest.mark.parametrize("compiler", ["/bin/false", "/nonexistent/cc"])
def test_failing_compiler_fails_no_install(tmp_path: Path, compiler: str) -> None:
    assert build(tmp_path, CC=compiler) == {"plain: no extension built"}


def test_plain_on_request(tmp_path: Path) -> None:
    assert build(tmp_path, OTTLA_PLAIN="1") == {"plain: no extension built"}
