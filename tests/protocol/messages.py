"""Arbitrary messages: what the tests of the codec feed it.

`structs(cls)` makes messages with every field set, whatever the version; `at_version(message, version)` keeps of one what
that version can carry.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import strategies as st

from ottla.protocol import messages
from ottla.protocol.primitives import FIXED_SIZE
from ottla.protocol.schema import Field, Message, Struct, fields_of, struct_named
from ottla.types import ZERO_UUID

S = TypeVar("S", bound=Struct)

_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "int8": st.integers(-(2**7), 2**7 - 1),
    "int16": st.integers(-(2**15), 2**15 - 1),
    "uint16": st.integers(0, 2**16 - 1),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "uint32": st.integers(0, 2**32 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "float64": st.floats(allow_nan=False),
    "uuid": st.binary(min_size=16, max_size=16),
    "string": st.one_of(st.text(max_size=6), st.sampled_from(["topic-1", "größe", "x" * 130])),
    "bytes": st.binary(max_size=8),
    "records": st.one_of(st.binary(max_size=8), st.just(bytes(range(200)))),
}
_ZEROS: dict[str, Any] = {"bool": False, "float64": 0.0, "uuid": ZERO_UUID, "string": "", "bytes": b"", "records": b""}

Choose = Callable[[Field], "st.SearchStrategy[Any] | None"]


def structs(cls: type[S], choose: Choose = lambda field: None) -> st.SearchStrategy[S]:
    """Return a strategy for instances of `cls` with all fields set; `choose` may pick the values of some."""
    return st.builds(cls, **{field.name: _values(cls, field, choose) for field in fields_of(cls)})


def _values(owner: type[Struct], field: Field, choose: Choose) -> st.SearchStrategy[Any]:
    if field.type in _VALUES:
        chosen = choose(field)
        values = _VALUES[field.type] if chosen is None else chosen
    else:
        values = structs(struct_named(owner, field.type), choose)
    if field.array:
        values = st.lists(values, max_size=2)
    if field.nullable[0] <= field.nullable[1]:
        values = st.one_of(st.none(), values)
    return values


def at_version(message: S, version: int) -> S:
    """Return a copy that `version` can carry: absent fields have their defaults, nulls are gone where not allowed."""
    result = type(message)()
    for field in fields_of(type(message)):
        if not field.exists(version):
            continue
        value = getattr(message, field.name)
        if value is None and not field.is_nullable(version):
            value = [] if field.array else _ZEROS.get(field.type, 0)
        if isinstance(value, Struct):
            value = at_version(value, version)
        elif isinstance(value, list) and value and isinstance(value[0], Struct):
            value = [at_version(item, version) for item in value]
        setattr(result, field.name, value)
    return result


def filled(cls: type[S], version: int, randomness: random.Random) -> S:
    """Return an instance with every field of `version` set, arrays of two; far cheaper than drawing one."""
    result = cls()
    for field in fields_of(cls):
        if not field.exists(version):
            continue
        values: list[Any] = []
        for _ in range(2 if field.array else 1):
            match field.type:
                case "string":
                    values.append("ab")
                case "bytes" | "records":
                    values.append(b"abc")
                case "uuid":
                    values.append(randomness.randbytes(16))
                case "bool":
                    values.append(True)
                case "float64":
                    values.append(0.5)
                case kind if kind in FIXED_SIZE:
                    values.append(randomness.randrange(1, 100))
                case kind:
                    values.append(filled(struct_named(cls, kind), version, randomness))
        setattr(result, field.name, values if field.array else values[0])
    return result


def all_messages() -> Iterator[type[Message]]:
    """Yield every generated message, requests, responses, records and headers."""
    directory = Path(messages.__file__).parent
    for path in sorted(directory.glob("*.py")):
        if path.stem != "__init__":
            module = import_module(f"ottla.protocol.messages.{path.stem}")
            for value in vars(module).values():
                if isinstance(value, type) and issubclass(value, Message) and value is not Message:
                    yield value


def versions_of(cls: type[Message]) -> range:
    return range(cls.VERSIONS[0], cls.VERSIONS[1] + 1)


def kind_of(cls: type[Message]) -> str:
    """Return request, response, or data."""
    found = re.search(r"(Request|Response)$", cls.__name__)
    return found[0].lower() if found else "data"
