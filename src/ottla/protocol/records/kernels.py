"""The record kernels in use: compiled if there is a fresh extension, plain otherwise."""

from __future__ import annotations

from ottla.protocol.records import _records_plain as _kernel

COMPILED = False
STATUS = "plain: no extension built"

check_records = _kernel.check_records
decode_records = _kernel.decode_records
encode_records = _kernel.encode_records
filter_records = _kernel.filter_records
index_keys = _kernel.index_keys
rehash = _kernel.rehash
rewrite_records = _kernel.rewrite_records
walk_records = _kernel.walk_records
