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
KERNELS = [path.relative_to(REPOSITORY) for path in (REPOSITORY / "src").rglob("_*_cy.py")]
SHARED = compiled.SHARED.relative_to(REPOSITORY)


def build(folder: Path, **environment: str) -> set[str]:
    """Run setup.py in a scratch folder with nothing but the kernels, and return the statuses of what it built."""
    shutil.copy(REPOSITORY / "setup.py", folder)
    for path in SHARED, *KERNELS:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / path, folder / path)
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
    statuses: set[str] = set()
    for kernel in KERNELS:
        package = kernel.relative_to("src").parent
        source = compiled.source_of(folder / kernel)
        statuses.add(compiled.load(".".join(package.parts), kernel.stem, str(folder / "built" / package), source)[1])
    return statuses


def test_extension_is_built_and_fresh(tmp_path: Path) -> None:
    assert build(tmp_path) == {"compiled"}


@pytest.mark.parametrize("compiler", ["/bin/false", "/nonexistent/cc"])
def test_failing_compiler_fails_no_install(tmp_path: Path, compiler: str) -> None:
    assert build(tmp_path, CC=compiler) == {"plain: no extension built"}


def test_plain_on_request(tmp_path: Path) -> None:
    assert build(tmp_path, OTTLA_PLAIN="1") == {"plain: no extension built"}
