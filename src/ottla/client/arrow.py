"""Columns of a batch for Arrow libraries, through the PyCapsule interface: their addresses, and when they may be reused.

Arrow's C data interface is two structures with pointers; whoever takes them over calls `release` once it is done. What a
structure points to is kept in `_kept` until then, the slab of the batch with it. ctypes makes the structures, so that it
works without a compiler, too; `_arrow_cy` has the functions that libraries call, which may be in the middle of errors. No
Arrow library is imported.

Source: https://arrow.apache.org/docs/format/CDataInterface.html, CStreamInterface and PyCapsuleInterface.
"""

from __future__ import annotations

import ctypes
import sys
from array import array
from collections.abc import Sequence
from itertools import count
from threading import Lock
from typing import Any, Final

from ottla.client.columns import Columns
from ottla.compiled import load_beside
from ottla.protocol.records._columns_plain import read_headers

_NULLABLE: Final = 2


class ArrowSchema(ctypes.Structure):
    """`struct ArrowSchema`."""


class ArrowArray(ctypes.Structure):
    """`struct ArrowArray`."""


class ArrowArrayStream(ctypes.Structure):
    """`struct ArrowArrayStream`."""


_Release = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
ArrowSchema._fields_ = [
    ("format", ctypes.c_char_p),
    ("name", ctypes.c_char_p),
    ("metadata", ctypes.c_char_p),
    ("flags", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("children", ctypes.POINTER(ctypes.POINTER(ArrowSchema))),
    ("dictionary", ctypes.POINTER(ArrowSchema)),
    ("release", ctypes.c_void_p),
    ("private_data", ctypes.c_void_p),
]
ArrowArray._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(ArrowArray))),
    ("dictionary", ctypes.POINTER(ArrowArray)),
    ("release", ctypes.c_void_p),
    ("private_data", ctypes.c_void_p),
]
_GetSchema = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_GetLastError = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
ArrowArrayStream._fields_ = [
    ("get_schema", ctypes.c_void_p),
    ("get_next", ctypes.c_void_p),
    ("get_last_error", ctypes.c_void_p),
    ("release", ctypes.c_void_p),
    ("private_data", ctypes.c_void_p),
]

#: (name, format, children).
Field = tuple[bytes, bytes, tuple[Any, ...]]
_FIELDS: Final[tuple[Field, ...]] = (
    (b"topic", b"U", ()),
    (b"partition", b"i", ()),
    (b"offset", b"l", ()),
    (b"timestamp", b"tsm:UTC", ()),
    (b"key", b"Z", ()),
    (b"value", b"Z", ()),
    (b"headers", b"+L", ((b"item", b"+s", ((b"name", b"U", ()), (b"value", b"Z", ()))),)),
)
_ROOT: Final[Field] = (b"", b"+s", _FIELDS)

_extension, STATUS = load_beside(__file__, __package__, "_arrow_cy")

#: What a structure points to, by the number in its `private_data`.
_kept: dict[int, object] = _extension.KEPT if _extension is not None else {}
_numbers = count(1)


# ------------------------------------------------------------------------------------------------ releasing


def _address(function: Any) -> int | None:
    return ctypes.cast(function, ctypes.c_void_p).value


def _releasing(kind: type[ctypes.Structure]) -> int | None:
    """Return the address of a function that releases a structure: first its children that nobody has taken over."""

    @_Release  # type: ignore[untyped-decorator]
    def release(address: int) -> None:
        one: Any = kind.from_address(address)
        for number in range(getattr(one, "n_children", 0)):
            child = one.children[number].contents
            if child.release:
                release(ctypes.addressof(child))
        one.release = None
        _kept.pop(one.private_data, None)

    # An Arrow library may call it while the interpreter ends, after this module was cleared: it is never freed.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(release))
    return _address(release)


if _extension is not None:
    _release_schema, _release_array, _release_stream = _extension.addresses()
else:
    _release_schema, _release_array, _release_stream = map(_releasing, (ArrowSchema, ArrowArray, ArrowArrayStream))

_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
#: The names have to stay where they are as long as a capsule does.
_SCHEMA, _ARRAY, _STREAM = b"arrow_schema", b"arrow_array", b"arrow_array_stream"

#: Capsules and the structures in them. A capsule has no destructor of ours, for the same reason as above: one that nothing
#: refers to any more is found here when the next one is made.
_capsules: list[tuple[object, ctypes.Structure]] = []
_lock = Lock()
#: References to a capsule that are ours: from the tuple, the variable, and the argument of `getrefcount`.
_OWN_REFERENCES: Final = 3


def _capsule(one: Any, name: bytes) -> object:
    capsule = _new_capsule(ctypes.addressof(one), name, None)
    with _lock:
        forgotten = []
        for entry in _capsules:
            known, _ = entry
            if sys.getrefcount(known) <= _OWN_REFERENCES:
                forgotten.append(entry)
        for entry in forgotten:
            _capsules.remove(entry)
        _capsules.append((capsule, one))
    for _, left in forgotten:
        _release_left(left)
    return capsule


def _release_left(one: Any) -> None:
    """Release a structure that was in a capsule, unless it was taken over."""
    if one.release:
        _Release(one.release)(ctypes.addressof(one))


def _keep(one: Any, release: Any, *things: object) -> None:
    """Note what a structure points to, and how it is released."""
    number = next(_numbers)
    _kept[number] = things
    one.private_data = number
    one.release = release


# ------------------------------------------------------------------------------------------------ schema


def export_schema() -> object:
    """Return the schema of batches in a capsule."""
    return _capsule(_schema(_ROOT), _SCHEMA)


def _schema(field: Field, into: Any = None) -> ArrowSchema:
    name, kind, children = field
    one: Any = ArrowSchema() if into is None else into
    ctypes.memset(ctypes.addressof(one), 0, ctypes.sizeof(one))  # `into` is memory of the caller's
    one.format, one.name, one.flags, one.n_children = kind, name, _NULLABLE, len(children)
    made = [_schema(child) for child in children]
    pointers = (ctypes.POINTER(ArrowSchema) * len(made))(*map(ctypes.pointer, made))
    one.children = ctypes.cast(pointers, ctypes.POINTER(ctypes.POINTER(ArrowSchema)))
    _keep(one, _release_schema, made, pointers, field)
    return one  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------------------ array


def export_array(columns: Columns[Any, Any]) -> tuple[object, object]:
    """Return (schema, array) of a batch in capsules."""
    return export_schema(), _capsule(_batch(columns), _ARRAY)


def _batch(columns: Columns[Any, Any], into: Any = None) -> ArrowArray:
    rows = len(columns)
    slab = columns.slab
    offsets, timestamps, key_ends, key_bits, keys, value_ends, value_bits, values, _, _ = slab.buffers
    children = [
        _topics(columns),
        _array(rows, [None, _partitions(columns)]),
        _array(rows, [None, offsets], slab=slab),
        _array(rows, [_times_bits(columns), timestamps], slab=slab),
        _array(rows, [key_bits, key_ends, keys], slab=slab),
        _array(rows, [value_bits, value_ends, values], slab=slab),
        _headers(columns),
    ]
    return _array(rows, [None], children, into=into)


def _array(
    rows: int,
    buffers: Sequence[bytearray | array[int] | None],
    children: Sequence[ArrowArray] = (),
    *,
    slab: object = None,
    into: Any = None,
) -> ArrowArray:
    """Return an array over buffers; the first is its validity, and None where nothing is null."""
    one: Any = ArrowArray() if into is None else into
    ctypes.memset(ctypes.addressof(one), 0, ctypes.sizeof(one))
    held = [None if buffer is None else (ctypes.c_char * _size(buffer)).from_buffer(buffer) for buffer in buffers]
    addresses = (ctypes.c_void_p * len(held))(*(None if part is None else ctypes.addressof(part) for part in held))
    pointers = (ctypes.POINTER(ArrowArray) * len(children))(*map(ctypes.pointer, children))
    one.length, one.null_count, one.offset = rows, -1 if buffers[0] is not None else 0, 0
    one.n_buffers, one.n_children = len(held), len(children)
    one.buffers = ctypes.cast(addresses, ctypes.POINTER(ctypes.c_void_p))
    one.children = ctypes.cast(pointers, ctypes.POINTER(ctypes.POINTER(ArrowArray)))
    # Forgotten from the last to the first: the slab goes when nothing points into it any more.
    _keep(one, _release_array, slab, held, addresses, children, pointers)
    return one  # type: ignore[no-any-return]


def _size(buffer: bytearray | array[int]) -> int:
    return len(buffer) * (buffer.itemsize if isinstance(buffer, array) else 1)


def _topics(columns: Columns[Any, Any]) -> ArrowArray:
    text = bytearray()
    lengths: set[int] = set()
    for first, last, source in columns.spans():
        name = source.topic.encode()
        lengths.add(len(name))
        text += name * (last - first)
    if len(lengths) <= 1:
        ends = _steps(lengths.pop() if lengths else 0, len(columns))
    else:
        ends = array("q", [0])
        for first, last, source in columns.spans():
            length, start = len(source.topic.encode()), ends[-1]
            ends.extend(range(start + length, start + length * (last - first) + 1, length))
    return _array(len(columns), [None, ends, text or bytearray(1)])


#: Ends of strings of one length, by that length: most batches are of one topic.
_ends: dict[int, array[int]] = {}


def _steps(length: int, rows: int) -> array[int]:
    """Return 0, `length`, `2 * length`, ..., for so many rows; at least so many."""
    known = _ends.get(length)
    if known is None or len(known) <= rows:
        if len(_ends) > 100:
            _ends.clear()
        many = 1 << max(rows, 1024).bit_length()
        known = _ends[length] = array("q", (length * row for row in range(many + 1)))
    return known


def _partitions(columns: Columns[Any, Any]) -> array[int]:
    numbers = array("i")
    for first, last, source in columns.spans():
        numbers.extend(array("i", [source.partition]) * (last - first))
    return numbers


def _times_bits(columns: Columns[Any, Any]) -> bytearray | None:
    """Return the validity of timestamps; None if all are there. -1 is none, as in format 0."""
    rows = len(columns)
    times = memoryview(columns.slab.buffers[1]).cast("q")[:rows]
    if columns.all_timed:
        return None
    bits = bytearray(-(-rows // 8))
    for row, time in enumerate(times):
        if time != -1:
            bits[row >> 3] |= 1 << (row & 7)
    return bits


def _headers(columns: Columns[Any, Any]) -> ArrowArray:
    rows, used = len(columns), columns.used[3]
    ends = memoryview(columns.slab.buffers[8]).cast("q")
    data = columns.slab.buffers[9]
    counts = array("q", bytes(8 * (rows + 1)))
    name_ends, value_ends = array("q", [0]), array("q", [0])
    names, values = bytearray(), bytearray()
    valid: list[bool] = []
    if used:
        for row in range(rows):
            if ends[row + 1] > ends[row]:
                for name, value in read_headers(data, ends[row], ends[row + 1]):
                    names += name.encode()
                    name_ends.append(len(names))
                    values += value or b""
                    value_ends.append(len(values))
                    valid.append(value is not None)
            counts[row + 1] = len(valid)
    bits = bytearray(-(-len(valid) // 8) or 1)
    for place, there in enumerate(valid):
        bits[place >> 3] |= there << (place & 7)
    pair = _array(
        len(valid),
        [None],
        [
            _array(len(valid), [None, name_ends, names or bytearray(1)]),
            _array(len(valid), [bits, value_ends, values or bytearray(1)]),
        ],
    )
    return _array(rows, [None, counts], [pair])


# ------------------------------------------------------------------------------------------------ stream


def export_stream(columns: Columns[Any, Any]) -> object:
    """Return a stream in a capsule that yields the batch once."""
    left = [columns]

    @_GetSchema  # type: ignore[untyped-decorator]
    def get_schema(_: int, into: int) -> int:
        _schema(_ROOT, ArrowSchema.from_address(into))
        return 0

    @_GetSchema  # type: ignore[untyped-decorator]
    def get_next(_: int, into: int) -> int:
        one: Any = ArrowArray.from_address(into)
        if left:
            _batch(left.pop(), one)
        else:
            one.release = None
        return 0

    @_GetLastError  # type: ignore[untyped-decorator]
    def get_last_error(_: int) -> None:
        return None

    stream: Any = ArrowArrayStream()
    stream.get_schema, stream.get_next = _address(get_schema), _address(get_next)
    stream.get_last_error = _address(get_last_error)
    _keep(stream, _release_stream, get_schema, get_next, get_last_error)
    return _capsule(stream, _STREAM)
