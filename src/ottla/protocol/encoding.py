"""The source of an encoder: one function for one message and version.

What it looks like, for a version with int16 lengths:

    def codec(m, w):
        ...
        y1 = m.name.encode(); k = len(y1)
        w(pack_iqh(m.index, m.offset, k)); w(y1)

A run of fixed-size fields is packed together with the length that follows it. Tagged fields are written if they differ
from their defaults, in order of their tags. Fields the version lacks must hold their defaults unless they are
`ignorable`.
"""

from __future__ import annotations

import struct
from typing import Any

from ottla.errors import LocalProtocolError
from ottla.protocol import primitives
from ottla.protocol.decoding import default_source
from ottla.protocol.primitives import FIXED_SIZE
from ottla.protocol.schema import Field, Message, Struct, fields_of, struct_named

_VARIABLE = ("string", "bytes", "records")


def encoder_source(cls: type[Message], version: int) -> tuple[str, dict[str, Any]]:
    """Return the source of a function `codec(message, write)` and the objects it names."""
    writer = _EncoderWriter(cls, version)
    return writer.source(), writer.names


class _EncoderWriter:
    def __init__(self, cls: type[Message], version: int) -> None:
        self.cls = cls
        self.version = version
        self.flexible = cls.FLEXIBLE[0] <= version <= cls.FLEXIBLE[1]
        self.lines: list[str] = []
        self.indent = 2
        self.serial = 0
        self.out = "w"  # the variable holding the function that takes what is written
        self.names: dict[str, Any] = {
            "LocalProtocolError": LocalProtocolError,
            "struct_error": struct.error,
            "varints": primitives.VARINTS,
            "encode_varint": primitives.encode_varint,
            "encode_string_length": primitives.encode_string_length,
            "encode_tagged": primitives.encode_tagged,
            "pack": struct.pack,
        }

    def source(self) -> str:
        self.lines = ["def codec(m, w):", "    try:"]
        self.struct(self.cls, "m")
        what = f"{self.cls.__name__} v{self.version}"
        self.lines += [
            "        return",
            "    except LocalProtocolError as error:",
            f"        raise LocalProtocolError(f'{what}: {{error}}') from None",
            "    except (struct_error, AttributeError, TypeError, UnicodeError) as error:",
            f"        raise LocalProtocolError(f'{what}: {{error}}') from error",
        ]
        return "\n".join(self.lines) + "\n"

    def write(self, line: str) -> None:
        self.lines.append("    " * self.indent + line)

    def fresh(self, letter: str) -> str:
        self.serial += 1
        return f"{letter}{self.serial}"

    def struct(self, cls: type[Struct], source: str) -> None:
        """Write code that encodes the struct in variable `source`."""
        run: list[Field] = []
        tagged: list[Field] = []
        for field in fields_of(cls):
            place = f"{source}.{field.name}"
            if not field.exists(self.version):
                if not field.ignorable:
                    self.write(f"if {self.differs(cls, field, place)}:")
                    self.write(f"    raise LocalProtocolError({f'no field {field.name} in this version'!r})")
            elif field.is_tagged(self.version):
                tagged.append(field)
            elif field.type in FIXED_SIZE and not field.array:
                run.append(field)
            elif field.array or field.type in _VARIABLE:
                value = self.prepare(field, place)
                if self.is_compact(field):
                    self.fixed(run, source)
                    self.compact_length(field)
                else:
                    self.fixed(run, source, "h" if field.type == "string" and not field.array else "i")
                run = []
                self.variable(cls, field, value)
            else:
                self.fixed(run, source)
                run = []
                self.nested(cls, field, place)
        self.fixed(run, source)
        if self.flexible:
            self.tagged_section(cls, sorted(tagged, key=lambda field: field.tag or 0), source)

    def is_compact(self, field: Field) -> bool:
        return self.flexible and not field.inflexible

    def fixed(self, fields: list[Field], source: str, length: str = "") -> None:
        """Write a run of fixed-size fields in one call, and the length (in k) of what follows them."""
        formats = "".join(FIXED_SIZE[field.type][0] for field in fields) + length
        if not formats:
            return
        values = [f"{source}.{field.name}" for field in fields]
        for field, value in zip(fields, values, strict=True):
            if field.type == "uuid":  # `struct` would pad or cut it
                self.write(f"if len({value}) != 16: raise LocalProtocolError({field.name + ' is not 16 bytes'!r})")
        self.write(f"{self.out}({self.packer(formats)}({', '.join(values + ['k'] * bool(length))}))")

    def packer(self, formats: str) -> str:
        name = "pack_" + formats.replace("?", "B") + ("_bool" if "?" in formats else "")
        self.names[name] = struct.Struct(">" + formats).pack
        return name

    def prepare(self, field: Field, place: str) -> str:
        """Put the value into a variable, as bytes if it is a string, and its length into k; null is -1 and empty."""
        value = self.fresh("y")
        convert = f"{value} = {value}.encode(); " if field.type == "string" and not field.array else ""
        self.write(f"{value} = {place}")
        if field.is_nullable(self.version):
            self.write(f'if {value} is None: k = -1; {value} = b""')
            self.write(f"else: {convert}k = len({value})")
        else:
            self.write(f"{convert}k = len({value})")
        return value

    def compact_length(self, field: Field) -> None:
        long = "encode_string_length(k)" if field.type == "string" and not field.array else "encode_varint(k + 1)"
        self.write(f"{self.out}(varints[k + 1] if k < 255 else {long})")

    def variable(self, owner: type[Struct], field: Field, value: str) -> None:
        """Write a string, bytes or array whose length is written already."""
        if not field.array:
            self.write(f"{self.out}({value})")
        elif field.type in FIXED_SIZE and field.type != "uuid":
            self.write(f"if k > 0: {self.out}(pack(f'>{{k}}{FIXED_SIZE[field.type][0]}', *{value}))")
        else:
            item = self.fresh("z")
            self.write(f"for {item} in {value}:")
            self.indent += 1
            if field.type == "uuid":
                self.write(f"if len({item}) != 16: raise LocalProtocolError({field.name + ' is not 16 bytes'!r})")
                self.write(f"{self.out}({item})")
            elif field.type in _VARIABLE:
                element = field._replace(array=False, nullable=(1, 0))
                encoded = self.prepare(element, item)
                if self.is_compact(field):
                    self.compact_length(element)
                else:
                    self.write(f"{self.out}({self.packer('h' if field.type == 'string' else 'i')}(k))")
                self.write(f"{self.out}({encoded})")
            else:
                self.struct(struct_named(owner, field.type), item)
            self.indent -= 1

    def nested(self, owner: type[Struct], field: Field, place: str) -> None:
        value = self.fresh("s")
        self.write(f"{value} = {place}")
        nullable = field.is_nullable(self.version)
        if nullable:
            null = "\\x00" if field.is_tagged(self.version) else "\\xff"
            self.write(f'if {value} is None: {self.out}(b"{null}")')
            self.write("else:")
            self.indent += 1
            self.write(f'{self.out}(b"\\x01")')
        before = len(self.lines)
        self.struct(struct_named(owner, field.type), value)
        if len(self.lines) == before:
            self.write("pass")
        if nullable:
            self.indent -= 1

    def differs(self, owner: type[Struct], field: Field, place: str) -> str:
        """Return the condition under which a field does not hold its default."""
        default = default_source(owner, field, self.names)
        if default == "None":
            return f"{place} is not None"
        if default in ("[]", '""', 'b""'):
            # Null is not the default, and an empty value of another type (a tuple) is.
            return f"{place} is None or {place}" if field.nullable[0] <= field.nullable[1] else place
        if default == "False":
            return place
        if default == "True":
            return f"not {place}"
        if default.endswith("()"):
            struct = struct_named(owner, field.type)
            nested = [(inner, f"{place}.{inner.name}") for inner in fields_of(struct)]
            # Three such comparisons for each partition of a Fetch response: done here, ten times faster than `!=`.
            null = [f"{place} is None"] if field.nullable[0] <= field.nullable[1] else []
            return " or ".join(null + [self.differs(struct, inner, where) for inner, where in nested])
        return f"{place} != {default}"

    def tagged_section(self, owner: type[Struct], fields: list[Field], source: str) -> None:
        if not fields:
            self.write(f'{self.out}(b"\\0")')
            return
        found = self.fresh("g")
        self.write(f"{found} = []")
        outer = self.out
        for field in fields:
            place = f"{source}.{field.name}"
            self.write(f"if {self.differs(owner, field, place)}:")
            self.indent += 1
            if field.type in FIXED_SIZE and not field.array:
                if field.type == "uuid":
                    self.write(f"if len({place}) != 16: raise LocalProtocolError({field.name + ' is not 16 bytes'!r})")
                packer = self.packer(FIXED_SIZE[field.type][0])
                self.write(f"{found}.append(encode_tagged({field.tag}, {packer}({place})))")
            else:
                parts = self.fresh("l")
                self.out = self.fresh("w")
                self.write(f"{parts} = []; {self.out} = {parts}.append")
                if field.array or field.type in _VARIABLE:
                    value = self.prepare(field, place)
                    self.compact_length(field)
                    self.variable(owner, field, value)
                else:
                    self.nested(owner, field, place)
                self.out = outer
                self.write(f'{found}.append(encode_tagged({field.tag}, b"".join({parts})))')
            self.indent -= 1
        self.write(f"if {found}: {outer}(encode_varint(len({found}))); {outer}(b''.join({found}))")
        self.write(f'else: {outer}(b"\\0")')
