"""Cases of transforms and predicates: records of every kind through every transform, on keys and on values."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from tests.connect.parity.cases import LOGICAL, bits_of, data, real, schema, value_of

Json = Any
TRANSFORMS = "org.apache.kafka.connect.transforms."
FIELDS = ("id", "name", "amount", "when", "inner", "tags", "flag", "raw", "ratio", "count")
PATTERNS = (
    "yyyy-MM-dd'T'HH:mm:ss.SSS",
    "dd/MM/yy",
    "yyyyMMddHHmmss",
    "EEE, d MMM yyyy HH:mm:ss Z",
    "h:mm a",
    "yyyy",
    "''yy",
    "D HH",
)


def transform_cases(dice: random.Random) -> list[dict[str, Json]]:
    """Return all of them, always the same."""
    found = []
    for name, configure in SIDED.items():
        for number in range(150):
            side = "Key" if number % 3 == 0 else "Value"
            found.append(case(dice, f"{name}${side}", configure(dice), side.lower()))
    for name, configure in WHOLE.items():
        found += [case(dice, name, configure(dice), "value") for _ in range(60)]
    found += corner_cases(dice)
    for name, config in (
        ("TopicNameMatches", {"pattern": "a.*|t.?pic"}),
        ("HasHeaderKey", {"name": "h1"}),
        ("RecordIsTombstone", {}),
    ):
        for _ in range(40):
            java = f"{TRANSFORMS}predicates.{name}"
            found.append({"op": "predicate", "class": java, "config": config, "record": record(dice, "value")})
    return found


def corner_cases(dice: random.Random) -> list[dict[str, Json]]:
    """Every transform on both sides, with a null value, a null schema, and both."""
    found = []
    for name, configure in (SIDED | WHOLE).items():
        for side in ("Key", "Value") if name in SIDED else ("",):
            for has_schema, has_value in ((True, False), (False, True), (False, False)):
                one = case(dice, f"{name}${side}" if side else name, configure(dice), side.lower() or "value")
                part = side.lower() or "value"
                wanted = order_schema(dice) | {"optional": True}
                one["record"][f"{part}_schema"] = wanted if has_schema else None
                one["record"][part] = order_map(dice) if has_value else None
                found.append(one)
    return found


def case(dice: random.Random, name: str, config: dict[str, str], side: str) -> dict[str, Json]:
    return {"op": "transform", "class": TRANSFORMS + name, "config": config, "record": record(dice, side)}


def record(dice: random.Random, side: str) -> dict[str, Json]:
    """Return a record whose key or value is mostly a struct or a map with fields of FIELDS."""
    found: dict[str, Json] = {
        "topic": dice.choice(["topic", "a.b", "orders", "x-7", "tapic"]),
        "partition": dice.choice([None, 0, 3]),
        "timestamp": dice.choice([None, 0, 1_600_000_000_123, dice.randrange(10**13)]),
        "offset": dice.choice([None, 0, 12345678901]),
        "headers": [[dice.choice(["h1", "h2"]), {"type": "STRING"}, ["s", "v"]] for _ in range(dice.randrange(3))],
        "key_schema": {"type": "INT32"},
        "key": ["i", 7],
        "value_schema": None,
        "value": ["s", "other"],
    }
    choice = dice.random()
    if choice < 0.5:
        wanted = order_schema(dice)
        found |= {f"{side}_schema": wanted, side: value_of(dice, wanted)}
    elif choice < 0.85:
        found |= {f"{side}_schema": None, side: order_map(dice)}
    elif choice < 0.93:
        wanted = schema(dice, 1)
        found |= {f"{side}_schema": wanted, side: value_of(dice, wanted)}
    else:
        found |= {f"{side}_schema": None, side: data(dice)}
    return found


def order_schema(dice: random.Random) -> dict[str, Json]:
    inner = {
        "type": "STRUCT",
        "fields": [["id", {"type": "INT64"}], ["a.b", {"type": "STRING", "optional": True}]],
        "optional": True,
    }
    kinds: dict[str, list[dict[str, Json]]] = {
        "id": [{"type": "INT64"}, {"type": "INT32"}, {"type": "INT8"}, {"type": "STRING"}],
        "name": [
            {"type": "STRING"},
            {"type": "STRING", "optional": True, "default": ["s", "anon"]},
            {"type": "STRING", "optional": True},
        ],
        "amount": [
            {"type": "FLOAT64"},
            {"type": "FLOAT32"},
            {"type": "BYTES", "name": LOGICAL + "Decimal", "version": 1, "parameters": [["scale", "2"]]},
        ],
        "when": [
            {"type": "INT64", "name": LOGICAL + "Timestamp", "version": 1},
            {"type": "INT32", "name": LOGICAL + "Date", "version": 1, "optional": True},
            {"type": "INT32", "name": LOGICAL + "Time", "version": 1},
            {"type": "INT64"},
            {"type": "STRING"},
        ],
        "inner": [inner, inner, {"type": "STRUCT", "fields": [["inner", inner]]}],
        "tags": [
            {"type": "ARRAY", "values": {"type": "STRING"}},
            {"type": "MAP", "keys": {"type": "STRING"}, "values": {"type": "INT32"}},
        ],
        "flag": [{"type": "BOOLEAN"}],
        "raw": [{"type": "BYTES", "optional": True}],
        "ratio": [{"type": "FLOAT32", "optional": True, "default": ["f", bits_of(0.5)]}],
        "count": [{"type": "INT16", "optional": True}, {"type": "INT32", "default": ["i", 3]}],
    }
    names = dice.sample(FIELDS, dice.randrange(2, 8))
    found: dict[str, Json] = {"type": "STRUCT", "fields": [[name, dice.choice(kinds[name])] for name in names]}
    if dice.random() < 0.3:
        found |= {"name": "order", "version": 2, "doc": "an order", "parameters": [["k", "v"]]}
    if dice.random() < 0.2:
        found["optional"] = True
    return found


def order_map(dice: random.Random) -> Json:
    names = dice.sample(
        [*FIELDS, "größe", "x1", "x2", "Zebra", "a.b", "q", "w", "e"], dice.choice([0, 2, 3, 5, 6, 11, 12])
    )
    return ["h", [[["s", name], field(dice, name)] for name in names]]


def field(dice: random.Random, name: str) -> Json:
    match name:
        case "inner":
            return [
                "h",
                [
                    [["s", "id"], ["i", 1]],
                    [["s", "a.b"], data(dice, 2)],
                    [["s", "inner"], ["h", [[["s", "id"], ["i", 2]]]]],
                ],
            ]
        case "when":
            return dice.choice(
                [
                    ["i", 1_600_000_000_123],
                    ["s", "2020-09-13T12:26:40.123"],
                    ["s", "13/09/20"],
                    ["m", 1_600_000_000_123],
                    ["i", -1],
                ]
            )
        case "amount":
            return dice.choice([["f", bits_of(real(dice))], ["s", "12.5"], ["s", "x"], ["i", 300]])
        case "id":
            return dice.choice([["i", dice.randrange(-(2**63), 2**63)], ["s", "127"], ["s", "128"], ["b", True]])
    return data(dice, 1)


def some(dice: random.Random, most: int = 3) -> str:
    return ",".join(dice.sample([*FIELDS, "nothing", "x1"], dice.randrange(1, most + 1)))


def nulls(dice: random.Random, config: dict[str, str]) -> dict[str, str]:
    return config | ({"replace.null.with.default": "false"} if dice.random() < 0.3 else {})


def cast_config(dice: random.Random) -> dict[str, str]:
    types = ["int8", "int16", "int32", "int64", "float32", "float64", "boolean", "string", "String"]
    if dice.random() < 0.15:
        return {"spec": dice.choice([*types, "bytes", "nothing", "a:", ""])}
    names = dice.sample(FIELDS, dice.randrange(1, 5))
    return nulls(dice, {"spec": ",".join(f"{name}:{dice.choice(types)}" for name in names)})


def insert_config(dice: random.Random) -> dict[str, str]:
    config = {}
    for name in dice.sample(["topic", "partition", "offset", "timestamp", "static"], dice.randrange(0, 4)):
        config[f"{name}.field"] = dice.choice(["_" + name, f"_{name}!", f"_{name}?", "x1"])
    if dice.random() < 0.9:
        config["static.value"] = "fixed"
    return nulls(dice, config)


def replace_config(dice: random.Random) -> dict[str, str]:
    config = {}
    if dice.random() < 0.5:
        config["exclude"] = some(dice)
    if dice.random() < 0.4:
        config["include"] = some(dice, 6)
    if dice.random() < 0.5:
        config["renames"] = dice.choice(
            ["id:key", "id:key,name:title", "name:größe", "id", "a:b:c", "id:name", "inner:Aa,tags:BB"]
        )
    return nulls(dice, config)


def header_config(dice: random.Random) -> dict[str, str]:
    names = dice.sample(FIELDS, dice.randrange(1, 3))
    headers = [name.upper() for name in names] + (["more"] if dice.random() < 0.1 else [])
    return nulls(
        dice,
        {"fields": ",".join(names), "headers": ",".join(headers), "operation": dice.choice(["copy", "move", "Copy"])},
    )


def extract_config(dice: random.Random) -> dict[str, str]:
    if dice.random() < 0.5:
        return nulls(dice, {"field": dice.choice(FIELDS)})
    paths = [
        "inner.id",
        "inner.`a.b`",
        "inner.inner.id",
        "id",
        "id.x",
        "inner.",
        "`inner`.id",
        "`inner",
        "tags.0",
        "nothing.id",
    ]
    return nulls(dice, {"field": dice.choice(paths), "field.syntax.version": dice.choice(["V2", "v2", "V2", "V1"])})


def mask_config(dice: random.Random) -> dict[str, str]:
    return nulls(
        dice,
        {"fields": some(dice)}
        | dice.choice([{}, {"replacement": "7"}, {"replacement": "-300.5"}, {"replacement": "xxx"}]),
    )


def timestamp_config(dice: random.Random) -> dict[str, str]:
    config = {"target.type": dice.choice(["string", "unix", "Date", "Time", "Timestamp"])}
    if dice.random() < 0.9:
        config["field"] = dice.choice(["when", "when", "when", "id", "name"])
    if dice.random() < 0.7:
        config["format"] = dice.choice(PATTERNS)
    if dice.random() < 0.4:
        config["unix.precision"] = dice.choice(["seconds", "milliseconds", "microseconds", "nanoseconds", "years"])
    return nulls(dice, config)


def metadata_config(dice: random.Random) -> dict[str, str]:
    return nulls(
        dice,
        dice.choice(
            [
                {"schema.name": "new"},
                {"schema.version": "5"},
                {"schema.name": "n", "schema.version": "0"},
                {},
                {"schema.version": "x"},
            ]
        ),
    )


Configure = Callable[[random.Random], dict[str, str]]
SIDED: dict[str, Configure] = {
    "Cast": cast_config,
    "ExtractField": extract_config,
    "Flatten": lambda dice: dice.choice([{}, {"delimiter": "_"}]),
    "HeaderFrom": header_config,
    "HoistField": lambda dice: {"field": "whole"},
    "InsertField": insert_config,
    "MaskField": mask_config,
    "ReplaceField": replace_config,
    "SetSchemaMetadata": metadata_config,
    "TimestampConverter": timestamp_config,
}
WHOLE: dict[str, Configure] = {
    "DropHeaders": lambda dice: {"headers": dice.choice(["h1", "h2", "h1,h2", ""])},
    "Filter": lambda dice: {},
    "InsertHeader": lambda dice: {
        "header": "h3",
        "value.literal": dice.choice(["7", "x", "2021-05-01", "[1,2]", "null", ""]),
    },
    "RegexRouter": lambda dice: dice.choice(
        [
            {"regex": "(.*)", "replacement": "x-$1"},
            {"regex": "(?<n>[a-z]+)\\.(b)", "replacement": "${n}-$2$1"},
            {"regex": "a|a.b", "replacement": "z"},
            {"regex": "(t.*", "replacement": "z"},
            {"regex": "t(.)pic", "replacement": "\\$1$10"},
            {"regex": "x-7", "replacement": "$3"},
        ]
    ),
    "TimestampRouter": lambda dice: dice.choice(
        [{}, {"timestamp.format": dice.choice(PATTERNS)}, {"topic.format": "${timestamp}/${topic}${topic}"}]
    ),
    "ValueToKey": lambda dice: nulls(dice, {"fields": some(dice)}),
}
