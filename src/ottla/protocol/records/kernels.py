"""The record kernels in use: compiled if there is a fresh extension of `_records_cy`, plain otherwise.

`STATUS` says what runs and why; the broker's ready line shows it. See `ottla.compiled`. What each function does is
written in `_records_plain`.
"""

from __future__ import annotations

from ottla.compiled import load_beside
from ottla.protocol.records import _records_plain

_extension, STATUS = load_beside(__file__, __package__, "_records_cy")
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
