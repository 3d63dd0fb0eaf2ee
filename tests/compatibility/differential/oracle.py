"""Answers as plain trees of dicts, lists and scalars, decoded by kio.

kio shares no code with ottla, so a mistake in our codec cannot hide itself here. Where kio has no class for a version,
or cannot read an answer, our own codec decodes it (`Decoded.by` says which did).
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import uuid
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

from kio.serial import entity_reader

from ottla.errors import ErrorCode
from ottla.protocol.api import APIS, ApiKey, response_header_version
from ottla.protocol.codec import decode, encode
from ottla.protocol.messages.add_partitions_to_txn import AddPartitionsToTxnResponse
from ottla.protocol.records.formats import check_any_crc
from ottla.protocol.records.reader import read_records
from ottla.protocol.records.walk import iter_batches
from ottla.protocol.schema import Struct
from ottla.types import uuid_to_text


class Tree(dict[str, Any]):
    """One message or struct: `tree.topics[0].name` reads better in a script than four brackets."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no field {name!r} among {sorted(self)}") from None


class Decoded(NamedTuple):
    tree: Tree
    by: str
    trailing: int


def decode_answer(key: int, version: int, frame: bytes) -> Decoded:
    """Decode a response frame (without its size); the correlation id was checked by the caller.

    Raises:
        Exception: neither decoder can read it; which exception is the decoder's business.
    """
    position = 4
    if response_header_version(key, version) == 1:
        tags, position = frame[4], 5
        assert tags == 0, "response headers have no tags in any known version"
    try:
        entity, size = _kio_reader(key, version)(frame, position)
        return Decoded(_tree(entity), "kio", len(frame) - position - size)
    except Exception as error:  # a decoder may fail in any way on what a broker made up
        message, end = decode(APIS[ApiKey(key)].response_class(), version, frame, position)
        trailing = len(frame) - end
        if isinstance(message, AddPartitionsToTxnResponse) and _forget_coordinator_epochs(message):
            return Decoded(_tree(_kio_reader(key, version)(encode(message, version), 0)[0]), "kio", trailing)
        return Decoded(_tree(message), f"ottla ({type(error).__name__})", trailing)


def _forget_coordinator_epochs(message: AddPartitionsToTxnResponse) -> bool:
    """Take out what ottla's coordinator tells a broker in a tagged field; whether there was any.

    Readers skip tags that they do not know (KIP-482), Kafka's as well; kio alone refuses them.
    """
    told = [result for result in message.results_by_transaction if result.coordinator_epoch != -1]
    for result in told:
        result.coordinator_epoch = -1
    return bool(told)


@cache
def _kio_reader(key: int, version: int) -> Any:
    name = APIS[ApiKey(key)].module
    module = import_module(f"kio.schema.{name}.v{version}.response")
    title = APIS[ApiKey(key)].name
    return entity_reader(getattr(module, f"{title}Response"))


def _tree(value: Any, name: str = "") -> Any:
    """A value of either decoder in the same plain form."""
    if isinstance(value, Struct):
        return Tree({field: _tree(getattr(value, field), field) for field in type(value).__slots__})
    if dataclasses.is_dataclass(value):
        return Tree({f.name: _tree(getattr(value, f.name), f.name) for f in dataclasses.fields(value)})
    if isinstance(value, list | tuple):
        return [_tree(item, name) for item in value]
    if isinstance(value, datetime.timedelta):
        return round(value.total_seconds() * 1_000)
    if isinstance(value, datetime.datetime):
        return round(value.timestamp() * 1_000)
    if isinstance(value, uuid.UUID):
        return uuid_to_text(value.bytes)
    if name == "records" and value is not None:
        return records_tree(bytes(value))
    if name.endswith("error_code") and isinstance(value, int):
        return ErrorCode(value).name
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, bytes | bytearray | memoryview):
        raw = bytes(value)
        return uuid_to_text(raw) if name.endswith(("topic_id", "directory_id")) else raw.hex()
    if value is None and name.endswith(("topic_id", "directory_id")):
        return uuid_to_text(bytes(16))
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool | float) or value is None:
        return value
    return int(value)


def records_tree(data: bytes) -> list[Any]:
    """The batches of a records field: headers and, decompressed, their records; a partial last batch as bytes."""
    batches: list[Any] = []
    end = 0
    for position, header in iter_batches(data, may_be_cut=True):
        end = position + header.size
        batch = Tree(header._asdict())
        batch["crc_valid"] = check_any_crc(data, position, header)
        batch["records_"] = [list(record) for record in read_records(data, position)]
        batches.append(batch)
    if end < len(data):
        batches.append({"partial_bytes": len(data) - end})
    return batches
