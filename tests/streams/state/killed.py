"""The files that a killed process leaves behind, while the process lives on."""

from __future__ import annotations

import shutil
from pathlib import Path

_TRIES = 100


def copy_as_killed(live: Path, found: Path) -> None:
    """Copy what another process would find in `live` if its owner were killed now.

    RocksDB compacts in threads of its own: files appear and vanish while they are copied. A copy counts when the
    folder looked the same before and after it.
    """
    for _ in range(_TRIES):
        before = _listing(live)
        try:
            shutil.copytree(live, found)
        except (shutil.Error, FileNotFoundError):
            pass
        else:
            if _listing(live) == before:
                return
        shutil.rmtree(found, ignore_errors=True)
    raise AssertionError(f"{live} changed during each of {_TRIES} copies")


def _listing(folder: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for path in folder.rglob("*"):
        try:
            about = path.lstat()
        except FileNotFoundError:
            continue
        found[str(path.relative_to(folder))] = (about.st_ino, about.st_size, about.st_mtime_ns)
    return found
