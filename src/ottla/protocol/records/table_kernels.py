"""The table kernels in use: compiled if there is a fresh extension of `_tables_cy`, plain otherwise.

What each function does is written in `_tables_plain`.
"""

from __future__ import annotations

from ottla.compiled import load_beside
from ottla.protocol.records import _tables_plain

_extension, STATUS = load_beside(__file__, __package__, "_tables_cy")
COMPILED = _extension is not None

encode_rows = _tables_plain.encode_rows
order_rows = _tables_plain.order_rows
partition_rows = _tables_plain.partition_rows
if _extension is not None:
    # Assigned above for their types, replaced here.
    encode_rows = _extension.encode_rows
    order_rows = _extension.order_rows
    partition_rows = _extension.partition_rows
