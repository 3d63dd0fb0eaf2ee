"""DirectorySourceConnector: what it reads, and where it goes on. Without Kafka."""

from __future__ import annotations

import datetime
import decimal
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ottla.connect import ConfigError, ConnectError, Position, SourceContext, SourceRecord, Struct
from ottla.connect.library.directory import DirectorySourceConnector
from ottla.connect.runtime.offsets import canonical

OPENED: list[Any] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().stop()


class Reading:
    """A task at work on a folder; `again` stands for a worker that was stopped and started.

    Attributes:
        offsets: what is written down: by default all that was brought, at once.
    """

    def __init__(self, folder: Path, offsets: Any = None, **more: str) -> None:
        self._folder, self._more = folder, more
        self.offsets: dict[str, Any] = {} if offsets is None else offsets
        self.commits = True
        config = {"name": "files", "directory": str(folder), "topic": "rows", "format": "jsonl"}
        config |= {name.replace("__", "."): value for name, value in more.items()}
        made = DirectorySourceConnector(config, DirectorySourceConnector.CONFIG.parse(config))
        (own,) = made.task_configs(3)
        stopping = threading.Event()
        stopping.set()  # waits return at once
        self.task = DirectorySourceConnector.Task(own, DirectorySourceConnector.CONFIG.parse(own))
        self.task.context = SourceContext(self._find, stopping)
        self.reason: str | None = None
        self.task.context.on_waiting = lambda reason: setattr(self, "reason", reason)
        self.task.start()
        OPENED.append(self.task)

    def _find(self, partition: Mapping[str, Any]) -> dict[str, Any] | None:
        text = self.offsets.get(str(canonical("files", partition)))
        return None if text is None else json.loads(text)

    def poll(self) -> list[SourceRecord]:
        """Poll once."""
        found = self.task.poll() or ()
        if self.commits and found:
            for each in found:
                self.offsets[str(canonical("files", each.source_partition))] = json.dumps(each.source_offset)
            self.task.commit([(each.source_partition, each.source_offset or {}) for each in found])
        return [each for each in found if isinstance(each, SourceRecord)]

    def records(self) -> list[SourceRecord]:
        """Return what is there now: poll until three looks in a row have brought nothing."""
        found: list[SourceRecord] = []
        quiet = 0
        while quiet < 3:
            more = self.poll()
            quiet = 0 if more else quiet + 1
            found += more
        return found

    def values(self) -> list[Any]:
        return [each.value.as_dict() if isinstance(each.value, Struct) else each.value for each in self.records()]

    def again(self, **more: str) -> Reading:
        self.task.stop()
        return Reading(self._folder, self.offsets, **{**self._more, **more})


def aged(path: Path, seconds: float) -> None:
    """Have a file look as if it was changed so long ago."""
    at = datetime.datetime.now().timestamp() - seconds
    os.utime(path, (at, at))


def test_lines_of_json_of_several_files_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"id":1}\n\n{"id":2}\n')
    (tmp_path / "a.jsonl").write_text('{"id":3}\n[1,"x",null]\n')
    (tmp_path / ".hidden.jsonl").write_text('{"id":4}\n')
    (tmp_path / "c.txt").write_text('{"id":5}\n')
    aged(tmp_path / "b.jsonl", 100)
    reading = Reading(tmp_path)
    found = reading.records()
    assert [record.value for record in found] == [{"id": 1}, {"id": 2}, {"id": 3}, [1, "x", None]]
    assert [record.headers[0].value for record in found] == ["b.jsonl", "b.jsonl", "a.jsonl", "a.jsonl"]
    assert reading.again().values() == []


def test_partial_last_line(tmp_path: Path) -> None:
    """A line counts when its newline is there, also across a restart; the status says what is waited for."""
    path = tmp_path / "a.jsonl"
    path.write_text('"größe"\n"tw')
    reading = Reading(tmp_path)
    assert reading.values() == ["größe"]
    assert reading.reason == f"{path}: the last line has no newline yet"
    reading = reading.again()
    with path.open("a") as file:
        file.write('o"\r\n"three"\n')
    assert reading.values() == ["two", "three"]
    assert reading.reason is None


def test_a_last_line_without_a_newline_counts_once_the_file_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("1\n2")
    reading = Reading(tmp_path, complete__after__ms="60000")
    assert reading.values() == [1]
    aged(path, 61)
    assert reading.values() == [2]
    assert reading.again().values() == []


def test_each_row_has_an_offset_from_which_reading_goes_on(tmp_path: Path) -> None:
    """After a kill at any row the rest comes, in CSV with the columns of the first row."""
    rows = [f'{number},"a ""b""\r\n{number}"' for number in range(5)]
    (tmp_path / "a.csv").write_bytes(("id,note\r\n" + "\r\n".join(rows) + "\r\n").encode())
    expected = [{"id": str(number), "note": f'a "b"\r\n{number}'} for number in range(5)]
    found = Reading(tmp_path, format="csv").records()
    assert [record.value.as_dict() for record in found] == expected
    for index, record in enumerate(found):
        offsets = {str(canonical("files", record.source_partition)): json.dumps(record.source_offset)}
        assert Reading(tmp_path, offsets, format="csv").values() == expected[index + 1 :]


def test_rotated_while_stopped(tmp_path: Path) -> None:
    """The renamed file is read to its end, then the new one from its beginning, though no name asks for the former."""
    path = tmp_path / "a.jsonl"
    path.write_text("1\n")
    reading = Reading(tmp_path)
    assert reading.values() == [1]
    reading.task.stop()
    with path.open("a") as file:
        file.write("2\n")
    path.rename(tmp_path / "a.jsonl.1")
    path.write_text("3\n")
    aged(path, 1000)
    reading = Reading(tmp_path, reading.offsets)
    assert reading.values() == [2, 3]
    assert reading.again().values() == []


def test_rotated_while_it_is_read_and_again(tmp_path: Path) -> None:
    """Files keep their places under any name, also when the pattern asks for all names."""
    path = tmp_path / "a.jsonl"
    path.write_text("1\n")
    reading = Reading(tmp_path, file__glob="a.jsonl*")
    assert reading.values() == [1]
    with path.open("a") as file:
        path.rename(tmp_path / "a.jsonl.1")
        file.write("2\n")
    path.write_text("3\n")
    aged(path, -100)
    assert reading.values() == [2, 3]
    (tmp_path / "a.jsonl.1").rename(tmp_path / "a.jsonl.2")
    path.rename(tmp_path / "a.jsonl.1")
    path.write_text("4\n")
    assert reading.values() == [4]
    assert reading.again().values() == []


def test_copytruncate(tmp_path: Path) -> None:
    """The file is cut to nothing and written anew, while it is read and while it is not: reading begins anew."""
    path = tmp_path / "a.jsonl"
    path.write_text("1\n2\n")
    reading = Reading(tmp_path)
    assert reading.values() == [1, 2]
    path.write_text("3\n")
    assert reading.values() == [3]
    reading = reading.again()
    path.write_text("4567\n5\n")
    assert reading.values() == [4567, 5]


def test_a_file_with_the_same_header_that_takes_the_place_of_another_is_read(tmp_path: Path) -> None:
    """Its first bytes are the same, and it is longer: the bytes before the place tell."""
    path = tmp_path / "a.csv"
    header = ",".join(f"column_{number}" for number in range(40)) + "\n"
    row = ",".join(["{0}"] * 40) + "\n"
    path.write_text(header + row.format(1))
    reading = Reading(tmp_path, format="csv", key__field="column_0")
    assert [record.key for record in reading.records()] == ["1"]
    reading = reading.again()
    path.write_text(header + row.format(2) + row.format(3))
    assert [record.key for record in reading.records()] == ["2", "3"]


def test_columns_have_types(tmp_path: Path) -> None:
    types = "id:int64,price:float64,open:boolean,day:date,at:timestamp"
    (tmp_path / "a.csv").write_bytes(
        b"\xef\xbb\xbfid;price;open;day;at;note\n7;1.5;true;2024-02-29;2024-02-29T12:00:00+01:00;x\n8;-;no;-;-;-\n"
    )
    reading = Reading(tmp_path, format="csv", csv__delimiter=";", csv__null="-", csv__types=types, key__field="id")
    first, second = reading.records()
    assert first.key == 7
    assert first.key_schema is not None
    assert first.value.as_dict() == {
        "id": 7,
        "price": 1.5,
        "open": True,
        "day": datetime.date(2024, 2, 29),
        "at": datetime.datetime(2024, 2, 29, 11, tzinfo=datetime.UTC),
        "note": "x",
    }
    assert second.value.as_dict() == {"id": 8, "price": None, "open": False, "day": None, "at": None, "note": None}


def test_files_without_a_row_of_names(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("1\ta,b\n")
    reading = Reading(tmp_path, format="csv", csv__columns="id,note", csv__delimiter="\\t", file__glob="*.tsv")
    assert reading.values() == [{"id": "1", "note": "a,b"}]


BAD = [
    ("jsonl", "1\n{\n3\n", "a.jsonl, byte 2: this is no JSON", [1, 3]),
    ("jsonl", '1\n"\udcff"\n3\n', "a.jsonl, byte 2:", [1, 3]),
    ("jsonl", "1\n" + "2" * 100 + "\n3\n", "longer than 50 bytes", [1, 3]),
    ("csv", "id\n1\n2,x\n3\n", "a.csv, byte 5: the row has 2 fields, and there are 1 columns", [{"id": 1}, {"id": 3}]),
    ("csv", "id\n1\nx\n3\n", "the column id has 'x'", [{"id": 1}, {"id": 3}]),
    ("csv", 'id\n1\n"x"y\n3\n', "this is no row of CSV", [{"id": 1}, {"id": 3}]),
    ("csv", 'id\n1\n"2\n3\n' + "4\n" * 30, "a quote is not closed", [{"id": 1}, {"id": 3}] + [{"id": 4}] * 30),
    ("csv", "id\n1\n99999999999999999999\n3\n", "out of its bounds", [{"id": 1}, {"id": 3}]),
]


@pytest.mark.parametrize(("form", "text", "reason", "good"), BAD)
def test_a_bad_row_fails_the_task_after_what_comes_before_it(
    tmp_path: Path, form: str, text: str, reason: str, good: list[Any]
) -> None:
    (tmp_path / f"a.{form}").write_bytes(text.encode(errors="surrogateescape"))
    reading = Reading(tmp_path, format=form, csv__types="id:int64", line__max__bytes="50")
    assert len(reading.poll()) == 1
    with pytest.raises(ConnectError, match=reason):
        reading.poll()
    with pytest.raises(ConnectError, match=reason):
        reading.again().poll()


@pytest.mark.parametrize(("form", "text", "reason", "good"), BAD)
def test_a_bad_row_is_passed_over_and_named(
    tmp_path: Path, form: str, text: str, reason: str, good: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / f"a.{form}").write_bytes(text.encode(errors="surrogateescape"))
    more = {"csv__types": "id:int64"} if form == "csv" else {}
    reading = Reading(tmp_path, format=form, errors__tolerance="all", line__max__bytes="50", **more)
    assert reading.values() == good
    assert reason.partition(": ")[0] in caplog.text
    assert reading.again().values() == []


@pytest.mark.parametrize(
    ("form", "data", "reason"),
    [
        ("csv", b"id,id\n1,2\n", "no name of its own for each column"),
        ("csv", b"other\n1\n", "csv.types has a type for id, and the columns are other"),
        ("parquet", b"PAR1 this is not one PAR1", "this is no Parquet"),
    ],
)
def test_a_file_that_is_none_of_its_format(tmp_path: Path, form: str, data: bytes, reason: str) -> None:
    """It fails the task; or it is left alone, others are read, and it is read when it has changed."""
    (tmp_path / f"a.{form}").write_bytes(data)
    more = {"csv__types": "id:int64"} if form == "csv" else {}
    with pytest.raises(ConnectError, match=reason):
        Reading(tmp_path, format=form, **more).poll()
    reading = Reading(tmp_path, format=form, errors__tolerance="all", **more)
    _write(tmp_path / f"b.{form}", 1)
    assert reading.values() == [{"id": 1}]
    (tmp_path / f"a.{form}").unlink()
    _write(tmp_path / f"a.{form}", 2, 3)
    assert reading.values() == [{"id": 2}, {"id": 3}]


def _write(path: Path, *numbers: int) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"id": pa.array(numbers, pa.int64())}), path)
    else:
        path.write_text("id\n" + "".join(f"{number}\n" for number in numbers))


def test_parquet_goes_on_by_row_through_groups(tmp_path: Path) -> None:
    """After a kill at any row the rest comes; only groups that have rows to come are read."""
    pq.write_table(pa.table({"id": list(range(10))}), tmp_path / "a.parquet", row_group_size=4)
    reading = Reading(tmp_path, format="parquet", batch__size="3", key__field="id")
    found = reading.records()
    assert [record.key for record in found] == list(range(10))
    assert [(record.source_offset or {})["position"] for record in found] == list(range(1, 11))
    for index, record in enumerate(found):
        offsets = {str(canonical("files", record.source_partition)): json.dumps(record.source_offset)}
        rest = Reading(tmp_path, offsets, format="parquet", batch__size="3").values()
        assert [value["id"] for value in rest] == list(range(index + 1, 10))


def test_a_parquet_file_without_a_footer_waits(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2]}), tmp_path / "other.tmp")
    data = (tmp_path / "other.tmp").read_bytes()
    path = tmp_path / "a.parquet"
    path.write_bytes(data[:-20])
    reading = Reading(tmp_path, format="parquet")
    assert reading.values() == []
    assert reading.reason == f"{path} has no footer yet"
    with path.open("ab") as file:
        file.write(data[-20:])
    assert reading.values() == [{"id": 1}, {"id": 2}]
    assert reading.reason is None


def test_types_of_parquet(tmp_path: Path) -> None:
    at = datetime.datetime(2024, 2, 29, 12, 30, 15, 123000, tzinfo=datetime.UTC)
    columns = {
        "small": pa.array([1, None], pa.int8()),
        "count": pa.array([2**32 - 1, None], pa.uint32()),
        "huge": pa.array([2**64 - 1, None], pa.uint64()),
        "price": pa.array([decimal.Decimal("1.50"), None], pa.decimal128(10, 2)),
        "real": pa.array([1.5, None], pa.float32()),
        "text": pa.array(["a", None]).dictionary_encode(),
        "data": pa.array([b"\x00", None]),
        "day": pa.array([at.date(), None]),
        "time": pa.array([at.time(), None]),
        "naive": pa.array([at.replace(tzinfo=None), None], pa.timestamp("ns")),
        "zoned": pa.array([at, None], pa.timestamp("us", tz="Europe/Berlin")),
        "list": pa.array([[1, 2], None]),
        "map": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())),
        "struct": pa.array([{"a": 1, "at": at.replace(tzinfo=None)}, None]),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    first, second = Reading(tmp_path, format="parquet").values()
    assert first == {
        "small": 1,
        "count": 2**32 - 1,
        "huge": decimal.Decimal(2**64 - 1),
        "price": decimal.Decimal("1.50"),
        "real": 1.5,
        "text": "a",
        "data": b"\x00",
        "day": at.date(),
        "time": at.time(),
        "naive": at,
        "zoned": at,
        "list": [1, 2],
        "map": {"a": 1},
        "struct": {"a": 1, "at": at},
    }
    assert set(second.values()) == {None}


def test_done_files_are_deleted_once_their_offsets_are_written_down(tmp_path: Path) -> None:
    """1. A file is read; nothing is written down: it stays.  2. It is: it goes.  3. A file like it is read again."""
    path = tmp_path / "a.csv"
    _write(path, 1, 2)
    aged(path, 100)
    reading = Reading(tmp_path, format="csv", after__done="delete", complete__after__ms="60000")
    reading.commits = False
    assert len(reading.records()) == 2
    assert path.exists()
    reading = reading.again()
    assert len(reading.records()) == 2
    assert not path.exists()
    for _ in range(2):  # by the same task, and by another one: the inode may be the same
        _write(path, 1, 2)
        aged(path, 100)
        assert len(reading.records()) == 2
        assert not path.exists()
        reading = reading.again()


def test_done_files_are_deleted_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    _write(path, 1)
    reading = Reading(tmp_path, format="csv", after__done="delete", complete__after__ms="60000")
    assert len(reading.records()) == 1
    assert path.exists()
    aged(path, 100)
    assert reading.again().records() == []
    assert not path.exists()


def test_a_file_that_may_grow_is_not_done(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    _write(path, 1)
    reading = Reading(tmp_path, format="csv", after__done="delete", complete__after__ms="60000")
    assert len(reading.records()) == 1
    with path.open("a") as file:
        file.write("2\n")
    assert reading.values() == [{"id": "2"}]
    assert path.exists()


def test_done_files_are_moved_and_write_over_none(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    done = tmp_path / "in" / "done"
    reading = Reading(
        tmp_path / "in", format="parquet", file__glob="**/*.parquet", after__done="move", done__directory=str(done)
    )
    for number in range(3):
        _write(tmp_path / "in" / "deep" / "a.parquet", number)
        assert reading.values() == [{"id": number}]
    assert sorted(path.name for path in (done / "deep").iterdir()) == ["a.parquet", "a.parquet.1", "a.parquet.2"]
    assert list((tmp_path / "in" / "deep").iterdir()) == []
    assert reading.again().values() == []
    (done / "deep" / "a.parquet").rename(tmp_path / "in" / "again.parquet")
    assert reading.values() == [{"id": 0}]


def test_a_move_that_was_cut_off_is_finished(tmp_path: Path) -> None:
    """Killed between its two steps, a file has two names."""
    done = tmp_path / "done"
    done.mkdir()
    (tmp_path / "in").mkdir()
    _write(tmp_path / "in" / "a.parquet", 1)
    (done / "a.parquet").hardlink_to(tmp_path / "in" / "a.parquet")
    reading = Reading(tmp_path / "in", format="parquet", after__done="move", done__directory=str(done))
    assert reading.values() == [{"id": 1}]
    assert [path.name for path in done.iterdir()] == ["a.parquet"]
    assert list((tmp_path / "in").iterdir()) == []


def test_empty_files_wait_or_are_done(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    assert Reading(tmp_path).values() == []
    aged(tmp_path / "a.jsonl", 100)
    assert Reading(tmp_path, after__done="delete", complete__after__ms="1").values() == []
    assert list(tmp_path.iterdir()) == []


def test_try_leaves_no_trace(tmp_path: Path) -> None:
    _write(tmp_path / "a.csv", 1, 2)
    (tmp_path / "b.csv").touch()
    for path in tmp_path.iterdir():
        aged(path, 100)
    reading = Reading(tmp_path, format="csv", after__done="delete", complete__after__ms="1")
    assert [record.value["id"] for record in reading.task.preview(5)] == ["1", "2"]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_that_goes_away_and_comes_back_goes_on(tmp_path: Path) -> None:
    """As when a disk was away."""
    path = tmp_path / "in" / "a.jsonl"
    path.parent.mkdir()
    path.write_text("1\n")
    reading = Reading(path.parent)
    reading.commits = False
    assert reading.values() == [1]
    path.rename(tmp_path / "a.jsonl")
    assert reading.values() == []
    (tmp_path / "a.jsonl").rename(path)
    with path.open("a") as file:
        file.write("2\n")
    assert reading.values() == [2]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"format": "xml"}, "must be one of: csv, jsonl, parquet"),
        ({"after.done": "move", "format": "parquet"}, "belong together"),
        ({"done.directory": "/done"}, "belong together"),
        ({"after.done": "delete"}, "needs complete.after.ms"),
        ({"csv.types": "id:number"}, "name:type is needed"),
        ({"csv.delimiter": ";;"}, "one letter is needed"),
        ({"file.glob": "../*.csv"}, "a pattern below the folder"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, config: dict[str, str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Reading(tmp_path, **{name.replace(".", "__"): value for name, value in config.items()})


def test_a_folder_that_is_not_there_fails_the_task(tmp_path: Path) -> None:
    with pytest.raises(ConnectError, match="is not there"):
        Reading(tmp_path / "none").poll()


def test_offsets_that_somebody_writes(tmp_path: Path) -> None:
    config = {"directory": str(tmp_path), "topic": "rows", "format": "jsonl"}
    made = DirectorySourceConnector(config, DirectorySourceConnector.CONFIG.parse(config))
    part = {"directory": str(tmp_path), "device": 1, "inode": 2}
    assert made.alter_offsets([(part, {"position": 0}), (part, None)])
    wrong: list[tuple[dict[str, Any], dict[str, Any] | None, str]] = [
        ({"filename": "a"}, None, "the keys 'directory', 'device' and 'inode'"),
        (part, {"row": 1}, "have the key 'position'"),
        (part, {"position": -1}, "a number from 0 on"),
    ]
    for partition, offset, reason in wrong:
        with pytest.raises(ConnectError, match=reason):
            made.alter_offsets([(partition, offset)])


def test_an_offset_that_somebody_has_written_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("1\n2\n")
    status = path.stat()
    partition = {"directory": str(tmp_path), "device": status.st_dev, "inode": status.st_ino}
    offsets = {str(canonical("files", partition)): '{"position": 2}'}
    assert Reading(tmp_path, offsets).values() == [2]


def test_positions_are_written_down_where_no_record_is(tmp_path: Path) -> None:
    """Rows that were passed over at the end do not come again."""
    (tmp_path / "a.jsonl").write_text("{\n{\n")
    reading = Reading(tmp_path, errors__tolerance="all", batch__size="1")
    found = reading.task.poll()
    assert isinstance(found, list)
    assert [type(each) for each in found] == [Position]
