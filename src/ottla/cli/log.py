"""`ottla log check` and `ottla log repair`: the logs of a stopped broker, and what can be done about damage.

Reads the command line, shows progress and findings, asks before anything is changed. What is wrong is decided in
`storage/check.py`, what is done about it in `storage/repair.py`.

Exit codes: check 0 nothing is wrong, 1 something is, 2 it could not look (usage, no such directory, a running broker);
repair 0 done, or there was nothing to do, 1 it is not repaired, 2 usage, or no terminal to ask on; with --dry-run 0 there is
nothing to do, 1 there is something, 2 it could not look.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ottla.cli.progress import Progress, human_bytes
from ottla.cli.terminal import Parser, complain, reason, say
from ottla.clock import SystemClock
from ottla.errors import StorageError
from ottla.storage.files import OsFiles

if TYPE_CHECKING:
    from ottla.storage.check import LogCheck
    from ottla.storage.findings import Finding
    from ottla.storage.repair import Repair

DESCRIPTION = """Check and repair the logs of a broker that is stopped, be it ottla or Apache Kafka.

  ottla log check /var/lib/kafka              say what is wrong in a log directory
  ottla log check /var/lib/kafka/events-0     in one partition's directory
  ottla log repair events-0 --data-dir /var/lib/kafka

docs/damaged-logs.md says what to do about damaged logs."""

CHECK_DESCRIPTION = """Read everything in a log directory (an entry of log.dirs), or in one partition's directory, and
say what is wrong where, what happens if it is left, and what `ottla log repair` would do. Nothing is changed. The
broker must be stopped.

All batches are read and their checksums compared; indexes, producer snapshots, leader epochs and the directory's
checkpoints are compared with the batches. Exit code 0: nothing is wrong (there may be notes); 1: something is; 2: it
could not look."""

REPAIR_DESCRIPTION = """Make a partition whole again, without what cannot be read. The broker must be stopped.

Says first what will be lost and what will be done, and asks. Then it copies the partition's directory aside, to a
place that brokers leave alone, writes damaged segments anew without the unreadable bytes (readable batches stay as
they are, offsets too), builds wrong indexes and snapshots anew, and checks the result. If it is interrupted, the
partition opens as it was or repaired; run it again. Exit code 0: done, or nothing to do; 1: not repaired; 2: usage,
or no terminal to ask on. With --dry-run 0: nothing to do; 1: something to do; 2: it could not look."""


def parser() -> argparse.ArgumentParser:
    """The options of `ottla log`."""
    made = Parser(
        prog="ottla log",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = made.add_subparsers(dest="command", metavar="check|repair", required=True, parser_class=Parser)
    check = commands.add_parser(
        "check",
        help="say what is wrong",
        description=CHECK_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    check.add_argument("directory", metavar="DIR", help="a log directory, or one partition's directory")
    check.add_argument("--json", action="store_true", help="one JSON object a line; the last one is the summary")
    check.add_argument("--deep", action="store_true", help="decompress and decode every record, too (much slower)")
    repair = commands.add_parser(
        "repair",
        help="make a partition whole again, without what cannot be read",
        description=REPAIR_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    repair.add_argument("partition", metavar="TOPIC-PARTITION", help="or the path of the partition's directory")
    repair.add_argument("--data-dir", metavar="DIR", help="the log directory that it is in; not needed with a path")
    repair.add_argument("--copy-to", metavar="DIR", help="where the copy goes (default: the same log directory)")
    answers = repair.add_mutually_exclusive_group()
    answers.add_argument("--yes", action="store_true", help="do not ask")
    answers.add_argument("--dry-run", action="store_true", help="say what would be lost and done, and change nothing")
    return made


def main(arguments: Sequence[str]) -> int:
    """Check or repair; return the exit code."""
    try:
        given = parser().parse_args(arguments)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 2
    try:
        return check(given) if given.command == "check" else repair(given)
    except KeyboardInterrupt:
        return complain("interrupted; nothing is half done, run it again", 130)


# ------------------------------------------------------------------------------------------------ check


def check(given: argparse.Namespace) -> int:
    """Run `ottla log check`."""
    from ottla.storage.check import LogCheck

    progress: Progress | None = None

    def on_read(count: int) -> None:
        if progress is not None:
            progress.advance(count)

    checked = LogCheck(OsFiles(), os.path.abspath(given.directory), deep=given.deep, on_read=on_read)
    try:
        with checked:
            progress = Progress(checked.total_bytes, sys.stderr, SystemClock().monotonic_ms)
            try:
                return _print_findings(checked, progress, as_json=given.json)
            finally:
                progress.clear()
    except (OSError, StorageError) as error:
        return complain(reason(error), 2)


def _print_findings(checked: LogCheck, progress: Progress, *, as_json: bool) -> int:
    wrong = notes = 0
    for finding in checked.run():
        wrong += finding.is_wrong
        notes += not finding.is_wrong
        progress.clear()
        say(json.dumps(finding.as_json()) if as_json else finding.line())
    progress.clear()
    if as_json:
        summary = {"partitions": checked.partitions, "bytes": checked.total_bytes, "wrong": wrong, "notes": notes}
        say(json.dumps({"summary": summary}))
    else:
        found = f"{_count(wrong, 'thing is', 'things are')} wrong" if wrong else "nothing is wrong"
        more = f", {_count(notes, 'note', 'notes')}" if notes else ""
        say(
            f"{_count(checked.partitions, 'partition', 'partitions')}, {human_bytes(checked.total_bytes)}: {found}{more}"
        )
    return 1 if wrong else 0


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


# ------------------------------------------------------------------------------------------------ repair


def repair(given: argparse.Namespace) -> int:
    """Run `ottla log repair`."""
    from ottla.storage.repair import Repair

    directory = _directory_of(given)
    if isinstance(directory, int):
        return directory
    copy_parent = None if given.copy_to is None else os.path.abspath(given.copy_to)
    if copy_parent is not None and not os.path.isdir(copy_parent):
        return complain(f"--copy-to: there is no directory {copy_parent}", 2)
    progress: Progress | None = None

    def on_bytes(count: int) -> None:
        if progress is not None:
            progress.advance(count)

    try:
        repaired = Repair(OsFiles(), directory, os.urandom(16), copy_parent=copy_parent, on_bytes=on_bytes)
    except StorageError as error:
        return complain(str(error), 2)
    try:
        repaired.open()
        progress = _progress(repaired.total_bytes(), "reading")
        repaired.look()
        progress.clear()
        if not repaired.has_work:
            say(f"{repaired.topic_partition}: there is nothing to repair")
            return 0
        _say_plan(repaired)
        if given.dry_run:
            return 1
        if not (given.yes or (sys.stdin.isatty() and sys.stdout.isatty())):
            return complain(
                "nothing was changed: there is no terminal to ask on; say --yes to repair without a question", 2
            )
        repaired.check_space()
        if not given.yes and not _is_agreed(str(repaired.topic_partition)):
            return complain("nothing was changed", 1)
        progress = _progress(repaired.bytes_needed()[0], "copying")
        copy = repaired.copy()
        progress.clear()
        say(f"the copy is {copy}")
        progress = _progress(repaired.total_bytes(), "repairing")
        left = repaired.perform()
        progress.clear()
        return _say_result(repaired, left, copy)
    except (OSError, StorageError) as error:
        if progress is not None:
            progress.clear()
        if given.dry_run:
            return complain(f"{repaired.topic_partition}: {reason(error)}", 2)
        return complain(f"{repaired.topic_partition} is not repaired: {reason(error)}", 1)
    finally:
        if progress is not None:
            progress.clear()
        repaired.close()


def _directory_of(given: argparse.Namespace) -> str | int:
    """Return the partition's directory, or an exit code after saying what is missing."""
    partition: str = given.partition
    if given.data_dir is not None:
        if "/" in partition:
            return complain("give either the path of the partition's directory or its name and --data-dir", 2)
        return os.path.join(os.path.abspath(given.data_dir), partition)
    if "/" in partition or os.path.isdir(partition):
        return os.path.abspath(partition)
    return complain(f"where is {partition}? name its log directory with --data-dir, or give the path", 2)


def _progress(total: int, what: str) -> Progress:
    return Progress(total, sys.stderr, SystemClock().monotonic_ms, what)


def _say_plan(repaired: Repair) -> None:
    losses = repaired.losses()
    say(f"{repaired.topic_partition}: " + ("this will be lost:" if losses else "nothing will be lost."))
    for line in losses:
        say(f"  {line}")
    say("This will be done:")
    size = human_bytes(repaired.bytes_needed()[0])
    for line in (f"copy the partition's directory ({size}) to {repaired.copy_path}", *repaired.steps()):
        say(f"  {line}")


def _is_agreed(name: str) -> bool:
    try:
        return input(f"Repair {name}? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _say_result(repaired: Repair, left: list[Finding], copy: str) -> int:
    for finding in left:
        say(finding.line())
    if left:
        return complain(f"{repaired.topic_partition}: something is wrong still; the copy is {copy}", 1)
    say(f"{repaired.topic_partition} is repaired; remove {copy} when you need it no longer")
    return 0
