"""The record kernels in use: compiled if there is a fresh extension of `_records_cy`, plain otherwise.

A changed kernel is never run stale: the extension knows the hash of the source it was made of, and one that differs
from the source beside it is not used. `STATUS` says what runs and why; the broker's ready line shows it. The check
reads one file of 25 KB, 0.1 ms. `_records_cy.py` itself is never imported: it needs the `cython` package, which is no
run-time dependency.

What each function does is written in `_records_plain`.
"""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder
from importlib.util import module_from_spec, source_hash
from types import ModuleType

from ottla.protocol.records import _records_plain

_NAME = "_records_cy"


def load(directory: str, source: bytes | None) -> tuple[ModuleType | None, str]:
    """Return (the extension found in `directory`, or None) and the status to show.

    `source` is the text it must have been made of; None where the source is not installed.
    """
    finder = FileFinder(directory, (ExtensionFileLoader, EXTENSION_SUFFIXES))
    spec = finder.find_spec(f"{__package__}.{_NAME}")
    if spec is None or spec.loader is None:
        return None, "plain: no extension built"
    try:
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError as error:
        return None, f"plain: the extension cannot be loaded: {error}"
    if source is not None and source_hash(source).hex() != module.SOURCE_HASH:
        return None, "plain: extension is stale, run make"
    return module, "compiled"


def _load_own() -> tuple[ModuleType | None, str]:
    directory = __file__.rpartition("kernels.")[0]
    try:
        source = __spec__.loader.get_data(f"{directory}{_NAME}.py")  # type: ignore[union-attr]
    except (OSError, AttributeError):
        source = None
    return load(directory, source)


_extension, STATUS = _load_own()
COMPILED = _extension is not None

check_batch = _records_plain.check_batch
check_records = _records_plain.check_records
decode_records = _records_plain.decode_records
encode_records = _records_plain.encode_records
filter_records = _records_plain.filter_records
index_keys = _records_plain.index_keys
rehash = _records_plain.rehash
if _extension is not None:
    # Assigned above for their types, replaced here.
    check_batch = _extension.check_batch
    check_records = _extension.check_records
    decode_records = _extension.decode_records
    encode_records = _extension.encode_records
    filter_records = _extension.filter_records
    index_keys = _extension.index_keys
    rehash = _extension.rehash

# Rare work, plain only: naming refused records, and rewriting those of a batch whose base timestamp moves.
rewrite_records = _records_plain.rewrite_records
walk_records = _records_plain.walk_records
