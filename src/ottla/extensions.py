"""Compiled modules: what was made by the compiler of each `_<name>_cy.py`, if it was made of the source that lies there.

A changed source is never run stale: an extension knows the hash of the source it was made of, and one that differs from
the source beside it is not used. The check reads one file, 0.1 ms. A `_<name>_cy.py` itself is never imported: it needs the
`cython` package, which is no run-time dependency. What runs instead each user of this module knows.

OTTLA_PLAIN=1 leaves all extensions out, here as when they are built.
"""

from __future__ import annotations

import os
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder
from importlib.util import module_from_spec, source_hash
from types import ModuleType

COMPILED = "compiled"

_statuses: dict[str, str] = {}


def load(directory: str, name: str, source: bytes | None) -> tuple[ModuleType | None, str]:
    """Return (the extension found in `directory`, or None) and the status to show.

    Args:
        name: of the module, with its packages.
        source: the text it must have been made of; None where the source is not installed.
    """
    finder = FileFinder(directory, (ExtensionFileLoader, EXTENSION_SUFFIXES))
    spec = finder.find_spec(name)
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


def load_beside(user: str, package: str, name: str) -> tuple[ModuleType | None, str]:
    """Return the extension `name` beside the module whose file is `user`, or None, and the status to show."""
    directory = os.path.dirname(user)
    if os.environ.get("OTTLA_PLAIN"):
        module, status = None, "plain: OTTLA_PLAIN is set"
    else:
        source: bytes | None = None
        try:
            with open(os.path.join(directory, f"{name}.py"), "rb") as file:
                source = file.read()
        except OSError:
            pass
        module, status = load(directory, f"{package}.{name}", source)
    _statuses[name] = status
    return module, status


def status() -> str:
    """Say what runs: "compiled", or "plain: " and why, of the first extension that is not used."""
    return next((status for status in _statuses.values() if status != COMPILED), COMPILED)
