"""Offsets of sources: their bytes, and which of them may be written down.

No I/O. Of each part of a source only the longest run of acknowledged records from the front counts: a record that
is acknowledged before an earlier one waits for it, else a crash would lose the earlier one.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ottla.connect.converters.json_converter import JsonConverter
from ottla.connect.errors import DataError
from ottla.connect.java_map import hash_map

_JSON = JsonConverter({"schemas.enable": "false"})


def canonical(connector: str, partition: Mapping[str, Any]) -> str:
    """Return a text that is equal for equal partitions of a connector."""
    return json.dumps([connector, dict(partition)], sort_keys=True)


def key_bytes(connector: str, partition: Mapping[str, Any]) -> bytes:
    """Return the key of a new offset, in the order of Java's HashMap."""
    found = _JSON.from_connect("", None, [connector, hash_map(partition.items())])
    assert found is not None
    return found


def value_bytes(offset: Mapping[str, Any] | None) -> bytes | None:
    """Return the value of an offset.

    Raises:
        DataError: it would not come back as it is: only names and plain values do.
    """
    if offset is None:
        return None
    for name, part in offset.items():
        if not isinstance(name, str) or not (part is None or isinstance(part, str | int | float | bool)):
            raise DataError(
                f"The offset {dict(offset)} holds {name!r}: {part!r}; offsets are names with texts, numbers and booleans"
            )
    return _JSON.from_connect("", None, dict(offset))


def is_of(key: bytes, connector: str) -> bool:
    """Whether an offset with these bytes as its key is one of a connector."""
    return connector_of(key) == connector


def connector_of(key: bytes) -> str | None:
    """Return whose an offset with these bytes as its key is; None: they are none of Connect's."""
    found = _read(key)
    return found[0] if isinstance(found, list) and len(found) == 2 and isinstance(found[0], str) else None


class KeptOffsets:
    """What was written down for the connectors of a worker, by the bytes of its keys."""

    def __init__(self, entries: Mapping[bytes, bytes | None]) -> None:
        self.entries: dict[bytes, bytes | None] = {}
        self._keys: dict[str, bytes] = {}
        self.load(entries)

    def load(self, entries: Mapping[bytes, bytes | None]) -> None:
        """Take what was written down."""
        self.entries |= entries
        for key in entries:
            found = _read(key)
            if isinstance(found, list) and len(found) == 2 and isinstance(found[1], dict):
                self._keys[canonical(str(found[0]), found[1])] = key

    def find(self, connector: str, partition: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the offset of a part of a source, or None."""
        key = self._keys.get(canonical(connector, partition))
        data = None if key is None else self.entries.get(key)
        found = None if data is None else _read(data)
        return found if isinstance(found, dict) else None

    def set(
        self, connector: str, partition: Mapping[str, Any], offset: Mapping[str, Any] | None
    ) -> tuple[bytes, bytes | None]:
        """Take an offset; return the bytes of its key, which stay what they were, and of its value."""
        key = self._keys.setdefault(canonical(connector, partition), key_bytes(connector, partition))
        self.entries[key] = value_bytes(offset)
        return key, self.entries[key]


def _read(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


class Receipt(Protocol):
    """The acknowledgement of a record, to come."""

    def done(self) -> bool:
        """Whether there is an outcome."""

    def result(self, timeout: float | None = None) -> object:
        """Raise if the record was not delivered."""


class Receipts:
    """The acknowledgements of several records, as one.

    Attributes:
        count: how many records.
    """

    def __init__(self, receipts: Sequence[Receipt]) -> None:
        self.count = len(receipts)
        self._left = list(reversed(receipts))

    def done(self) -> bool:
        """Whether all have an outcome.

        Raises:
            Exception: a record was not delivered.
        """
        while self._left and self._left[-1].done():
            self._left[-1].result(0)  # if it raises, it does so again when it is asked again
            self._left.pop()
        return not self._left

    def result(self, timeout: float | None = None) -> object:
        """Raise if a record was not delivered."""
        for receipt in self._left:
            receipt.result(timeout)
        return None


class _Entry:
    __slots__ = ("offset", "receipt")

    def __init__(self, offset: Mapping[str, Any] | None, receipt: Receipt | None) -> None:
        self.offset = offset
        self.receipt = receipt


class Submitted:
    """Records that were sent, by part of the source, in order."""

    def __init__(self) -> None:
        self._queues: dict[str, tuple[Mapping[str, Any], deque[_Entry]]] = {}
        #: The part that was given last, what it said then, and its queue: most sources give the same one again and again.
        self._last: tuple[Mapping[str, Any], dict[str, Any], deque[_Entry]] | None = None

    def add(self, partition: Mapping[str, Any], offset: Mapping[str, Any] | None, receipt: Receipt | None) -> None:
        """Note a record; one that was filtered has no receipt, and counts as acknowledged."""
        last = self._last
        if last is None or last[0] is not partition or last[1] != partition:
            key = json.dumps(dict(partition), sort_keys=True, default=str)
            told = dict(partition)
            _, queue = self._queues.setdefault(key, (told, deque()))
            self._last = last = partition, told, queue
        last[2].append(_Entry(None if offset is None else dict(offset), receipt))

    def take(self) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
        """Return the newest offset of each part whose records up to it are acknowledged, and forget these records.

        Raises:
            Exception: why a record was not delivered. No offset after it is ever returned.
        """
        found = []
        for partition, queue in self._queues.values():
            newest: Mapping[str, Any] | None = None
            while queue and (queue[0].receipt is None or queue[0].receipt.done()):
                receipt = queue[0].receipt
                if receipt is not None:
                    receipt.result(0)
                entry = queue.popleft()
                newest = entry.offset if entry.offset is not None else newest
            if newest is not None:
                found.append((partition, newest))
        return found

    def __len__(self) -> int:
        return sum(
            entry.receipt.count if isinstance(entry.receipt, Receipts) else 1
            for _, queue in self._queues.values()
            for entry in queue
        )
