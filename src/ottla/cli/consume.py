"""`ottla consume`: records of a topic on stdout, with kcat's flags and formats."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from ottla.cli.completing import complete_groups, complete_topics
from ottla.cli.output import note
from ottla.cli.places import HELP as PLACES
from ottla.cli.places import Place, parse_place, resolve
from ottla.cli.record_format import HELP as FORMAT
from ottla.cli.record_format import as_json, compile_format, unescape
from ottla.cli.running import Connection, confirm, connected, run_command
from ottla.cli.where import compile_condition
from ottla.errors import GroupIdNotFoundError
from ottla.types import TopicPartition

if TYPE_CHECKING:
    from ottla.cli.record_format import AnyRecord
    from ottla.client.admin import Admin
    from ottla.client.consumer import Consumer

#: Seconds to wait for records before what was printed is flushed.
_POLL_S = 0.2
_PLACE_HELP = f"Where to begin: {PLACES}. Default: start. e@TIME ends."


@click.command("consume")
@click.argument("topic", shell_complete=complete_topics)
@click.option("-p", "--partition", "partitions", type=int, multiple=True, help="Only these partitions.")
@click.option("-o", "--offset", "offsets", multiple=True, metavar="PLACE", help=_PLACE_HELP)
@click.option("-e", "--exit", "at_end", is_flag=True, help="End at the end that the topic has now.")
@click.option("-c", "--count", type=int, help="End after so many records.")
@click.option("-f", "--format", "form", metavar="FORMAT", help=FORMAT)
@click.option("-J", "--json", "as_lines", is_flag=True, help="One JSON object a line.")
@click.option("-K", "--key-delimiter", metavar="TEXT", help="Print keys, and this behind them.")
@click.option("-D", "--delimiter", default="\\n", metavar="TEXT", help="What stands behind each record. Default: \\n.")
@click.option("-Z", "--null", "null", is_flag=True, help="Print NULL for keys and values that are none.")
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr.")
@click.option("-u", "--unbuffered", is_flag=True, help="Write each record at once.")
@click.option("--where", "condition", metavar="CONDITION", help="Only records that meet it: 'value.amount > 10'.")
@click.option("-g", "-G", "--group", "group_id", shell_complete=complete_groups, help="Read as a member of a group.")
@click.option("--no-join", is_flag=True, help="With -g: begin where the group is, without joining it or committing.")
@click.option("--yes", is_flag=True, help="With -g: join without asking.")
@click.option("--committed/--uncommitted", default=False, help="Leave records of open and aborted transactions out.")
@connected
def consume(connection: Connection, topic: str, **options: Any) -> int:
    """Print records of TOPIC: all of them and those that come, from the start unless told otherwise.

    \b
    ottla consume orders -o -10 -e
    ottla consume orders -f '%T %p:%o %k %s\\n' -o @-1h
    ottla consume orders --json --where 'value.amount > 10'
    """
    write = _printer(options)
    group_id = options["group_id"]
    if group_id is not None and not options["no_join"]:
        return consume_in_group(connection, topic, group_id, options, write)
    places, until = _places(options)
    from ottla.client.keys import CONSUMER_KEYS  # what takes long to import comes when it is used

    with connection.admin(CONSUMER_KEYS) as admin:
        numbers = options["partitions"] or [part.partition for part in admin.describe_topic(topic).partitions]
        wanted = [TopicPartition(topic, number) for number in numbers]
        starts = resolve(admin, dict.fromkeys(wanted, places))
        if group_id is not None:
            stored = admin.list_group_offsets(group_id, wanted)
            starts.update({where: found.offset for where, found in stored.items()})
        ends = _ends(admin, wanted, until, at_end=options["at_end"])
    if not options["quiet"] and sys.stderr.isatty():
        note(f"{topic}: {', '.join(f'{where.partition}@{offset}' for where, offset in starts.items())}; Ctrl-C ends")
    from ottla.client.consumer import Consumer

    with Consumer(config=_config(connection, options)) as consumer:
        consumer.assign(wanted)
        for where, offset in starts.items():
            consumer.seek(where, offset)
        return _read(consumer, write, options, ends)


def _printer(options: dict[str, Any]) -> Callable[[AnyRecord], bytes]:
    null = b"NULL" if options["null"] else b""
    if options["as_lines"]:
        if options["form"] is not None:
            raise click.UsageError("-f and --json exclude each other")
        return as_json
    if options["form"] is not None:
        return compile_format(options["form"], null)
    separator = None if options["key_delimiter"] is None else unescape(options["key_delimiter"])
    end = unescape(options["delimiter"])

    def plain(record: AnyRecord) -> bytes:
        value = null if record.value_bytes is None else record.value_bytes
        if separator is None:
            return value + end
        return (null if record.key_bytes is None else record.key_bytes) + separator + value + end

    return plain


def _places(options: dict[str, Any]) -> tuple[Place, Place | None]:
    """Where to begin, and where to end if that was said (e@TIME)."""
    now = datetime.now(UTC)
    given = [text for text in options["offsets"] if text != "stored"]
    ends = [text for text in given if text.startswith("e@")]
    begins = [text for text in given if not text.startswith("e@")]
    if len(begins) > 1 or len(ends) > 1:
        raise click.UsageError("-o is given twice")
    if "stored" in options["offsets"] and options["group_id"] is None:
        raise click.UsageError("-o stored needs a group: -g")
    begin = parse_place(begins[0], now) if begins else Place(name="earliest")
    return begin, parse_place(ends[0], now) if ends else None


def _ends(
    admin: Admin, wanted: list[TopicPartition], until: Place | None, *, at_end: bool
) -> dict[TopicPartition, int] | None:
    if until is not None:
        return resolve(admin, dict.fromkeys(wanted, until))
    return resolve(admin, dict.fromkeys(wanted, Place(name="latest"))) if at_end else None


def _config(connection: Connection, options: dict[str, Any]) -> dict[str, Any]:
    level = "read_committed" if options["committed"] else "read_uncommitted"
    return {"isolation.level": level, "auto.offset.reset": "earliest", **connection.config}


def _read(
    consumer: Consumer[Any, Any],
    write: Callable[[AnyRecord], bytes],
    options: dict[str, Any],
    ends: dict[TopicPartition, int] | None,
) -> int:
    condition = None if options["condition"] is None else compile_condition(options["condition"])
    limit, count = options["count"], 0
    marks = options["group_id"] is not None and not options["no_join"]
    out = sys.stdout.buffer
    flush_each = options["unbuffered"] or sys.stdout.isatty()
    if limit == 0:
        return 0
    try:
        while ends is None or not _at(consumer, ends):
            for record in consumer.poll(timeout=_POLL_S):
                if ends is not None and record.offset >= ends.get(record.topic_partition, 0):
                    continue
                if condition is None or condition(record):
                    out.write(write(record))
                    count += 1
                if marks:
                    consumer.mark(record)
                if flush_each:
                    out.flush()
                if limit is not None and count >= limit:
                    return 0
            out.flush()
    except KeyboardInterrupt:
        pass
    finally:
        out.flush()
    return 0


def _at(consumer: Consumer[Any, Any], ends: dict[TopicPartition, int]) -> bool:
    """Whether everything up to the ends was read. In a group: what this member has of it, once it has anything."""
    assigned = consumer.assignment
    mine = [where for where in ends if where in assigned]
    return bool(mine) and all(consumer.position(where) >= ends[where] for where in mine)


def consume_in_group(
    connection: Connection, topic: str, group_id: str, options: dict[str, Any], write: Callable[[AnyRecord], bytes]
) -> int:
    """Read as a member of a group: what is printed is committed."""
    if options["partitions"]:
        raise click.UsageError("-p and -g exclude each other: the group says which partitions this member reads")
    if [place for place in options["offsets"] if place != "stored"]:
        raise click.UsageError("-o and -g exclude each other; `ottla group reset` has a group go on elsewhere")
    from ottla.client.keys import CONSUMER_KEYS

    with connection.admin(CONSUMER_KEYS) as admin:
        members = _members(admin, group_id)
        if members:
            question = f"Group {group_id} has {members} members. Join it, and commit what is printed?"
            confirm(question, yes=options["yes"])
        numbers = [part.partition for part in admin.describe_topic(topic).partitions]
        wanted = [TopicPartition(topic, number) for number in numbers]
        ends = _ends(admin, wanted, None, at_end=options["at_end"])
    from ottla.client.consumer import Consumer

    config = {**_config(connection, options), "group.id": group_id}
    # Marked: a record that was fetched and not printed comes again.
    with Consumer(topics=[topic], commit="marked", config=config) as consumer:
        return _read(consumer, write, options, ends)


def _members(admin: Admin, group_id: str) -> int:
    try:
        return len(admin.describe_group(group_id).members)
    except GroupIdNotFoundError:
        return 0


def main(arguments: Sequence[str]) -> int:
    """Run `ottla consume`; return the exit code."""
    return run_command(consume, "consume", arguments)
