"""What a consumer hands out: records, whose keys, values, headers and times are made when they are looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import repeat
from typing import TYPE_CHECKING, ClassVar, Final, Generic, Protocol, overload

from ottla.client._core.batch import Headers as Pairs
from ottla.client._core.handing import Common, extension
from ottla.client._core.partitions import PartitionState
from ottla.client.errors import DeserializationError
from ottla.protocol.records import column_kernels
from ottla.protocol.records._columns_plain import Buffers, Used
from ottla.types import TopicPartition

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from ottla.client.columns import Columns

    #: What deserializers make; bytes without one.
    K = TypeVar("K", default=bytes | None)
    V = TypeVar("V", default=bytes | None)
    T_co = TypeVar("T_co", covariant=True)
else:
    from typing import TypeVar

    K = TypeVar("K")
    V = TypeVar("V")
    T_co = TypeVar("T_co", covariant=True)


class DeserializerFunction(Protocol[T_co]):
    """Makes an object of the bytes of a key or value: any function of (topic, bytes)."""

    def __call__(self, topic: str, data: bytes, /) -> T_co: ...


class DeserializerObject(Protocol[T_co]):
    """The same as an object with a method; `ottla.serde` has ready ones.

    With an attribute `null_is_error` that is true, None counts as what cannot be deserialized; else None stays None.
    """

    def deserialize(self, topic: str, data: bytes, /) -> T_co: ...


#: What consumers take as `key_deserializer=` and `value_deserializer=`.
Deserializer = DeserializerFunction[T_co] | DeserializerObject[T_co]


class Headers(Mapping[str, bytes | None]):
    """The headers of a record: a mapping in which the last of several with one name counts."""

    __slots__ = ("_pairs",)

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs

    def __getitem__(self, name: str) -> bytes | None:
        for found, value in reversed(self._pairs):
            if found == name:
                return value
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for name, _ in self._pairs))

    def __len__(self) -> int:
        return len({name for name, _ in self._pairs})

    def get_all(self, name: str) -> list[bytes | None]:
        """Return every value of a name, in order."""
        return [value for found, value in self._pairs if found == name]

    def multi_items(self) -> Sequence[tuple[str, bytes | None]]:
        """Return all pairs, in order."""
        return self._pairs

    def __repr__(self) -> str:
        return f"Headers({list(self._pairs)!r})"


#: (offset, timestamp in ms, key, value, headers), as the kernels give it.
Row = tuple[int, int, bytes | None, bytes | None, Pairs]


#: Records that are made at once while a batch is iterated over.
_PIECE: Final = 500


class Source(Common, Generic[K, V]):
    """What the records of one batch have in common; `owner` is the partition as it was assigned when it was read."""

    __slots__ = ()

    def __init__(
        self,
        topic: str,
        partition: int,
        leader_epoch: int,
        deserialize_key: Callable[[str, bytes], K] | None,
        deserialize_value: Callable[[str, bytes], V] | None,
        owner: PartitionState | None = None,
    ) -> None:
        super().__init__()
        self.owner: PartitionState | None = owner
        self.topic: str = topic
        self.partition: int = partition
        self.leader_epoch: int = leader_epoch
        self.deserialize_key: Callable[[str, bytes], K] | None = deserialize_key
        self.deserialize_value: Callable[[str, bytes], V] | None = deserialize_value

    def is_like(self, other: Source[K, V]) -> bool:
        """Whether records of the other one may count as this one's: of one consumer they differ in nothing else."""
        return (
            self.owner is other.owner
            and self.leader_epoch == other.leader_epoch
            and self.partition == other.partition
            and self.topic == other.topic
        )


class Record(Generic[K, V]):
    """One record. Two references, to its row and to what its batch has in common: everything else is made on access."""

    __slots__ = ("_row", "_source")

    def __init__(self, source: Source[K, V], row: Row) -> None:
        self._source = source
        self._row = row

    @property
    def topic(self) -> str:
        """The topic."""
        return self._source.topic

    @property
    def partition(self) -> int:
        """The partition."""
        return self._source.partition

    @property
    def offset(self) -> int:
        """The offset in its partition."""
        return self._row[0]

    @property
    def timestamp_ms(self) -> int:
        """Milliseconds since 1970; -1 if it has none."""
        return self._row[1]

    @property
    def key_bytes(self) -> bytes | None:
        """The key as it was written."""
        return self._row[2]

    @property
    def value_bytes(self) -> bytes | None:
        """The value as it was written; None is a tombstone."""
        return self._row[3]

    @property
    def leader_epoch(self) -> int:
        """The epoch of the leader that wrote its batch; -1 if that is not known."""
        return self._source.leader_epoch

    @property
    def key(self) -> K:
        """The key, deserialized; None stays None.

        Raises:
            DeserializationError: the bytes are not what the deserializer expects; `key_bytes` has them.
        """
        data, deserialize = self._row[2], self._source.deserialize_key
        if deserialize is None:
            return data  # type: ignore[return-value]
        return self._made(data, deserialize, "key")

    @property
    def value(self) -> V:
        """The value, deserialized; None, a tombstone, stays None.

        Raises:
            DeserializationError: the bytes are not what the deserializer expects; `value_bytes` has them.
        """
        data, deserialize = self._row[3], self._source.deserialize_value
        if deserialize is None:
            return data  # type: ignore[return-value]
        return self._made(data, deserialize, "value")

    @property
    def headers(self) -> Headers:
        """The headers."""
        return Headers(self._row[4])

    @property
    def timestamp(self) -> datetime | None:
        """The time as an aware datetime in UTC; None if the record has none."""
        return datetime.fromtimestamp(self.timestamp_ms / 1000, UTC) if self.timestamp_ms >= 0 else None

    @property
    def topic_partition(self) -> TopicPartition:
        """Topic and partition."""
        return TopicPartition(self.topic, self.partition)

    def _made(self, data: bytes | None, deserialize: Callable[[str, bytes], T_co], what: str) -> T_co:
        try:
            if data is None:
                if getattr(getattr(deserialize, "__self__", None), "null_is_error", False):
                    raise ValueError(f"it is None, and {deserialize.__self__!r} takes none")  # type: ignore[attr-defined]
                return None  # type: ignore[return-value]
            return deserialize(self.topic, data)
        except Exception as error:
            raise DeserializationError(
                f"The {what} of the record at {self.topic}-{self.partition}, offset {self.offset}, cannot be deserialized: "
                f"{error}",
                record=self,
                part=what,
            ) from error

    def __repr__(self) -> str:
        return f"<Record {self.topic}-{self.partition}@{self.offset} key={self.key_bytes!r} value={self.value_bytes!r}>"


#: The class above, which is what there is without a compiler.
PlainRecord = Record


def make_records(source: Source[K, V], buffers: Buffers, used: Used, start: int, stop: int) -> list[Record[K, V]]:
    """Return the records of rows; `_columns_plain` describes the buffers."""
    return list(map(PlainRecord, repeat(source), column_kernels.make_rows(buffers, used, start, stop)))


plain_records = make_records

if not TYPE_CHECKING and extension is not None:

    class _Helpers:
        """What of a compiled record is made by Python: by the class that it stands for."""

        made = Record._made
        headers = Headers
        timestamp = Record.timestamp.fget
        show = Record.__repr__

    extension.set_helpers(_Helpers)
    Record = extension.Record
    make_records = extension.make_records


class Batch(Generic[K, V]):
    """Records that were taken together, of one or more partitions; those of one partition in their order. Never empty.

    A batch is columns. It goes into whatever knows Arrow's PyCapsule interface without an object per record, and without
    a copy where the library takes one:

        polars.DataFrame(batch)   pyarrow.record_batch(batch)   pandas.DataFrame.from_arrow(batch)   duckdb.sql("from batch")

    Columns: topic (large_string), partition (int32), offset (int64), timestamp (milliseconds, UTC; null where there is none),
    key and value (large_binary, as they were written: deserializers are for records), headers (large_list of name and
    value).

    It is a sequence of records as well, which are made when they are looked at. It does not call itself `Sequence`: what
    makes frames of sequences would go through the records one by one.
    """

    __slots__ = ("_columns",)

    #: The names of the columns.
    columns: ClassVar[tuple[str, ...]] = ("topic", "partition", "offset", "timestamp", "key", "value", "headers")

    def __init__(self, columns: Columns[K, V]) -> None:
        self._columns = columns

    @overload
    def __getitem__(self, index: int) -> Record[K, V]: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record[K, V]]: ...
    def __getitem__(self, index: int | slice) -> Record[K, V] | list[Record[K, V]]:
        count = len(self)
        if isinstance(index, slice):
            start, stop, step = index.indices(count)
            if step == 1:
                return self._columns.records(start, stop)
            return [self._record(place) for place in range(start, stop, step)]
        place = index.__index__()
        if not -count <= place < count:
            raise IndexError(f"the batch has {count} records, none at {place}")
        return self._record(place % count)

    def _record(self, place: int) -> Record[K, V]:
        return self._columns.records(place, place + 1)[0]

    def __len__(self) -> int:
        return len(self._columns)

    def __iter__(self) -> Iterator[Record[K, V]]:
        # In pieces: whoever looks at all of them does not want them all in memory at once.
        for start in range(0, len(self), _PIECE):
            yield from self._columns.records(start, min(start + _PIECE, len(self)))

    def __reversed__(self) -> Iterator[Record[K, V]]:
        return reversed(self.rows)

    @property
    def rows(self) -> list[Record[K, V]]:
        """The records, as a list that is made now."""
        return self._columns.records(0, len(self))

    def __arrow_c_schema__(self) -> object:
        """Return the schema as a PyCapsule (Arrow's PyCapsule interface)."""
        from ottla.client.arrow import export_schema

        return export_schema()

    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]:
        """Return (schema, array) as PyCapsules: a struct array with the columns. `requested_schema` is not looked at, as
        the interface permits."""
        from ottla.client.arrow import export_array

        return export_array(self._columns)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return a stream of one array as a PyCapsule."""
        from ottla.client.arrow import export_stream

        return export_stream(self._columns)

    def __repr__(self) -> str:
        return f"<Batch of {len(self)} records>"
