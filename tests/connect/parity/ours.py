"""Runs the cases of cases.py in ottla.connect and writes what comes out as Oracle.java does."""

from __future__ import annotations

import datetime
import decimal
import struct
from typing import Any

from ottla.connect.converters.base import Converter
from ottla.connect.errors import ConnectError
from ottla.connect.java_text import epoch_ms
from ottla.connect.logical import days_to_date, decimal_from, decimal_scale, ms_to_time, ms_to_timestamp, unscaled
from ottla.connect.plugins import converter_class
from ottla.connect.schema import DATE_NAME, TIME_NAME, TIMESTAMP_NAME, Schema, Struct, Type

Json = Any


def run(case: dict[str, Json]) -> dict[str, Json]:
    """Return what ours says to a case."""
    try:
        match case["op"]:
            case "from":
                return _from(case)
            case "to":
                data = case["bytes"]
                return read(_converter(case), None if data is None else bytes.fromhex(data))
            case _:
                from tests.connect.parity.our_transforms import run_transform

                return run_transform(case)
    except ConnectError as error:
        return {"error": type(error).__name__, "message": str(error)}


def _converter(case: dict[str, Json]) -> Converter:
    return converter_class(case["class"])(case["config"])


def _from(case: dict[str, Json]) -> dict[str, Json]:
    schema = schema_of(case["schema"])
    value = value_of(schema, case["value"])
    converter = _converter(case)
    data = converter.from_connect("topic", schema, value)
    return {"bytes": None if data is None else data.hex()} | read(converter, data)


def read(converter: Converter, data: bytes | None) -> dict[str, Json]:
    """Return what a converter reads, and what it writes of that."""
    found: dict[str, Json] = {}
    try:
        schema, value = converter.to_connect("topic", data)
        found |= {"schema": dump_schema(schema), "value": dump(value, schema)}
        again = converter.from_connect("topic", schema, value)
        return found | {"again": None if again is None else again.hex()}
    except ConnectError as error:
        return found | {"error": type(error).__name__, "message": str(error)}


def schema_of(node: Json) -> Schema | None:
    """Return a case's schema."""
    if node is None:
        return None
    more = {name: node[name] for name in ("optional", "name", "version", "doc") if name in node}
    if "parameters" in node:
        more["parameters"] = dict(node["parameters"])
    if "fields" in node:
        more["fields"] = [(name, schema_of(inside)) for name, inside in node["fields"]]
    for part in ("keys", "values"):
        if part in node:
            more[part] = schema_of(node[part])
    schema = Schema(Type[node["type"]], **more)
    return schema.replace(default=value_of(schema, node["default"])) if "default" in node else schema


def value_of(schema: Schema | None, node: Json) -> Any:
    """Return a case's value."""
    if node is None:
        return None
    tag, given = node
    match tag:
        case "f":
            return struct.unpack(">d", bytes.fromhex(given))[0]
        case "y":
            return bytes.fromhex(given)
        case "d":
            return decimal_from(int(given[0]), given[1])
        case "m":
            return _moment(schema, given)
        case "l":
            return [value_of(None if schema is None else schema.values, item) for item in given]
        case "h":
            keys, values = (None, None) if schema is None else (schema.keys, schema.values)
            return {value_of(keys, key): value_of(values, item) for key, item in given}
        case "o":
            assert schema is not None
            made = Struct(schema)
            for name, item in given:
                field = schema.field(name)
                made[name] = value_of(None if field is None else field.schema, item)
            return made
    return given


def _moment(schema: Schema | None, ms: int) -> Any:
    match None if schema is None else schema.name:
        case "org.apache.kafka.connect.data.Date":
            return days_to_date(ms // 86_400_000)
        case "org.apache.kafka.connect.data.Time":
            return ms_to_time(ms)
    return ms_to_timestamp(ms)


def dump_schema(schema: Schema | None) -> Json:
    """Return a schema as Oracle.java writes it."""
    if schema is None:
        return None
    node: dict[str, Json] = {"type": schema.type.name}
    if schema.type is Type.STRUCT:
        node["fields"] = [[field.name, dump_schema(field.schema)] for field in schema.fields]
    if schema.type is Type.MAP:
        node["keys"] = dump_schema(schema.keys)
    if schema.type in (Type.MAP, Type.ARRAY):
        node["values"] = dump_schema(schema.values)
    if schema.optional:
        node["optional"] = True
    for name in ("name", "version", "doc"):
        if getattr(schema, name) is not None:
            node[name] = getattr(schema, name)
    if schema.parameters:
        node["parameters"] = [list(entry) for entry in schema.parameters.items()]
    if schema.default is not None:
        node["default"] = dump(schema.default, schema)
    return node


def dump(value: Any, schema: Schema | None = None) -> Json:
    """Return a value as Oracle.java writes it."""
    match value:
        case None:
            return None
        case bool():
            return ["b", value]
        case int() if schema is not None and schema.name == DATE_NAME:
            return ["m", value * 86_400_000]
        case int() if schema is not None and schema.name in (TIMESTAMP_NAME, TIME_NAME):
            return ["m", value]
        case int():
            return ["i", value]
        case float():
            return ["f", "7ff8000000000000" if value != value else struct.pack(">d", value).hex()]
        case decimal.Decimal():
            return ["d", [str(unscaled(value)), decimal_scale(value)]]
        case str():
            return ["s", value]
        case bytes():
            return ["y", value.hex()]
        case datetime.date() | datetime.time():
            return ["m", epoch_ms(value)]
        case list():
            return ["l", [dump(item, None if schema is None else schema.values) for item in value]]
        case dict():
            keys, values = (None, None) if schema is None else (schema.keys, schema.values)
            return ["h", [[dump(key, keys), dump(item, values)] for key, item in value.items()]]
        case Struct():
            given = ((field, value.without_default(field.name)) for field in value.schema.fields)
            return ["o", [[field.name, dump(item, field.schema)] for field, item in given if item is not None]]
    raise TypeError(type(value).__name__)
