"""CRC-32C (Castagnoli), the checksum of every batch and producer snapshot.

The `crc32c` package imports `importlib.metadata` only to learn its own version, which costs 45 ms of a start that aims
at 300. So its extension module is loaded directly, and the package only if that fails. Speed: 112 ns for 128 bytes,
24 GB/s for large buffers; every contiguous buffer is taken without a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import TypeAlias, cast

Buffer: TypeAlias = bytes | bytearray | memoryview


def _load() -> Callable[[Buffer], int]:
    try:
        # find_spec of a top-level package reads no code of it.
        package = find_spec("crc32c")
        locations = package.submodule_search_locations if package is not None else None
        spec = PathFinder.find_spec("crc32c._crc32c", locations)
        if spec is not None and spec.loader is not None:
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
            return cast("Callable[[Buffer], int]", module.crc32c)
    except (ImportError, AttributeError, ValueError):
        pass
    from crc32c import crc32c as function

    return function


#: Return the CRC-32C of a contiguous buffer as an unsigned 32-bit number.
crc32c: Callable[[Buffer], int] = _load()
