"""Finding compiled modules: a fresh extension of `_<name>_cy.py`, or none, and why.

A changed kernel is never run stale: the extension knows the hash of the source it was made of (and of what it shares
with others, `_varints.pxd`), and one that differs from the source beside it is not used. The check reads one file or
two of 25 KB, 0.1 ms. `_<name>_cy.py` itself is never imported: it needs the `cython` package, which is no run-time
dependency.

OTTLA_PLAIN=1 leaves all extensions out, here as when they are built.
"""

from __future__ import annotations

import os
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder
from importlib.util import module_from_spec, source_hash
from pathlib import Path
from types import ModuleType

#: What kernels include; `setup.py` hashes it with each of them.
SHARED = Path(__file__).parent / "protocol" / "records" / "_varints.pxd"

#: What `load` says of an extension that can be used.
COMPILED = "compiled"

_statuses: dict[str, str] = {}


def load(package: str, name: str, directory: str, source: bytes | None) -> tuple[ModuleType | None, str]:
    """Return (the extension `name` found in `directory`, or None) and the status to show.

    `source` is what it must have been made of (`source_of`); None where the source is not installed.
    """
    finder = FileFinder(directory, (ExtensionFileLoader, EXTENSION_SUFFIXES))
    spec = finder.find_spec(f"{package}.{name}")
    if spec is None or spec.loader is None:
        return None, "plain: no extension built"
    try:
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError as error:
        return None, f"plain: the extension cannot be loaded: {error}"
    if source is not None and source_hash(source).hex() != module.SOURCE_HASH:
        return None, "plain: extension is stale, run make"
    return module, COMPILED


def source_of(path: Path) -> bytes | None:
    """Return what the extension made of the file at `path` has to be made of; None where that is not installed."""
    try:
        return SHARED.read_bytes() + path.read_bytes()
    except OSError:
        return None


def load_beside(module_file: str, package: str, name: str) -> tuple[ModuleType | None, str]:
    """Do as `load`, for an extension beside the module in `module_file`."""
    directory = Path(module_file).parent
    if os.environ.get("OTTLA_PLAIN"):
        module, status = None, "plain: OTTLA_PLAIN is set"
    else:
        module, status = load(package, name, str(directory), source_of(directory / f"{name}.py"))
    _statuses[name] = status
    return module, status


def status_of_all() -> str:
    """Say what runs of what has been looked for: "compiled", or why the first extension that is not used is not."""
    return next((status for status in _statuses.values() if status != COMPILED), COMPILED)
