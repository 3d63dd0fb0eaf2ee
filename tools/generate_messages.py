#!/usr/bin/env python3
"""Generate `ottla.protocol.messages` from the message definitions inside Apache Kafka's jars.

    python tools/generate_messages.py [--version 4.4.0] [--output DIR] [JAR ...]

Without jars it looks for them in Maven's local repository; `mvn dependency:get
-Dartifact=org.apache.kafka:kafka-clients:4.4.0` puts one there. Only facts are taken (names, types, versions,
defaults); Kafka's descriptions of the fields are left where they are. The result is formatted
with ruff and committed, so a build needs neither Kafka nor this tool.

Names: fields in snake case of the JSON name; classes under Kafka's own names. Where two messages of one module use
a struct name for different fields, each class is prefixed by the name of its message.
"""

from __future__ import annotations

import argparse
import json
import keyword
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Json = dict[str, Any]

REPOSITORY = Path(__file__).resolve().parent.parent
OUTPUT = REPOSITORY / "src" / "ottla" / "protocol" / "messages"
MAVEN = Path.home() / ".m2" / "repository" / "org" / "apache" / "kafka"
ARTIFACTS = ("kafka-clients", "kafka-group-coordinator", "kafka-share-coordinator", "kafka-transaction-coordinator")

# Spoken between the nodes of a KRaft quorum, or to its controllers only; 4-7 have had no versions since Kafka 4.0.
KRAFT_ONLY = frozenset([4, 5, 6, 7, 52, 53, 54, 59, 62, 63, 67, 70, 73, 80, 81, 82, 94])

# Tagged fields that brokers of ottla tell each other, by message or by message and struct. Kafka's programs skip tags that
# they do not know; the numbers are far from those that Kafka gives out.
_SENDER: list[Json] = [
    {"name": "BrokerId", "type": "int32", "taggedVersions": "0+", "tag": 10000, "default": "-1"},
    {"name": "BrokerEpoch", "type": "int64", "taggedVersions": "0+", "tag": 10001, "default": "-1"},
    {"name": "ConnectionNumber", "type": "int64", "taggedVersions": "0+", "tag": 10002, "default": "-1"},
]
EXTENSIONS: dict[tuple[str, ...], list[Json]] = {
    ("EnvelopeRequest",): [
        {"name": "BrokerId", "type": "int32", "taggedVersions": "0+", "tag": 10000, "default": "-1"},
        {"name": "Process", "type": "string", "taggedVersions": "0+", "tag": 10001},
    ],
    # Version 0 of WriteTxnMarkers is gone.
    ("WriteTxnMarkersRequest",): _SENDER,
    ("InitializeShareGroupStateRequest",): _SENDER,
    ("DeleteShareGroupStateRequest",): _SENDER,
    ("AddPartitionsToTxnResponse", "AddPartitionsToTxnResult"): [
        {"name": "CoordinatorEpoch", "type": "int32", "taggedVersions": "4+", "tag": 10000, "default": "-1"},
    ],
}

# Modules that do not belong to one API: title, and the messages in them (a jar's name stands for all records in it).
FAMILIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "headers": ("Request and response headers", ("RequestHeader", "ResponseHeader")),
    "control_records": (
        "Control records and the transaction index",
        ("ControlRecordTypeSchema", "EndTxnMarker", "AbortedTxn"),
    ),
    "consumer_protocol": (
        "What classic consumers carry inside JoinGroup and SyncGroup",
        ("ConsumerProtocolSubscription", "ConsumerProtocolAssignment"),
    ),
    "group_records": ("Records of __consumer_offsets", ("kafka-group-coordinator",)),
    "transaction_records": ("Records of __transaction_state", ("kafka-transaction-coordinator",)),
    "share_records": ("Records of __share_group_state", ("kafka-share-coordinator",)),
}

PYTHON_TYPES = {
    "bool": "bool",
    "int8": "int",
    "int16": "int",
    "uint16": "int",
    "int32": "int",
    "uint32": "int",
    "int64": "int",
    "float64": "float",
    "string": "str",
    "bytes": "bytes",
    "uuid": "bytes",
    "records": "bytes | bytearray | memoryview",
}


def snake_case(name: str) -> str:
    """`TransactionalId` -> `transactional_id`; a Python keyword gets a trailing underscore."""
    result = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return result + "_" if keyword.iskeyword(result) else result


def read_definitions(jar: Path) -> Iterator[Json]:
    """Yield the message definitions of one jar, in order of name; comment lines are not JSON and go first."""
    with zipfile.ZipFile(jar) as archive:
        for name in sorted(archive.namelist()):
            if name.startswith("common/message/") and name.endswith(".json"):
                text = archive.read(name).decode()
                definition: Json = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
                definition["artifact"] = re.sub(r"-\d.*$", "", jar.stem)
                extend(definition)
                yield definition


def extend(definition: Json) -> None:
    """Add our own fields to a message that has some."""
    for (message, *structs), fields in EXTENSIONS.items():
        if message != definition["name"]:
            continue
        if structs:
            structs_of(definition)[structs[0]][1].extend(fields)
        else:
            definition["fields"].extend(fields)


def find_jars(version: str) -> list[Path]:
    """Return the jars in Maven's local repository, or exit saying which is missing."""
    jars = [MAVEN / artifact / version / f"{artifact}-{version}.jar" for artifact in ARTIFACTS]
    missing = [jar.name for jar in jars if not jar.is_file()]
    if missing:
        sys.exit(f"not in Maven's local repository: {', '.join(missing)}; fetch them or name the jars")
    return jars


def assign_modules(definitions: Iterable[Json]) -> dict[str, tuple[str, list[Json]]]:
    """Return module name -> (title, definitions)."""
    modules: dict[str, tuple[str, list[Json]]] = {}
    families = {member: module for module, (_, members) in FAMILIES.items() for member in members}
    for definition in definitions:
        name, kind = definition["name"], definition["type"]
        if definition["validVersions"] == "none":
            continue
        if kind in ("request", "response"):
            if definition["apiKey"] in KRAFT_ONLY:
                continue
            api = re.sub(r"(Request|Response)$", "", name)
            module, title = snake_case(api), f"The {api} API (key {definition['apiKey']})"
        else:
            module = families.get(name) or families.get(definition["artifact"], "")
            if not module:
                continue
            title = FAMILIES[module][0]
        modules.setdefault(module, (title, []))[1].append(definition)
    for title, members in modules.values():
        if title.endswith("Records") or members[0]["type"].startswith("coordinator"):
            members.sort(key=lambda member: (member["apiKey"], member["type"]))
    return modules


def structs_of(definition: Json) -> dict[str, tuple[str, list[Json]]]:
    """Return the nested structs of a message in order of appearance: name -> (path of its first use, fields)."""
    common = {struct["name"]: struct["fields"] for struct in definition.get("commonStructs", ())}
    found: dict[str, tuple[str, list[Json]]] = {}

    def visit(fields: list[Json], path: str) -> None:
        for field in fields:
            kind = field["type"].removeprefix("[]")
            if kind in PYTHON_TYPES:
                continue
            nested = field.get("fields") or common[kind]
            here = f"{path}.{snake_case(field['name'])}"
            if kind not in found:
                found[kind] = (here, nested)
                visit(nested, here)

    visit(definition["fields"], definition["name"])
    return found


def without_prose(fields: list[Json]) -> str:
    def strip(field: Json) -> Json:
        return {
            key: [strip(nested) for nested in value] if key == "fields" else value
            for key, value in field.items()
            if key not in ("about", "entityType", "mapKey")
        }

    return json.dumps([strip(field) for field in fields], sort_keys=True)


def class_names(definitions: list[Json]) -> dict[tuple[str, str], str]:
    """Return (message, struct) -> class name, prefixed where one name stands for different fields."""
    shapes: dict[str, set[str]] = {}
    for definition in definitions:
        for struct, (_, fields) in structs_of(definition).items():
            shapes.setdefault(struct, set()).add(without_prose(fields))
    taken = {definition["name"] for definition in definitions}
    return {
        (definition["name"], struct): struct
        if len(shapes[struct]) == 1 and struct not in taken
        else definition["name"] + struct
        for definition in definitions
        for struct in structs_of(definition)
    }


class FieldText:
    """The texts one field contributes to its class."""

    def __init__(self, field: Json, rename: dict[str, str]) -> None:
        self.name = snake_case(field["name"])
        raw = field["type"]
        array = raw.startswith("[]")
        kind = raw.removeprefix("[]")
        struct = kind not in PYTHON_TYPES
        kind = rename.get(kind, kind)
        nullable = field.get("nullableVersions", "none") != "none"
        default = field.get("default")
        null = default == "null" or (kind == "records" and default is None)

        value_type = kind if struct else PYTHON_TYPES[kind]
        if array:
            value_type = f"list[{value_type}]"
        self.type = f"{value_type} | None" if nullable else value_type

        self.row = self._row(field, ("[]" if array else "") + kind)
        self.store = f"self.{self.name} = {self.name}"
        if null:
            self.parameter = f"{self.name}: {value_type} | None = None"
        elif array:
            self.parameter = f"{self.name}: {self.type} = EMPTY"
            self.store = f"self.{self.name}: {self.type} = [] if {self.name} is EMPTY else {self.name}"
        elif struct:
            self.parameter = f"{self.name}: {self.type} = EMPTY"
            self.store = f"self.{self.name}: {self.type} = {kind}() if {self.name} is EMPTY else {self.name}"
        else:
            self.parameter = f"{self.name}: {self.type} = {literal(kind, default)}"

    def _row(self, field: Json, kind: str) -> str:
        # A definition may leave out the versions of a tagged field: they are its tagged versions.
        words = [self.name, kind, field.get("versions") or field["taggedVersions"]]
        if field.get("nullableVersions", "none") != "none":
            words.append(f"nullable={field['nullableVersions']}")
        if "tag" in field:
            words.append(f"tag={field['tag']}:{field['taggedVersions']}")
        default = field.get("default")
        if default == "null":
            words.append("default=null")
        elif default not in (None, "", 0, "0", "false"):
            words.append(f"default={literal(kind, default)}")
        if field.get("ignorable") in (True, "true"):
            words.append("ignorable")
        if field.get("flexibleVersions") == "none":
            words.append("inflexible")
        return " ".join(words)


def literal(kind: str, default: Any) -> str:
    """Return a primitive's default as Python source."""
    match kind:
        case "bool":
            return str(str(default).lower() == "true")
        case "string":
            return json.dumps(default or "")
        case "bytes" | "records":
            return 'b""'
        case "uuid":
            return "ZERO_UUID"
        case "float64":
            return repr(float(default or 0))
        case _:
            return str(int(str(default or 0), 0))


def class_source(
    name: str, base: str, doc: str, constants: list[str], fields: list[Json], rename: dict[str, str]
) -> str:
    """Return the source of one class; `base` is Message or Struct."""
    texts = [FieldText(field, rename) for field in fields]
    lines = [f"class {name}({base}):", f'    """{doc}"""', ""]
    lines.append(f"    __slots__ = ({''.join(f'{json.dumps(text.name)}, ' for text in texts)})")
    lines += [f"    {constant}" for constant in constants]
    if texts:
        lines += ["    SCHEMA = (", *(f"        {json.dumps(text.row)}," for text in texts), "    )", ""]
        lines += ["    def __init__(", "        self,", "        *,", *(f"        {text.parameter}," for text in texts)]
        lines += ["    ) -> None:", *(f"        {text.store}" for text in texts)]
    return "\n".join(lines) + "\n"


def describe_versions(definition: Json) -> str:
    valid, flexible = definition["validVersions"], definition.get("flexibleVersions", "none")
    text = f"version{'s' if '-' in valid else ''} {valid}"
    if flexible == "none":
        return text + ", never flexible"
    text += f", flexible {flexible}" if flexible != "0+" else ", flexible"
    return text + (", the highest unstable" if definition.get("latestVersionUnstable") else "")


def module_source(title: str, definitions: list[Json]) -> str:
    names = class_names(definitions)
    bodies: list[str] = []
    written: set[str] = set()
    for definition in definitions:
        message = definition["name"]
        rename = {struct: name for (owner, struct), name in names.items() if owner == message}
        constants = []
        if "apiKey" in definition:
            constants.append(f"API_KEY = {definition['apiKey']}")
        low, _, high = definition["validVersions"].partition("-")
        constants.append(f"VERSIONS = ({low}, {high or low})")
        flexible = definition.get("flexibleVersions", "none")
        if flexible != "none":
            constants.append(f"FLEXIBLE = ({flexible.removesuffix('+')}, {high or low})")
        doc = f"{describe_versions(definition)}."
        kind = {"coordinator-key": "Key of a record of type", "coordinator-value": "Value of a record of type"}.get(
            definition["type"]
        )
        doc = f"{kind} {definition['apiKey']}: {doc}" if kind else doc[0].upper() + doc[1:]
        bodies.append(class_source(message, "Message", doc, constants, definition["fields"], rename))
        for struct, (path, fields) in structs_of(definition).items():
            if rename[struct] not in written:
                written.add(rename[struct])
                bodies.append(class_source(rename[struct], "Struct", f"In `{path}`.", [], fields, rename))
    text = "\n\n".join(bodies)
    used = [name for name in ("EMPTY", "Message", "Struct") if re.search(rf"\b{name}\b", text)]
    imports = f"from ottla.protocol.schema import {', '.join(used)}\n"
    if "ZERO_UUID" in text:
        imports += "from ottla.types import ZERO_UUID\n"
    header = f'"""{title}. Generated by tools/generate_messages.py; do not edit."""'
    return f"{header}\n\nfrom __future__ import annotations\n\n{imports}\n\n{text}"


def generate(jars: Iterable[Path], output: Path) -> list[Path]:
    """Write one module per API and family into `output`; return the files written."""
    definitions = [definition for jar in jars for definition in read_definitions(jar)]
    written = []
    for module, (title, members) in sorted(assign_modules(definitions).items()):
        path = output / f"{module}.py"
        path.write_text(module_source(title, members))
        written.append(path)
    subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", "--line-length", "120", *written], check=True)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description="Generate ottla.protocol.messages from Apache Kafka's jars.")
    parser.add_argument("jars", nargs="*", type=Path, help="jars holding message definitions (default: Maven's)")
    parser.add_argument("--version", default="4.4.0", help="Kafka version to look for in Maven's local repository")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    written = generate(arguments.jars or find_jars(arguments.version), arguments.output)
    print(f"wrote {len(written)} modules to {arguments.output}")


if __name__ == "__main__":
    main()
