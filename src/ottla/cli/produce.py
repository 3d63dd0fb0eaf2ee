"""`ottla produce`: lines, files or one value become records."""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import IO, Any, NamedTuple

import click

from ottla.cli.completing import complete_topics
from ottla.cli.output import note
from ottla.cli.record_format import unescape
from ottla.cli.running import Connection, connected, run_command

_CHUNK = 64 * 1024
#: A line that is longer is no line.
_LINE_MAX = 256 * 1024 * 1024


class Row(NamedTuple):
    """What is to be sent."""

    value: bytes | None
    key: bytes | None = None
    headers: list[tuple[str, bytes | None]] | None = None
    partition: int | None = None
    timestamp: int | None = None


@click.command("produce")
@click.argument("topic", shell_complete=complete_topics)
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False), metavar="[FILE]...")
@click.option("-k", "--key", help="The key of every record.")
@click.option("-v", "--value", help="One record with this value; nothing is read.")
@click.option("-K", "--key-delimiter", metavar="TEXT", help="What separates key and value in a line.")
@click.option("-D", "--delimiter", default="\\n", metavar="TEXT", help="What separates records. Default: \\n.")
@click.option("-l", "--lines", is_flag=True, help="FILEs are read line by line; without it each is one record.")
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME=VALUE", help="A header of every record.")
@click.option("-p", "--partition", type=int, help="Default: by key, as Kafka does.")
@click.option("-z", "--compression", type=click.Choice(["none", "gzip", "snappy", "lz4", "zstd"]), default="none")
@click.option("-Z", "--null", is_flag=True, help="An empty value is a tombstone, an empty key is none.")
@click.option("-c", "--count", type=int, help="Stop after so many records.")
@click.option("-T", "--tee", is_flag=True, help="Print what is sent, too.")
@click.option("--rate", type=float, metavar="N", help="At most so many records a second.")
@click.option("--progress", is_flag=True, help="A progress bar on stderr.")
@click.option("--json", "as_json", is_flag=True, help="Lines are what `ottla consume --json` prints.")
@connected
def produce(connection: Connection, topic: str, **options: Any) -> int:
    """Send records to TOPIC: each line of stdin, each FILE, or one --value.

    \b
    ottla produce orders < lines.txt
    ottla produce orders -k user1 -v '{"a": 1}'
    ottla produce orders -K : <<< 'user1:hello'
    """
    from ottla.client.producer import Producer

    config: dict[str, Any] = {"compression.type": options["compression"], **connection.config}
    failed: list[Exception] = []
    with ExitStack() as stack:
        bar = stack.enter_context(_Bar(options, topic))
        rows = _rows(options)
        limit, count = options["count"], 0
        with Producer(config=config, on_delivery_error=failed.append) as producer:
            pace = _Pace(options["rate"])
            for row in rows:
                if failed or (limit is not None and count >= limit):
                    break  # what failed is raised at the end of the block
                pace.wait()
                producer.send(
                    topic,
                    row.value,
                    key=row.key,
                    headers=row.headers,
                    partition=row.partition,
                    timestamp=row.timestamp,
                )
                count += 1
                bar.advance(len(row.value or b""))
                if options["tee"]:
                    click.echo(row.value or b"")
    note(f"{count} record{'' if count == 1 else 's'} sent to {topic}")
    return 0


def _rows(options: dict[str, Any]) -> Iterator[Row]:
    headers: list[tuple[str, bytes | None]] = []
    for pair in options["headers"]:
        name, equals, value = pair.partition("=")
        headers.append((name, value.encode() if equals else None))
    null, partition = options["null"], options["partition"]
    key = None if options["key"] is None else options["key"].encode()
    separator = None if options["key_delimiter"] is None else unescape(options["key_delimiter"])

    def row(data: bytes) -> Row:
        own = key
        if separator is not None:
            before, found, after = data.partition(separator)
            if found:
                own, data = before, after
        return Row(
            value=None if null and not data else data,
            key=None if null and not own else own,
            headers=headers or None,
            partition=partition,
        )

    if options["value"] is not None:
        yield row(options["value"].encode())
        return
    delimiter = unescape(options["delimiter"])
    if not delimiter:
        raise click.UsageError("-D takes at least one character")
    whole = options["files"] and not options["lines"] and not options["as_json"]
    for file in _inputs(options["files"]):
        if whole:
            yield row(file.read())
            continue
        for number, part in enumerate(split(file, delimiter), 1):
            yield _from_json(part, number, partition) if options["as_json"] else row(part)


def _inputs(paths: Sequence[str]) -> Iterator[IO[bytes]]:
    if not paths:
        if sys.stdin.isatty():
            note("Write records, one a line; Ctrl-D ends.")
        yield sys.stdin.buffer
    for path in paths:
        with open(path, "rb") as file:
            yield file


def split(file: IO[bytes], delimiter: bytes) -> Iterator[bytes]:
    """Yield what stands between delimiters, as soon as it is there; the last one needs none behind it.

    Raises:
        ValueError: a piece is longer than 256 MiB.
    """
    waiting = b""
    read = getattr(file, "read1", file.read)  # what a pipe has, not all of a chunk
    while chunk := read(_CHUNK):
        *whole, waiting = (waiting + chunk).split(delimiter)
        if len(waiting) > _LINE_MAX:
            raise ValueError(f"no {delimiter!r} within {_LINE_MAX} bytes")
        yield from whole
    if waiting:
        yield waiting


def _from_json(line: bytes, number: int, partition: int | None) -> Row:
    try:
        told = json.loads(line)
        if not isinstance(told, dict):
            raise ValueError("it is no object")
        return Row(
            value=_bytes(told, "value"),
            key=_bytes(told, "key"),
            headers=[
                (name, None if value is None else str(value).encode()) for name, value in told.get("headers") or ()
            ],
            partition=partition,
            timestamp=told.get("timestamp"),
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"line {number} is not what `ottla consume --json` prints: {error}") from None


def _bytes(told: dict[str, Any], name: str) -> bytes | None:
    if f"{name}_base64" in told:
        return base64.b64decode(told[f"{name}_base64"], validate=True)
    value = told.get(name)
    if value is None or isinstance(value, str):
        return None if value is None else value.encode()
    return json.dumps(value, ensure_ascii=False).encode()


class _Pace:
    """Spreads records evenly over time."""

    def __init__(self, rate: float | None) -> None:
        if rate is not None and rate <= 0:
            raise click.UsageError("--rate takes a number above 0")
        self._gap_s = 0.0 if rate is None else 1 / rate
        self._next_s = time.monotonic()

    def wait(self) -> None:
        if self._gap_s:
            ahead = self._next_s - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
            self._next_s = max(self._next_s, time.monotonic() - 1) + self._gap_s


class _Bar:
    """A progress bar on stderr where it was asked for and is seen; of bytes where their number is known."""

    def __init__(self, options: dict[str, Any], topic: str) -> None:
        self._wanted = options["progress"] and sys.stderr.isatty()
        self._topic = topic
        files = options["files"]
        self._total = sum(os.path.getsize(path) for path in files) if files else None
        if not files and options["value"] is None and options["progress"]:
            try:
                self._total = os.fstat(sys.stdin.fileno()).st_size or None
            except (OSError, ValueError):
                self._total = None
        self._progress: Any = None

    def __enter__(self) -> _Bar:
        if self._wanted:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TextColumn("{task.fields[records]} records"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._progress.add_task(self._topic, total=self._total, records=0)
            self._records = 0
            self._progress.start()
        return self

    def advance(self, size: int) -> None:
        if self._progress is not None:
            self._records += 1
            self._progress.update(self._task, advance=size + 1, records=self._records)

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()


def main(arguments: Sequence[str]) -> int:
    """Run `ottla produce`; return the exit code."""
    return run_command(produce, "produce", arguments)
