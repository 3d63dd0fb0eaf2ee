"""Builds the compiled kernels, and goes on without them where that is impossible.

Everything else about the package is in pyproject.toml. Each `_<module>_cy.py` becomes an optional extension beside it:
without a compiler, without Python.h or without Cython the install succeeds and the plain modules run (the ready line
says so). OTTLA_PLAIN=1 leaves the extensions out on purpose.

An extension carries the hash of the source it was made of, and of what kernels share: `@SOURCE_HASH@` in a scratch copy
of that source is replaced before Cython reads it. `ottla.compiled` compares it at import and never runs a stale one.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).parent
KERNELS = {
    "ottla.client._arrow_cy": "src/ottla/client/_arrow_cy.py",
    "ottla.client._sockets_cy": "src/ottla/client/_sockets_cy.py",
    "ottla.client._core._appending_cy": "src/ottla/client/_core/_appending_cy.py",
    "ottla.client._core._handing_cy": "src/ottla/client/_core/_handing_cy.py",
    "ottla.network._reactor_cy": "src/ottla/network/_reactor_cy.py",
    "ottla.protocol._fetch_cy": "src/ottla/protocol/_fetch_cy.py",
    "ottla.protocol._produce_cy": "src/ottla/protocol/_produce_cy.py",
    "ottla.protocol.records._records_cy": "src/ottla/protocol/records/_records_cy.py",
    "ottla.protocol.records._columns_cy": "src/ottla/protocol/records/_columns_cy.py",
    "ottla.protocol.records._tables_cy": "src/ottla/protocol/records/_tables_cy.py",
    "ottla.storage._ends_cy": "src/ottla/storage/_ends_cy.py",
}
SHARED = "src/ottla/protocol/records/_varints.pxd"


def stamped_copy(source: Path, scratch: Path) -> Path:
    """Return the path of a copy of `source` that knows its hash."""
    data, shared = source.read_bytes(), (ROOT / SHARED).read_bytes()
    scratch.mkdir(parents=True, exist_ok=True)
    update(scratch / Path(SHARED).name, shared)
    copy = scratch / source.name
    update(copy, data.replace(b"@SOURCE_HASH@", importlib.util.source_hash(shared + data).hex().encode()))
    return copy


def update(path: Path, data: bytes) -> None:
    """Write a file unless it is there as it should be: what has not changed is not built again."""
    if not path.exists() or path.read_bytes() != data:
        path.write_bytes(data)


def extensions() -> list[Extension]:
    if os.environ.get("OTTLA_PLAIN"):
        return []
    try:
        from Cython.Build import cythonize
    except ImportError:
        print("ottla: no Cython, the plain kernels will run", file=sys.stderr)
        return []
    made = []
    for name, source in KERNELS.items():
        copy = stamped_copy(ROOT / source, ROOT / "build" / "kernels")
        made.append(Extension(name, [os.path.relpath(copy, ROOT)], extra_compile_args=["-O3", "-g0"]))
    try:
        translated: list[Extension] = cythonize(  # type: ignore[no-untyped-call]
            made, quiet=True, language_level=3, include_path=[str(ROOT / "build" / "kernels")]
        )
        for extension in translated:
            # A failing compiler becomes a warning. Set here: cythonize makes new objects and forgets it.
            extension.optional = True
        return translated
    except Exception as error:  # whatever breaks here costs speed, not the install
        print(f"ottla: the kernels were not translated, the plain ones will run: {error}", file=sys.stderr)
        shutil.rmtree(ROOT / "build" / "kernels", ignore_errors=True)
        return []


setup(ext_modules=extensions())
