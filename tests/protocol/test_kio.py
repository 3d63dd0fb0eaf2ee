"""Our codec against kio's, an independent implementation: same bytes, same values, both ways.

Where kio knows the message and version, for arbitrary messages:
* kio reads our bytes, and every field it finds has the value we wrote (so no two fields are swapped);
* kio writes the same values, and the bytes are ours;
* we read kio's bytes, and get the message back.
"""

from __future__ import annotations

import dataclasses
import io
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import NoneType
from typing import Any, get_args, get_type_hints
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode
from kio.serial import entity_reader, entity_writer
from tests.protocol.messages import at_version, kind_of, structs, versions_of

from ottla.protocol.api import APIS
from ottla.protocol.codec import decode, encode
from ottla.protocol.messages.consumer_protocol import ConsumerProtocolAssignment, ConsumerProtocolSubscription
from ottla.protocol.messages.headers import RequestHeader, ResponseHeader
from ottla.protocol.schema import Field, Message
from ottla.types import ZERO_UUID

# What Kafka 4.4 has and kio 0.6.5, made from Kafka 4.2, has not: checked against Kafka itself in test_kafka_clients.py.
LACKING = {
    "ApiVersionsRequest": [5],
    "ApiVersionsResponse": [5],
    "DeleteGroupsRequest": [3],
    "DeleteGroupsResponse": [3],
    "StreamsGroupDescribeRequest": [1],
    "StreamsGroupDescribeResponse": [1],
    "StreamsGroupHeartbeatRequest": [1],
    "StreamsGroupHeartbeatResponse": [1],
    "StreamsGroupTopologyDescriptionUpdateRequest": [0],
    "StreamsGroupTopologyDescriptionUpdateResponse": [0],
    "TxnOffsetCommitRequest": [6],
    "TxnOffsetCommitResponse": [6],
}

MODULES: dict[type[Message], str] = {
    message: f"kio.schema.{spec.module}.v{{version}}.{kind_of(message)}"
    for spec in APIS.values()
    for message in (spec.request_class(), spec.response_class())
} | {
    RequestHeader: "kio.schema.request_header.v{version}.header",
    ResponseHeader: "kio.schema.response_header.v{version}.header",
    ConsumerProtocolAssignment: "kio.schema.consumer_protocol_assignment.v{version}.data",
    ConsumerProtocolSubscription: "kio.schema.consumer_protocol_subscription.v{version}.data",
}

#: Tagged fields from this number on are ottla's.
OWN_TAGS = 10_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)

# kio makes datetime and timedelta of these, which hold less than an int64.
SECONDS = st.integers(0, 2 * 10**9).map(lambda seconds: seconds * 1000)
ERROR_CODES = st.sampled_from([int(code) for code in ErrorCode])


def representable(field: Field) -> st.SearchStrategy[Any] | None:
    """Return values kio's narrower types can hold, or None if they hold all."""
    if field.tag is not None and field.tag >= OWN_TAGS:
        return st.just(
            int(field.default or -1) if field.type.startswith("int") else ""
        )  # Kafka's messages lack it, and so does one of ours that does not use it
    if field.name.endswith("error_code"):
        return ERROR_CODES
    return SECONDS if field.type == "int64" and field.name.endswith(("_ms", "timestamp")) else None


def kio_class(cls: type[Message], version: int) -> Any | None:
    """Return kio's class of the same name, or None if it lacks the message or version."""
    return _kio_class(MODULES[cls].format(version=version), cls.__name__)


@cache
def _kio_class(module: str, name: str) -> Any | None:
    try:
        found = find_spec(module)
    except ModuleNotFoundError:
        found = None
    return None if found is None else getattr(import_module(module), name)


# Fields Kafka has renamed since: (message or struct, kio's name) -> ours.
RENAMED = {
    ("TxnOffsetCommitRequest", "generation_id"): "generation_id_or_member_epoch",
    ("StreamsGroupHeartbeatResponse", "acceptable_recovery_lag"): "acceptable_recovery_lag_legacy",
}


@cache
def kio_fields(kio: Any, ours: type[Any]) -> list[tuple[str, str, str | None, tuple[Any, ...]]]:
    """Return (kio's name, our name, kafka_type, types) of each field; kio drops `_ms` where it has a type for time."""
    hints = get_type_hints(kio)
    result = []
    for field in dataclasses.fields(kio):
        name = RENAMED.get((ours.__name__, field.name), field.name)
        name = name if hasattr(ours, name) else name + "_ms"
        kinds = get_args(hints[field.name]) or (hints[field.name],)
        result.append((field.name, name, field.metadata.get("kafka_type"), kinds))
    return result


def to_kio(kio: Any, ours: Any) -> Any:
    """Return kio's entity with the values of our message."""
    cls: Any = type(ours)
    return kio(
        **{
            kios_name: to_kio_value(kafka_type, kinds, getattr(ours, name))
            for kios_name, name, kafka_type, kinds in kio_fields(kio, cls)
        }
    )


def to_kio_value(kafka_type: str | None, kinds: tuple[Any, ...], value: Any) -> Any:
    if isinstance(value, list):
        if NoneType in kinds:  # tuple[X, ...] | None
            kinds = get_args(next(kind for kind in kinds if kind is not NoneType))
        return tuple(to_kio_value(kafka_type, kinds, item) for item in value)
    if value is None:
        return None
    match kafka_type:
        case None:
            return to_kio(next(kind for kind in kinds if dataclasses.is_dataclass(kind)), value)
        case "error_code":
            return ErrorCode(value)
        case "timedelta_i32" | "timedelta_i64":
            return value * MILLISECOND
        case "datetime_i64":
            return None if value == -1 else EPOCH + value * MILLISECOND
        case "uuid":
            return None if value == ZERO_UUID else UUID(bytes=value)
        case _:
            return value


def kio_bytes(entity: Any) -> bytes:
    buffer = io.BytesIO()
    entity_writer(type(entity))(buffer, entity)
    return buffer.getvalue()


@pytest.mark.parametrize("cls", list(MODULES), ids=lambda cls: cls.__name__)
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_kio_reads_and_writes_the_same(cls: type[Message], data: st.DataObject) -> None:
    full = data.draw(structs(cls, representable))
    for version in versions_of(cls):
        kio = kio_class(cls, version)
        if kio is None:
            continue
        message = at_version(full, version)
        encoded = encode(message, version)
        expected = to_kio(kio, message)
        assert entity_reader(kio)(encoded, 0) == (expected, len(encoded))
        assert kio_bytes(expected) == encoded
        assert decode(cls, version, kio_bytes(expected)) == (message, len(encoded))


def test_the_list_of_what_kio_lacks_is_exact() -> None:
    lacking = {
        cls.__name__: versions
        for cls in MODULES
        if (versions := [version for version in versions_of(cls) if kio_class(cls, version) is None])
    }
    assert lacking == LACKING
