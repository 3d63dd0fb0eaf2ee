"""Runs the cases of transforms and predicates in ottla.connect."""

from __future__ import annotations

from typing import Any

from tests.connect.parity.ours import dump, dump_schema, schema_of, value_of

from ottla.connect.plugins import make_predicate, make_transform
from ottla.connect.records import Header, Record, SinkRecord, SourceRecord

Json = Any


def run_transform(case: dict[str, Json]) -> dict[str, Json]:
    """Return what ours says to a case."""
    if case["op"] == "predicate":
        predicate = make_predicate(case["class"], case["config"])
        return {"test": predicate.test(_record(case["record"]))}
    found = make_transform(case["class"], case["config"]).apply(_record(case["record"]))
    if found is None:
        return {"dropped": True}
    return {
        "topic": found.topic,
        "partition": found.partition,
        "timestamp": found.timestamp,
        "key_schema": dump_schema(found.key_schema),
        "key": dump(found.key, found.key_schema),
        "value_schema": dump_schema(found.value_schema),
        "value": dump(found.value, found.value_schema),
        "headers": [[name, dump_schema(schema), dump(value, schema)] for name, schema, value in found.headers],
    }


def _record(node: dict[str, Json]) -> Record:
    key_schema, value_schema = schema_of(node["key_schema"]), schema_of(node["value_schema"])
    headers = []
    for name, schema, value in node["headers"]:
        made = schema_of(schema)
        headers.append(Header(name, made, value_of(made, value)))
    more: dict[str, Any] = {
        "topic": node["topic"],
        "partition": node["partition"],
        "timestamp": node["timestamp"],
        "key_schema": key_schema,
        "key": value_of(key_schema, node["key"]),
        "value_schema": value_schema,
        "value": value_of(value_schema, node["value"]),
        "headers": tuple(headers),
    }
    if node["offset"] is None:
        return SourceRecord(**more)
    return SinkRecord(**more | {"partition": node["partition"] or 0}, offset=node["offset"])
