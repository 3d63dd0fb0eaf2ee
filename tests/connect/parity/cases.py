"""The seeded cases that Java's Connect and ours are given, and how schemas and values look in them.

A schema is null or an object with "type", "optional", "name", "version", "doc", "parameters", "default", "fields", "keys" and
"values", where what is not there is not set. A value is null or [tag, what]: i (integer), f (the bits of a double), b, s, y
(bytes), d (a decimal: digits and scale), m (a moment: milliseconds since 1970), l (list), h (map: entries in order), o
(struct). Which class an integer, a float or a moment is in either language follows from the schema.

A case is {"op": "from" | "to" | "transform" | "predicate", "class": Java's name, "config", ...}.
"""

from __future__ import annotations

import json
import random
import struct
from typing import Any

Json = Any
CONVERTERS = "org.apache.kafka.connect.converters."
JSON_CONVERTER = "org.apache.kafka.connect.json.JsonConverter"
STRING_CONVERTER = "org.apache.kafka.connect.storage.StringConverter"
HEADER_CONVERTER = "org.apache.kafka.connect.storage.SimpleHeaderConverter"
LOGICAL = "org.apache.kafka.connect.data."
SIMPLE = ("INT8", "INT16", "INT32", "INT64", "FLOAT32", "FLOAT64", "BOOLEAN", "STRING", "BYTES")
BITS = {"INT8": 8, "INT16": 16, "INT32": 32, "INT64": 64}
NAMES = ("id", "name", "Zebra", "größe", "a.b", "value", "x", "y", "created", "note", "日本", "q q", 'quo"te', "tab\t")
DAY_MS = 86_400_000


def bits_of(value: float) -> str:
    """Return the bits of a double, in hexadecimal."""
    return struct.pack(">d", value).hex()


def cases() -> list[dict[str, Json]]:
    """Return all cases, always the same."""
    from tests.connect.parity.transform_cases import transform_cases

    dice = random.Random(20260)
    found: list[dict[str, Json]] = []
    found += [with_schema(dice) for _ in range(4500)]
    found += [without_schema(dice) for _ in range(1500)]
    found += [json_text(dice) for _ in range(1000)]
    found += [broken_json(dice) for _ in range(1000)]
    found += [single(dice) for _ in range(1500)]
    found += [header(dice) for _ in range(1000)]
    found += [header_text(dice) for _ in range(2000)]
    found += transform_cases(random.Random(20261))
    return found


# Values


def integer(dice: random.Random, bits: int) -> int:
    match dice.randrange(4):
        case 0:
            return dice.randrange(-10, 100) if bits > 8 else dice.randrange(-10, 10)
        case 1:
            return dice.choice([0, -1, (1 << bits - 1) - 1, -1 << bits - 1])
        case _:
            return dice.randrange(-1 << bits - 1, 1 << bits - 1)


def real(dice: random.Random) -> float:
    match dice.randrange(8):
        case 0:
            return dice.choice([0.0, -0.0, 1.0, 0.1, 100.0, 1e7, 1e-3, 9.999999e6, 1e-5, 123456.789, 1e21, 5e-324])
        case 1:
            return dice.choice([float("inf"), float("-inf"), float("nan"), 1.7976931348623157e308, 2.0**-44, 2e23])
        case 2 | 3:
            found = struct.unpack(">d", dice.getrandbits(64).to_bytes(8, "big"))[0]
            return float(found) if found == found else 0.5
        case 4:
            return round(dice.uniform(-1000, 1000), 2)
        case 5:
            return float(dice.randrange(-(10**9), 10**9))
        case _:
            return dice.uniform(-1, 1) * 10.0 ** dice.randrange(-12, 25)


def single_precision(value: float) -> float:
    try:
        return float(struct.unpack(">f", struct.pack(">f", value))[0])
    except OverflowError:
        return 1.5


def text(dice: random.Random) -> str:
    """Return one of a few hundred texts, which are the same in each run."""
    return TEXTS[int(dice.random() * len(TEXTS))]


def new_text(dice: random.Random) -> str:
    match dice.randrange(5):
        case 0:
            return dice.choice(
                ["", "a", "null", "true", "7", "-1.5", "[1]", "2020-02-29", "\x00\x1f\x7f", '"\\/', "\u2028"]
            )
        case 1:
            return "".join(
                chr(dice.choice([dice.randrange(32, 127), dice.randrange(1, 0xD7FF)])) for _ in range(dice.randrange(9))
            )
        case 2:
            return "".join(dice.choice('😀🎉é\n\r\t\b\f"\\{}[]:,') for _ in range(dice.randrange(9)))
        case _:
            return "".join(dice.choice("abcdefghij XYZ0123456789") for _ in range(dice.randrange(1, 14)))


TEXTS = [new_text(random.Random(number)) for number in range(600)]


def plain(dice: random.Random, kind: str) -> Json:
    """Return a value of a simple type."""
    if kind in BITS:
        return ["i", integer(dice, BITS[kind])]
    match kind:
        case "FLOAT64":
            return ["f", bits_of(real(dice))]
        case "FLOAT32":
            return ["f", bits_of(single_precision(real(dice)))]
        case "BOOLEAN":
            return ["b", dice.random() < 0.5]
        case "STRING":
            return ["s", text(dice)]
    return ["y", dice.randbytes(dice.randrange(8)).hex()]


def decimal(dice: random.Random, scale: int) -> Json:
    digits = dice.choice(
        [0, 1, -1, 127, 128, -128, -129, 255, 256, dice.randrange(-(10**6), 10**6), dice.randrange(-(10**30), 10**30)]
    )
    return ["d", [str(digits), scale]]


# Schemas


def decorated(dice: random.Random, schema: dict[str, Json]) -> dict[str, Json]:
    """Set this and that on a schema."""
    if dice.random() < 0.4:
        schema["optional"] = True
    if dice.random() < 0.1 and "name" not in schema:
        schema["name"] = dice.choice(["com.example.Thing", "größe", 'q"'])
    if dice.random() < 0.1 and "version" not in schema:
        schema["version"] = dice.randrange(5)
    if dice.random() < 0.1:
        schema["doc"] = text(dice)
    if dice.random() < 0.1 and "parameters" not in schema:
        schema["parameters"] = [["zz", "1"], ["a", text(dice)]]
    return schema


def simple_schema(dice: random.Random) -> dict[str, Json]:
    schema = decorated(dice, {"type": dice.choice(SIMPLE)})
    if dice.random() < 0.15:
        schema["default"] = plain(dice, schema["type"])
    return schema


def logical_schema(dice: random.Random) -> dict[str, Json]:
    match dice.randrange(4):
        case 0:
            scale = dice.choice([0, 2, 2, 9, -3, 20])
            schema = {"type": "BYTES", "name": LOGICAL + "Decimal", "version": 1, "parameters": [["scale", str(scale)]]}
        case 1:
            schema = {"type": "INT32", "name": LOGICAL + "Date", "version": 1}
        case 2:
            schema = {"type": "INT32", "name": LOGICAL + "Time", "version": 1}
        case _:
            schema = {"type": "INT64", "name": LOGICAL + "Timestamp", "version": 1}
    return decorated(dice, schema)


def schema(dice: random.Random, depth: int = 0) -> dict[str, Json]:
    """Return a random schema."""
    choice = dice.random()
    if depth > 1 or choice < 0.4:
        return simple_schema(dice)
    if choice < 0.55:
        return logical_schema(dice)
    if choice < 0.65:
        return decorated(dice, {"type": "ARRAY", "values": schema(dice, depth + 1)})
    if choice < 0.75:
        keys = {"type": dice.choice(["STRING", "STRING", "INT32", "INT64", "BOOLEAN", "INT8"])}
        return decorated(dice, {"type": "MAP", "keys": keys, "values": schema(dice, depth + 1)})
    return struct_schema(dice, depth)


def struct_schema(dice: random.Random, depth: int = 0) -> dict[str, Json]:
    names = dice.sample(NAMES, dice.randrange(0, 5))
    return decorated(dice, {"type": "STRUCT", "fields": [[name, schema(dice, depth + 1)] for name in names]})


def value_of(dice: random.Random, wanted: dict[str, Json]) -> Json:
    """Return a value of a schema, now and then one that does not fit."""
    if dice.random() < (0.2 if wanted.get("optional") else 0.01):
        return None
    if dice.random() < 0.004:
        return plain(dice, dice.choice(["STRING", "BOOLEAN"]))
    name = wanted.get("name", "").removeprefix(LOGICAL)
    match name:
        case "Decimal":
            scale = int(wanted["parameters"][0][1])
            return decimal(dice, scale if dice.random() < 0.97 else scale + 1)
        case "Date":
            return ["m", dice.choice([0, dice.randrange(-700_000, 2_000_000)]) * DAY_MS]
        case "Time":
            return ["m", dice.choice([0, 1, DAY_MS - 1, dice.randrange(DAY_MS)])]
        case "Timestamp":
            return ["m", dice.choice([0, 1, 999, -1, DAY_MS, dice.randrange(-(10**13), 10**14)])]
    match wanted["type"]:
        case "ARRAY":
            return ["l", [value_of(dice, wanted["values"]) for _ in range(dice.randrange(4))]]
        case "MAP":
            entries: dict[str, Json] = {}
            for _ in range(dice.choice([0, 1, 1, 2, 3, 14])):
                key = plain(dice, wanted["keys"]["type"])
                entries[json.dumps(key)] = [key, value_of(dice, wanted["values"])]
            return ["h", list(entries.values())]
        case "STRUCT":
            fields = [[field, value_of(dice, inside)] for field, inside in wanted["fields"]]
            return ["o", [entry for entry in fields if entry[1] is not None or dice.random() < 0.5]]
    return plain(dice, wanted["type"])


def data(dice: random.Random, depth: int = 0) -> Json:
    """Return a value without a schema."""
    choice = dice.random()
    if depth > 2 or choice < 0.5:
        return (
            plain(dice, dice.choice(["INT64", "INT64", "FLOAT64", "BOOLEAN", "STRING", "STRING", "BYTES"]))
            if choice > 0.05
            else None
        )
    if choice < 0.65:
        return ["l", [data(dice, depth + 1) for _ in range(dice.randrange(5))]]
    return map_of(dice, dice.choice([0, 1, 2, 3, 3, 6, 7, 13]), depth)


def map_of(dice: random.Random, size: int, depth: int = 0) -> Json:
    """Return a map with text keys."""
    entries = {text(dice) + dice.choice(["", str(number)]): data(dice, depth + 1) for number in range(size)}
    return ["h", [[["s", key], item] for key, item in entries.items()]]


# Cases of converters


def json_config(dice: random.Random, schemas: bool) -> dict[str, str]:
    config = {"schemas.enable": "true" if schemas else "false"}
    if dice.random() < 0.3:
        config["decimal.format"] = dice.choice(["NUMERIC", "numeric", "base64"])
    if dice.random() < 0.3:
        config["replace.null.with.default"] = dice.choice(["true", "false"])
    return config


def case(op: str, name: str, config: dict[str, str], **more: Json) -> dict[str, Json]:
    return {"op": op, "class": name, "config": config, **more}


def with_schema(dice: random.Random) -> dict[str, Json]:
    wanted = schema(dice)
    config = json_config(dice, dice.random() < 0.8)
    return case("from", JSON_CONVERTER, config, schema=wanted, value=value_of(dice, wanted))


def without_schema(dice: random.Random) -> dict[str, Json]:
    return case("from", JSON_CONVERTER, json_config(dice, dice.random() < 0.2), schema=None, value=data(dice))


def json_of(dice: random.Random, depth: int = 0) -> str:
    choice = dice.random()
    if depth > 3 or choice < 0.45:
        return dice.choice(
            [
                "null",
                "true",
                "false",
                "0",
                "-0",
                "7",
                "007",
                "1.0",
                "1.50",
                "-2.5e3",
                "1E+2",
                "1e-7",
                "0.1",
                "12345678901234567890",
                str(dice.randrange(-(2**70), 2**70)),
                repr(round(dice.uniform(-1e6, 1e6), 3)),
                json.dumps(text(dice)),
                '"\\u00e9\\/"',
            ]
        )
    blank = dice.choice(["", "", " ", "\n\t"])
    if choice < 0.6:
        return "[" + f",{blank}".join(json_of(dice, depth + 1) for _ in range(dice.randrange(4))) + "]"
    entries = (
        f"{json.dumps(text(dice))}{blank}:{json_of(dice, depth + 1)}" for _ in range(dice.choice([0, 1, 2, 5, 13]))
    )
    return "{" + blank + ",".join(entries) + "}"


def json_text(dice: random.Random) -> dict[str, Json]:
    """JSON that somebody else wrote, read without schemas."""
    return case("to", JSON_CONVERTER, {"schemas.enable": "false"}, bytes=json_of(dice).encode().hex())


_BROKEN = (
    '{"schema":{"type":"int32","optional":false},"payload":7}',
    '{"schema":{"type":"struct","fields":[{"field":"a","type":"int32"},{"field":"b","type":"string","optional":true}]},"payload":{"a":1,"b":"x"}}',
    '{"schema":{"type":"array","items":{"type":"int8"}},"payload":[1,2,300]}',
    '{"schema":{"type":"map","keys":{"type":"int32"},"values":{"type":"string"}},"payload":[[1,"a"],[2,"b"]]}',
    '{"schema":{"type":"map","keys":{"type":"string"},"values":{"type":"double"}},"payload":{"a":1.5}}',
    '{"schema":{"type":"bytes","name":"org.apache.kafka.connect.data.Decimal","parameters":{"scale":"2"}},"payload":"AMg="}',
    '{"schema":{"type":"int64","name":"org.apache.kafka.connect.data.Timestamp","version":1},"payload":1}',
    '{"schema":{"type":"int32","name":"org.apache.kafka.connect.data.Date"},"payload":19000}',
    '{"schema":{"type":"int32","name":"org.apache.kafka.connect.data.Time"},"payload":5}',
    '{"schema":{"type":"bytes"},"payload":"AQID"}',
    '{"schema":{"type":"float","default":1.5},"payload":null}',
    '{"schema":null,"payload":{"a":[1,"x",null]}}',
    '{"schema":{"type":"boolean","optional":true,"doc":"d","version":2},"payload":true}',
)
_PIECES = ("null", "true", "0", "-1", "3.7", "1e3", '"x"', '"AQ=="', "[]", "{}", '"type"', "99999999999", "")


def broken_json(dice: random.Random) -> dict[str, Json]:
    """JSON with a schema in which something was changed."""
    parts = [*json_parts(dice.choice(_BROKEN))]
    for _ in range(dice.choice([0, 1, 1, 1, 2])):
        spots = [number for number, part in enumerate(parts) if part not in list("{}[],:")]
        parts[dice.choice(spots)] = dice.choice(_PIECES)
    if dice.random() < 0.1:
        del parts[dice.randrange(len(parts))]
    return case("to", JSON_CONVERTER, {"schemas.enable": "true"}, bytes="".join(parts).encode().hex())


def json_parts(given: str) -> list[str]:
    """Split JSON into its signs and its words."""
    parts: list[str] = []
    word = ""
    for char in given:
        if char in "{}[],:" and not (word.startswith('"') and not word.endswith('"')):
            parts += [word, char] if word else [char]
            word = ""
        else:
            word += char
    return [*parts, word] if word else parts


def single(dice: random.Random) -> dict[str, Json]:
    """A converter of single values, given its own type or another one; or bytes."""
    own = {
        "Short": "INT16",
        "Integer": "INT32",
        "Long": "INT64",
        "Float": "FLOAT32",
        "Double": "FLOAT64",
        "Boolean": "BOOLEAN",
        "ByteArray": "BYTES",
    }
    name = dice.choice([*own, "String"])
    java = STRING_CONVERTER if name == "String" else f"{CONVERTERS}{name}Converter"
    if dice.random() < 0.3:
        size = dice.choice([0, 1, 2, 4, 8, dice.randrange(12)])
        return case("to", java, {}, bytes=None if dice.random() < 0.1 else dice.randbytes(size).hex())
    if name == "String":
        wanted = schema(dice, 1)
        while "BYTES" in json.dumps(wanted) and "Decimal" not in json.dumps(wanted):
            wanted = schema(dice, 1)
        return case("from", java, {}, schema=wanted, value=value_of(dice, wanted))
    kind = own[name] if dice.random() < 0.9 else dice.choice(SIMPLE)
    return case("from", java, {}, schema={"type": kind}, value=None if dice.random() < 0.05 else plain(dice, kind))


def header(dice: random.Random) -> dict[str, Json]:
    wanted = schema(dice, 1)
    return case("from", HEADER_CONVERTER, {}, schema=wanted, value=value_of(dice, wanted))


def header_text(dice: random.Random) -> dict[str, Json]:
    return case("to", HEADER_CONVERTER, {}, bytes=literal(dice).encode().hex())


def literal(dice: random.Random, depth: int = 0) -> str:
    choice = dice.random()
    if depth < 3 and choice < 0.2:
        items = dice.choice([",", ", ", " , "]).join(literal(dice, depth + 1) for _ in range(dice.randrange(4)))
        return dice.choice(["[{}]", "[{}]", "[{}]", "[ {} ]", "[{}", "{}]", "[{},]"]).format(items)
    if depth < 3 and choice < 0.35:
        entries = ",".join(
            f"{literal(dice, 3)}{dice.choice([':', ' : '])}{literal(dice, depth + 1)}" for _ in range(dice.randrange(3))
        )
        return "{" + entries + dice.choice(["}", "}", "}", ""])
    return dice.choice(
        [
            "null",
            "true",
            "false",
            " true",
            "TRUE",
            "1",
            "-1",
            "+5",
            "127",
            "128",
            "-129",
            "40000",
            "3000000000",
            "1.5",
            "-0.0",
            ".5",
            "5.",
            "1e3",
            "1E-3",
            "1e400",
            "1e-400",
            "1.0",
            "12345678901234567890",
            "123456789012345678901234567890.5",
            "3.4e38",
            "3.5e38",
            "1.7",
            "2021-05-01",
            "1969-12-31",
            "23:59:59.999Z",
            "00:00:00.000Z",
            "2021-05-01T12:34:56.789Z",
            "2021-13-45",
            "2021-5-001",
            "20:1:1.1Z",
            '"2021-05-01"',
            '"a"',
            '"a\\"b"',
            '"[1]"',
            '""',
            '"x,y"',
            "abc",
            "a b",
            " a",
            "a:b",
            "1:2",
            "a,b",
            "\\:",
            "12\\:30",
            "-",
            "+",
            "1x",
            "é",
            "{",
            "}",
            "[",
            "]",
            "[]",
            "{}",
            ":",
            ",",
            "  ",
            '"',
            "\\",
            "2021-05-01 x",
            str(integer(dice, 64)),
            repr(real(dice)),
            text(dice),
        ]
    )
