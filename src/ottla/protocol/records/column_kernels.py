"""The column kernels in use: compiled if there is a fresh extension of `_columns_cy`, plain otherwise.

Beside `kernels`, so that a broker, which has no columns, does not load them. What each function does is written in
`_columns_plain`.
"""

from __future__ import annotations

from ottla.compiled import load_beside
from ottla.protocol.records import _columns_plain

_extension, STATUS = load_beside(__file__, __package__, "_columns_cy")
COMPILED = _extension is not None

append_batches = _columns_plain.append_batches
append_records = _columns_plain.append_records
make_rows = _columns_plain.make_rows
if _extension is not None:
    # Assigned above for their types, replaced here.
    append_batches = _extension.append_batches
    append_records = _extension.append_records
    make_rows = _extension.make_rows
