"""The source of a decoder: one function for one message and version.

What it looks like, for a flexible message with a string and an array:

    def codec(buffer, p=0):
        ...
        o1 = new(Topic)
        o1.index, o1.offset = unpack_iq(b, p); p += 12
        n = b[p] - 1; p += 1
        if n > 126: n, p = continue_string_length(b, p, n + 1); n -= 1
        if n < 0: raise RemoteProtocolError('name is null')
        q = p + n; o1.name = b[p:q].decode(); p = q

Position `p` may run behind the end within a string, since Python's slices do: the next read fails or the one check at
the end does, so no check is needed at every string. Messages are decoded from `bytes`, whose slices are the cheapest;
those with records, and headers, from a view in place.
"""

from __future__ import annotations

import struct
from typing import Any

from ottla.errors import RemoteProtocolError
from ottla.protocol import primitives
from ottla.protocol.primitives import ARRAY_COUNT_MAX, FIXED_SIZE
from ottla.protocol.schema import Field, Message, Struct, fields_of, struct_named
from ottla.types import ZERO_UUID

# Arrays of fixed-size elements shorter than this are read by a prepared `Struct`.
_PREPARED_COUNT = 16


def decoder_source(cls: type[Message], version: int) -> tuple[str, dict[str, Any]]:
    """Return the source of a function `codec(buffer, position)` and the objects it names."""
    writer = _DecoderWriter(cls, version)
    return writer.source(), writer.names


def failure(cls: type[Message], version: int, position: int, error: Exception) -> RemoteProtocolError:
    """Return what a decoder raises: which message, where, and why."""
    match error:
        case IndexError() | struct.error():
            reason = "it ends too early"
        case UnicodeDecodeError():
            reason = "a string is not UTF-8"
        case _:
            reason = str(error)
    return RemoteProtocolError(f"{cls.__name__} v{version}, near byte {position}: {reason}")


def default_source(struct: type[Struct], field: Field, names: dict[str, Any]) -> str:
    """Return the default of a field as an expression."""
    if field.default == "null" or (field.type == "records" and field.default is None):
        return "None"
    if field.array:
        return "[]"
    if field.type in ("string", "bytes"):
        return '""' if field.type == "string" else 'b""'
    if field.type == "uuid":
        names["ZERO_UUID"] = ZERO_UUID
        return "ZERO_UUID"
    if field.type in FIXED_SIZE:
        return field.default or ("False" if field.type == "bool" else "0")
    names[field.type] = struct_named(struct, field.type)
    return f"{field.type}()"


def has_records(struct: type[Struct]) -> bool:
    """Return whether the struct or one inside it has a field of records."""
    return any(
        field.type == "records"
        or (field.type not in (*FIXED_SIZE, "string", "bytes") and has_records(struct_named(struct, field.type)))
        for field in fields_of(struct)
    )


class _DecoderWriter:
    def __init__(self, cls: type[Message], version: int) -> None:
        self.cls = cls
        self.version = version
        self.flexible = cls.FLEXIBLE[0] <= version <= cls.FLEXIBLE[1]
        # Copying a frame full of records to decode it would cost more than slower slices of the rest.
        self.in_place = cls.API_KEY is None or has_records(cls)
        self.lines: list[str] = []
        self.indent = 1
        self.serial = 0
        self.names: dict[str, Any] = {
            "cls": cls,
            "new": object.__new__,
            "failure": failure,
            "struct_error": struct.error,
            "unpack_from": struct.unpack_from,
            "RemoteProtocolError": RemoteProtocolError,
            "read_varint": primitives.read_varint,
            "continue_varint": primitives.continue_varint,
            "continue_string_length": primitives.continue_string_length,
            "continue_tagged_count": primitives.continue_tagged_count,
            "skip_tagged": primitives.skip_tagged,
        }

    def source(self) -> str:
        self.write("def codec(buffer, start=0):", indent=0)
        if self.in_place:
            self.write("b = memoryview(buffer); p = start; shift = 0")
        else:
            self.write("if type(buffer) is bytes: b = buffer; p = start; shift = 0")
            self.write("else: b = bytes(memoryview(buffer)[start:]); p = 0; shift = start")
        self.write("end = len(b)")
        self.write("try:")
        self.indent += 1
        message = self.struct(self.cls)
        self.write("if p > end: raise IndexError")
        self.indent -= 1
        self.write("except (IndexError, ValueError, struct_error, RemoteProtocolError) as error:")
        self.write(f"    raise failure(cls, {self.version}, p + shift, error) from None")
        self.write(f"return {message}, p + shift")
        return "\n".join(self.lines) + "\n"

    def write(self, line: str, *, indent: int | None = None) -> None:
        self.lines.append("    " * (self.indent if indent is None else indent) + line)

    def fresh(self, letter: str) -> str:
        self.serial += 1
        return f"{letter}{self.serial}"

    def struct(self, cls: type[Struct]) -> str:
        """Write code that decodes a struct; return the variable that holds it."""
        target = self.fresh("o")
        self.names[cls.__name__] = cls
        self.write(f"{target} = new({cls.__name__})")
        run: list[Field] = []
        tagged: list[Field] = []
        for field in fields_of(cls):
            if not field.exists(self.version) or field.is_tagged(self.version):
                self.write(f"{target}.{field.name} = {default_source(cls, field, self.names)}")
                if field.exists(self.version):
                    tagged.append(field)
            elif field.type in FIXED_SIZE and not field.array:
                run.append(field)
            elif field.array or field.type in ("string", "bytes", "records"):
                length = None if self.is_compact(field) else self.length_format(field)
                if run or length:
                    self.fixed(run, target, length)
                    run = []
                if length is None:
                    self.compact_length(field)
                self.variable(cls, field, f"{target}.{field.name}")
            else:
                if run:
                    self.fixed(run, target)
                    run = []
                self.nested(cls, field, f"{target}.{field.name}")
        if run:
            self.fixed(run, target)
        if self.flexible:
            self.tagged_section(cls, tagged, target)
        return target

    def is_compact(self, field: Field) -> bool:
        return self.flexible and not field.inflexible

    def length_format(self, field: Field) -> str:
        return "h" if field.type == "string" and not field.array else "i"

    def fixed(self, fields: list[Field], target: str, length: str | None = None) -> None:
        """Read a run of fixed-size fields in one call, and the length (into n) of what follows them."""
        formats = [FIXED_SIZE[field.type][0] for field in fields]
        targets = [f"{target}.{field.name}" for field in fields]
        if length:
            formats.append(length)
            targets.append("n")
        self.unpack("".join(formats), targets)

    def unpack(self, formats: str, targets: list[str]) -> None:
        reader = struct.Struct(">" + formats)
        name = "unpack_" + formats.replace("?", "B")
        if "?" in formats:
            name += "_bool"
        self.names[name] = reader.unpack_from
        comma = "," if len(targets) == 1 else ""
        self.write(f"{', '.join(targets)}{comma} = {name}(b, p); p += {reader.size}")

    def compact_length(self, field: Field) -> None:
        """Read length + 1 into n and turn it into the length; null becomes -1."""
        string = field.type == "string" and not field.array
        self.write("n = b[p] - 1; p += 1")
        self.write(
            f"if n > 126: n, p = {'continue_string_length' if string else 'continue_varint'}(b, p, n + 1); n -= 1"
        )

    def variable(self, owner: type[Struct], field: Field, target: str) -> None:
        """Decode a string, bytes or array whose length is in n."""
        if field.is_nullable(self.version):
            self.write(f"if n < 0: {target} = None")
            self.write("else:")
        else:
            self.write(f"if n < 0: raise RemoteProtocolError({field.name + ' is null'!r})")
            self.indent -= 1
        self.indent += 1
        if not field.array:
            self.write(f"q = p + n; {target} = {self.slice_of(field.type)}; p = q")
        elif field.type in FIXED_SIZE:
            self.fixed_array(field, target)
        else:
            self.array(owner, field, target)
        if field.is_nullable(self.version):
            self.indent -= 1

    def slice_of(self, kind: str) -> str:
        if kind == "string":
            return 'str(b[p:q], "utf-8")' if self.in_place else "b[p:q].decode()"
        return "bytes(b[p:q])" if kind == "bytes" and self.in_place else "b[p:q]"

    def check_count(self, size_min: int, field: Field) -> None:
        count = "n" if size_min == 1 else f"n * {size_min}"
        self.write(f"if {count} > end - p or n > {ARRAY_COUNT_MAX}:")
        self.write(f"    raise RemoteProtocolError(f'{field.name} has {{n}} elements in {{end - p}} bytes')")

    def fixed_array(self, field: Field, target: str) -> None:
        letter, size = FIXED_SIZE[field.type]
        self.check_count(size, field)
        if field.type == "uuid":
            element = "bytes(b[i:i + 16])" if self.in_place else "b[i:i + 16]"
            self.write(f"q = p + 16 * n; {target} = [{element} for i in range(p, q, 16)]; p = q")
            return
        prepared = "array_" + letter.replace("?", "bool")
        self.names[prepared] = [struct.Struct(f">{count}{letter}").unpack_from for count in range(_PREPARED_COUNT)]
        self.write(f"if n < {_PREPARED_COUNT}: {target} = list({prepared}[n](b, p))")
        self.write(f"else: {target} = list(unpack_from(f'>{{n}}{letter}', b, p))")
        self.write(f"p += {size} * n" if size > 1 else "p += n")

    def array(self, owner: type[Struct], field: Field, target: str) -> None:
        """Decode an array of structs or of variable-size values; the count is in n."""
        variable = field.type in ("string", "bytes", "records")
        size = self.variable_size_min(field) if variable else self.size_min(struct_named(owner, field.type))
        self.check_count(size, field)
        items = self.fresh("x")
        self.write(f"{target} = {items} = []")
        self.write("for _ in range(n):")
        self.indent += 1
        if variable:
            element = field._replace(array=False, nullable=(1, 0))
            if self.is_compact(field):
                self.compact_length(element)
            else:
                self.unpack(self.length_format(element), ["n"])
            self.write("if n < 0: raise RemoteProtocolError('null in an array')")
            self.write(f"q = p + n; {items}.append({self.slice_of(field.type)}); p = q")
        else:
            self.write(f"{items}.append({self.struct(struct_named(owner, field.type))})")
        self.indent -= 1

    def nested(self, owner: type[Struct], field: Field, target: str) -> None:
        """Decode a struct; if it may be null, a number ahead of it says so."""
        nullable = field.is_nullable(self.version)
        if nullable and field.is_tagged(self.version):
            # A varint, 0 for null. An untagged field has an int8, negative for null.
            self.write("n, p = read_varint(b, p)")
            self.write(f"if not n: {target} = None")
            self.write("else:")
            self.indent += 1
        elif nullable:
            self.write("p += 1")
            self.write(f"if b[p - 1] > 127: {target} = None")
            self.write("else:")
            self.indent += 1
        self.write(f"{target} = {self.struct(struct_named(owner, field.type))}")
        if nullable:
            self.indent -= 1

    def tagged_section(self, owner: type[Struct], fields: list[Field], target: str) -> None:
        if not fields:
            self.write("if b[p]: p = skip_tagged(b, p)")
            self.write("else: p += 1")
            return
        end = self.fresh("t")
        self.write("n = b[p]; p += 1")
        self.write("if n:")
        self.indent += 1
        self.write("if n > 127: n, p = continue_tagged_count(b, p, n)")
        self.write("for _ in range(n):")
        self.indent += 1
        self.write(f"tag, p = read_varint(b, p); {end}, p = read_varint(b, p); {end} += p")
        for index, field in enumerate(fields):
            self.write(f"{'elif' if index else 'if'} tag == {field.tag}:")
            self.indent += 1
            place = f"{target}.{field.name}"
            if field.type in FIXED_SIZE and not field.array:
                self.unpack(FIXED_SIZE[field.type][0], [place])
            elif field.array or field.type in ("string", "bytes", "records"):
                self.compact_length(field)
                self.variable(owner, field, place)
            else:
                self.nested(owner, field, place)
            self.indent -= 1
        self.write(f"else: p = {end}")
        self.write(f"if p != {end}: raise RemoteProtocolError(f'the size of tag {{tag}} is wrong')")
        self.indent -= 2

    def size_min(self, cls: type[Struct]) -> int:
        """Return how many bytes a struct takes at least in this version; bounds counts of elements."""
        size = 1 if self.flexible else 0
        for field in fields_of(cls):
            if not field.exists(self.version) or field.is_tagged(self.version):
                continue
            if field.array or field.type in ("string", "bytes", "records"):
                size += 1 if self.is_compact(field) else struct.calcsize(">" + self.length_format(field))
            elif field.type in FIXED_SIZE:
                size += FIXED_SIZE[field.type][1]
            else:
                size += 1 if field.is_nullable(self.version) else self.size_min(struct_named(cls, field.type))
        return size

    def variable_size_min(self, field: Field) -> int:
        return 1 if self.is_compact(field) else struct.calcsize(">" + self.length_format(field._replace(array=False)))
