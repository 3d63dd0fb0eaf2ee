"""Tables of Arrow libraries, through the PyCapsule interface: their columns, where they lie, without a copy.

Anything that has `__arrow_c_stream__` or `__arrow_c_array__`: pyarrow, polars, pandas, duckdb, our own batches. Only the
columns that are asked for are looked at.

Source: https://arrow.apache.org/docs/format/CDataInterface.html and CStreamInterface.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from ottla.client.arrow import ArrowArray, ArrowArrayStream, ArrowSchema
from ottla.protocol.records._tables_plain import Column, item

#: Formats of bytes and text: how wide their ends are, or 16 for views.
_BYTES: Final = {"z": 4, "u": 4, "Z": 8, "U": 8, "vz": 16, "vu": 16}
#: Formats of numbers, as `memoryview.cast` knows them.
_NUMBERS: Final[dict[str, Any]] = {
    "c": "b",
    "C": "B",
    "s": "h",
    "S": "H",
    "i": "i",
    "I": "I",
    "l": "q",
    "L": "Q",
    "f": "f",
    "g": "d",
}
#: How many of a timestamp's unit are a millisecond; below 1, how many milliseconds one is.
_UNITS: Final = {"tss": 0.001, "tsm": 1, "tsu": 1000, "tsn": 1_000_000}

_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_Release = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_Get = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_LastError = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p)


class Part(NamedTuple):
    """One column of one piece of a table: `rows` items from `shift` on.

    Attributes:
        format: Arrow's name of the type.
        buffers: the buffers' memory; a first one of None says that nothing is null.
    """

    format: str
    rows: int
    shift: int
    buffers: list[memoryview | None]
    children: tuple[Part, ...]

    @property
    def valid(self) -> memoryview | None:
        return self.buffers[0] if self.buffers else None

    def is_null(self, row: int) -> bool:
        valid = self.valid
        at = row + self.shift
        return valid is not None and not valid[at >> 3] >> (at & 7) & 1


def pieces(table: Any, wanted: list[str]) -> Iterator[tuple[int, dict[str, Part]]]:
    """Yield (rows, the wanted columns by name) of each piece of a table; valid until the next one is asked for.

    Raises:
        TypeError: it is no table, or a piece cannot be had.
        KeyError: there is no such column.
    """
    if hasattr(table, "__arrow_c_stream__"):
        yield from _stream(table.__arrow_c_stream__(), wanted)
    elif hasattr(table, "__arrow_c_array__"):
        schema, array = table.__arrow_c_array__()
        one = _taken(ArrowArray, _pointer(array, b"arrow_array"))
        try:
            yield _columns(_taken_schema(schema), one, wanted)
        finally:
            _release(one)
    else:
        raise TypeError(
            "a table has Arrow's PyCapsule interface (pyarrow, polars, pandas from 2.2, duckdb), "
            f"{type(table).__name__} does not"
        )


def _stream(capsule: object, wanted: list[str]) -> Iterator[tuple[int, dict[str, Part]]]:
    stream = _taken(ArrowArrayStream, _pointer(capsule, b"arrow_array_stream"))
    schema: Any = ArrowSchema()
    try:
        _check(stream, _Get(stream.get_schema)(ctypes.addressof(stream), ctypes.addressof(schema)))
        while True:
            array: Any = ArrowArray()
            _check(stream, _Get(stream.get_next)(ctypes.addressof(stream), ctypes.addressof(array)))
            if not array.release:
                return
            try:
                yield _columns(schema, array, wanted)
            finally:
                _release(array)
    finally:
        _release(schema)
        _release(stream)


def _check(stream: Any, code: int) -> None:
    if code:
        said = _LastError(stream.get_last_error)(ctypes.addressof(stream)) or b""
        raise TypeError(f"the table cannot be read: {said.decode(errors='replace') or code}")


def _taken(kind: Any, address: int | None) -> Any:
    """Take a structure over from a capsule."""
    one = kind()
    assert address is not None
    ctypes.memmove(ctypes.addressof(one), address, ctypes.sizeof(one))
    kind.from_address(address).release = None
    return one


def _taken_schema(capsule: object) -> Any:
    # It stays in its capsule, which releases it; the array is read at once.
    return ArrowSchema.from_address(_pointer(capsule, b"arrow_schema"))


def _release(one: Any) -> None:
    if one.release:
        _Release(one.release)(ctypes.addressof(one))


def _columns(schema: Any, array: Any, wanted: list[str]) -> tuple[int, dict[str, Part]]:
    if schema.format != b"+s":
        raise TypeError("a table has named columns; this is a single one")
    names = [schema.children[number].contents.name.decode() for number in range(schema.n_children)]
    found: dict[str, Part] = {}
    for name in wanted:
        if name not in names:
            raise KeyError(f"the table has no column {name!r}; it has {', '.join(map(repr, names))}")
        number = names.index(name)
        part = _part(schema.children[number].contents, array.children[number].contents)
        found[name] = part._replace(shift=part.shift + array.offset, rows=array.length)
    return array.length, found


def _part(schema: Any, array: Any) -> Part:
    kind = schema.format.decode()
    shift, rows = array.offset, array.length
    if schema.dictionary:
        return Part(f"dictionary of {kind}", rows, shift, [], ())
    addresses = [array.buffers[number] for number in range(array.n_buffers)]
    last = shift + rows
    sizes = [-(-last // 8)]
    if kind in ("z", "u", "Z", "U"):
        width = _BYTES[kind]
        ends = _memory(addresses[1], width * (last + 1)) if addresses[1] else memoryview(bytes(width))
        sizes += [len(ends), ends.cast("i" if width == 4 else "q")[last] if len(ends) > width * last else 0]
    elif kind in ("vz", "vu"):
        count = len(addresses) - 3
        lengths = _memory(addresses[-1], 8 * count).cast("q") if count else memoryview(b"").cast("q")
        sizes += [16 * last, *lengths, 8 * count]
    elif kind.startswith("w:"):
        sizes.append(int(kind[2:]) * last)
    elif kind == "b":
        sizes.append(-(-last // 8))
    elif kind in ("+l", "+L"):
        sizes.append((4 if kind == "+l" else 8) * (last + 1))
    elif kind.partition(":")[0] in _UNITS:
        sizes.append(8 * last)
    elif kind in _NUMBERS:
        sizes.append(memoryview(b"").cast(_NUMBERS[kind]).itemsize * last)
    children = tuple(
        _part(schema.children[number].contents, array.children[number].contents) for number in range(array.n_children)
    )
    buffers = [
        None if address is None and not number else _memory(address, size)
        for number, (address, size) in enumerate(zip(addresses, sizes, strict=False))
    ]
    return Part(kind, rows, shift, buffers, children)


def _memory(address: int | None, size: int) -> memoryview:
    return memoryview((ctypes.c_char * size).from_address(address)).cast("B") if address and size else memoryview(b"")


def bytes_column(part: Part) -> Column | None:
    """Return a column of bytes or text for the kernels; None if it is of another type."""
    width = _BYTES.get(part.format)
    if width is None:
        return None
    if width == 16:
        return 16, part.shift, part.valid, part.buffers[1], tuple(part.buffers[2:-1])
    return width, part.shift, part.valid, part.buffers[1], part.buffers[2]


def objects(part: Part) -> list[Any]:
    """Return a column's items as Python objects: bytes, text, numbers, truth values.

    Raises:
        TypeError: it is of another type.
    """
    column = bytes_column(part)
    rows = range(part.rows)
    if column is not None:
        found = [item(column, row) for row in rows]
        if part.format[-1] in "uU":
            return [None if one is None else one.decode() for one in found]
        return found
    first, last = part.shift, part.shift + part.rows
    if part.format.startswith("w:"):
        width, data = int(part.format[2:]), part.buffers[1]
        assert data is not None
        return [
            None if part.is_null(row) else bytes(data[width * (first + row) : width * (first + row + 1)])
            for row in rows
        ]
    if part.format == "b":
        bits = part.buffers[1]
        assert bits is not None
        return [None if part.is_null(row) else bool(bits[first + row >> 3] >> (first + row & 7) & 1) for row in rows]
    code = _NUMBERS.get(part.format)
    if code is None:
        raise TypeError(
            f"a column of Arrow's type {part.format!r} cannot be serialized: cast it to text, bytes or numbers"
        )
    numbers = part.buffers[1]
    assert numbers is not None
    values: list[Any] = numbers.cast(code)[first:last].tolist()
    if part.valid is None:
        return values
    return [None if part.is_null(row) else value for row, value in enumerate(values)]


def milliseconds(part: Part) -> list[int | None]:
    """Return a column of times as milliseconds since 1970; whole numbers count as that.

    Raises:
        TypeError: it is neither.
    """
    unit = _UNITS.get(part.format.partition(":")[0])
    if unit is None:
        if part.format not in ("i", "I", "l", "L"):
            raise TypeError(
                f"timestamps are times or whole numbers of milliseconds, not of Arrow's type {part.format!r}"
            )
        return objects(part)
    values = objects(part._replace(format="l"))
    if unit == 1:
        return values
    if unit < 1:
        return [None if value is None else value * 1000 for value in values]
    return [None if value is None else value // int(unit) for value in values]
