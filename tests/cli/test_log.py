"""`ottla log check` and `ottla log repair`: mistakes, answers, exit codes; with a broker before and after."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition
from tests.support.broker_process import BrokerProcess

from ottla.cli.main import main
from ottla.cli.progress import Progress, human_bytes, human_seconds
from ottla.protocol.records.batch import read_header

# ------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["log"], "ottla log: the following arguments are required: check|repair; see ottla log --help"),
        (["log", "chek", "x"], "ottla log: argument check|repair: invalid choice: 'chek'"),
        (["log", "check"], "ottla log check: the following arguments are required: DIR; see ottla log check --help"),
        (["log", "check", "/does/not/exist"], "ottla: /does/not/exist: No such file or directory"),
        (["log", "repair", "t-0"], "ottla: where is t-0? name its log directory with --data-dir, or give the path"),
        (["log", "repair", "a/t-0", "--data-dir", "a"], "ottla: give either the path of the partition's directory or"),
        (["log", "repair", "topic", "--data-dir", "/tmp", "--yes"], "ottla: topic is no partition: its directory has"),
        (["log", "repair", "t-0", "--data-dir", "/tmp", "--dry-run"], "ottla: t-0: there is no directory /tmp/t-0"),
        (
            ["log", "repair", "t-0", "--yes", "--dry-run"],
            "ottla log repair: argument --dry-run: not allowed with argument",
        ),
        (["log", "repair", "t-0", "--data-dir", "/tmp", "--yes", "--copy-to", "/no"], "ottla: --copy-to: there is no"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(line)
    assert shown.err.count("\n") == 1
    assert shown.out == ""


def test_a_directory_of_something_else_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["log", "check", str(tmp_path)]) == 2
    assert "is neither a log directory nor the directory of a partition" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_partition_that_is_not_there_is_not_repaired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["log", "repair", "t-0", "--data-dir", str(tmp_path), "--yes"]) == 1
    assert f"t-0 is not repaired: there is no directory {tmp_path}/t-0" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["log"], ["log", "check"], ["log", "repair"]])
def test_help_says_what_it_does(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0
    assert "ottla" in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert "check and repair the logs of a stopped broker" in capsys.readouterr().out


def test_the_commands_import_nothing_of_the_broker() -> None:
    script = (
        "import sys\n"
        "from ottla.cli.main import main\n"
        "assert main(['log', 'check', '/does/not/exist']) == 2\n"
        "from ottla.storage import check, repair\n"
        "assert not [name for name in sys.modules if name.startswith(('ottla.broker', 'ottla.network', 'asyncio'))]\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------------------ progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_shows_share_rate_and_what_remains_a_few_times_a_second() -> None:
    now = [0.0]
    terminal = Terminal()
    progress = Progress(4_000_000, terminal, lambda: now[0], "reading")
    progress.advance(500_000)
    first = terminal.getvalue()
    assert first == "\rreading [###.....................]  12%  500 kB of 4.0 MB\x1b[K"
    now[0] = 50
    progress.advance(500_000)
    assert terminal.getvalue() == first
    now[0] = 1000
    progress.advance(1_000_000)
    assert terminal.getvalue().endswith(
        "\rreading [############............]  50%  2.0 MB of 4.0 MB  2.0 MB/s  1 s left\x1b[K"
    )
    progress.clear()
    assert terminal.getvalue().endswith("\r\x1b[K")
    shown = terminal.getvalue()
    progress.clear()
    assert terminal.getvalue() == shown


def test_nothing_is_drawn_where_there_is_no_terminal() -> None:
    pipe = io.StringIO()
    progress = Progress(100, pipe, lambda: 0.0)
    progress.advance(50)
    progress.clear()
    assert pipe.getvalue() == ""
    assert progress.done == 50


def test_numbers_are_written_for_people() -> None:
    assert [human_bytes(count) for count in (0, 999, 1500, 123_456, 5_000_000_000, 2.5e12)] == [
        "0 bytes", "999 bytes", "1.5 kB", "123 kB", "5.0 GB", "2.5 TB",
    ]  # fmt: skip
    assert [human_seconds(count) for count in (0.4, 59, 61, 3661)] == ["0 s", "59 s", "1:01", "1:01:01"]


# ------------------------------------------------------------------------------------------------ with a broker


def ottla(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ottla", "log", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        input=stdin,
    )


def produce(address: str, topic: str, values: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": address, "linger.ms": 0})
    for value in values:
        producer.produce(topic, value, partition=0)
        producer.flush(10)


def consume(address: str, topic: str, start: int, end: int) -> dict[int, bytes]:
    """Read from offset `start` until the record before `end`.

    Raises:
        KafkaException: the broker answers with an error.
    """
    consumer = Consumer({"bootstrap.servers": address, "group.id": "g", "check.crcs": True})
    consumer.assign([TopicPartition(topic, 0, start)])
    found: dict[int, bytes] = {}
    try:
        while end - 1 not in found:
            message = consumer.poll(20)
            assert message is not None, "nothing came"
            error = message.error()
            if error is not None:
                raise KafkaException(error)
            offset, value = message.offset(), message.value()
            assert offset is not None
            assert value is not None
            found[offset] = value
        return found
    finally:
        consumer.close()


def damage_batch(log: Path, number: int, at: int, data: bytes) -> tuple[int, int]:
    """Overwrite bytes of a batch; return its (position, size)."""
    content = bytearray(log.read_bytes())
    position = 0
    for _ in range(number):
        position += read_header(content, position).size
    size = read_header(content, position).size
    content[position + at : position + at + len(data)] = data
    log.write_bytes(content)
    return position, size


def test_from_damage_to_repair_with_a_broker_before_and_after() -> None:
    """1. Produce; 2. refuse while it runs; 3. stop, damage, check; 4. a consumer meets it; 5. repair; 6. all is served."""
    values = [b"value-%d" % number for number in range(30)]
    with BrokerProcess() as broker:
        data_dir = str(broker.data_dir)
        produce(broker.address, "t", values)
        running = ottla("check", data_dir)
        assert (running.returncode, running.stdout) == (2, "")
        assert running.stderr == f"ottla: {data_dir} is in use by a running broker: stop it first\n"
        refused = ottla("repair", "t-0", "--data-dir", data_dir, "--yes")
        assert refused.returncode == 1
        assert (
            refused.stderr == f"ottla: t-0 is not repaired: {data_dir} is in use by a running broker: stop it first\n"
        )
        assert broker.terminate() == 0

        whole = ottla("check", data_dir)
        assert (whole.returncode, whole.stderr) == (0, ""), whole.stdout
        assert re.fullmatch(r"1 partition, [\d.]+ kB: nothing is wrong\n", whole.stdout)
        nothing = ottla("repair", "t-0", "--data-dir", data_dir, "--yes")
        assert (nothing.returncode, nothing.stdout) == (0, "t-0: there is nothing to repair\n")
        nothing = ottla("repair", "t-0", "--data-dir", data_dir, "--dry-run")
        assert (nothing.returncode, nothing.stdout) == (0, "t-0: there is nothing to repair\n")

        log = broker.data_dir / "t-0" / f"{0:020}.log"
        damage_batch(log, 20, 65, b"?")
        position, size = damage_batch(log, 7, 8, struct.pack(">i", 0))
        told = ottla("check", data_dir)
        assert (told.returncode, told.stderr) == (1, "")
        assert f"t-0 {log.name}, bytes {position} to {position + size}, offset 7: a batch length" in told.stdout
        assert f"t-0 {log.name}, bytes " in told.stdout
        assert told.stdout.endswith(": 2 things are wrong\n")
        lines = [json.loads(line) for line in ottla("check", str(log.parent), "--json", "--deep").stdout.splitlines()]
        assert [line.get("first_offset") for line in lines] == [7, 20, None]
        assert lines[0]["kind"] == "damage"
        assert lines[-1]["summary"] == {"partitions": 1, "bytes": log.stat().st_size, "wrong": 2, "notes": 0}

        broker.start()
        with pytest.raises(KafkaException, match="Invalid message"):
            consume(broker.address, "t", 7, 8)
        assert broker.terminate() == 0

        before = {path.name: path.read_bytes() for path in log.parent.iterdir()}
        asked = ottla("repair", str(log.parent), stdin="y\n")
        assert asked.returncode == 2
        assert asked.stderr.startswith("ottla: nothing was changed: there is no terminal to ask on; say --yes")
        assert f"t-0: this will be lost:\n  offset 7: {size} bytes of {log.name}" in asked.stdout
        tried = ottla("repair", str(log.parent), "--dry-run")
        assert (tried.returncode, tried.stderr) == (1, "")
        assert re.sub("[0-9a-f]{32}-stray", "", tried.stdout) == re.sub("[0-9a-f]{32}-stray", "", asked.stdout)
        assert {path.name: path.read_bytes() for path in log.parent.iterdir()} == before
        repaired = ottla("repair", "t-0", "--data-dir", data_dir, "--yes")
        assert (repaired.returncode, repaired.stderr) == (0, "")
        assert f"t-0: this will be lost:\n  offset 7: {size} bytes of {log.name}" in repaired.stdout
        found = re.search(r"^the copy is (\S+)$", repaired.stdout, re.MULTILINE)
        assert found is not None
        copy = Path(found[1])
        assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
        assert repaired.stdout.endswith(f"t-0 is repaired; remove {copy} when you need it no longer\n")
        assert (
            ottla("check", str(log.parent))
            .stdout.splitlines()[0]
            .startswith("note: t-0, offset 7: no batch has offset 7")
        )
        assert ottla("check", data_dir).returncode == 0

        broker.start()
        assert copy.is_dir()
        expected = {number: value for number, value in enumerate(values) if number not in (7, 20)}
        assert consume(broker.address, "t", OFFSET_BEGINNING, 30) == expected
        produce(broker.address, "t", [b"new"])
        assert consume(broker.address, "t", 30, 31) == {30: b"new"}
        assert broker.terminate() == 0
        assert copy.is_dir()
        assert "cannot be read" not in broker.output.rpartition("ready on")[2]
        assert ottla("check", data_dir).returncode == 0


def test_it_asks_on_a_terminal_and_shows_a_bar(tmp_path: Path) -> None:
    from tests.storage.damaged_log import make_log
    from tests.storage.log_support import DIRECTORY

    from ottla.storage.files import OsFiles

    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        make_log(OsFiles())
    finally:
        os.chdir(here)
    directory = tmp_path / DIRECTORY
    damage_batch(sorted(directory.glob("*.log"))[2], 0, 65, b"?")

    def answer(text: str) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "ottla", "log", "repair", str(directory)], stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        shown = ""
        is_answered = False
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # the other side was closed
                break
            if not part:
                break
            shown += part.decode()
            if not is_answered and "[y/N] " in shown:
                os.write(ours, text.encode())
                is_answered = True
        os.close(ours)
        return process.wait(timeout=60), shown

    code, shown = answer("no\n")
    assert (code, "nothing was changed" in shown) == (1, True), shown
    assert "reading [" in shown
    assert not list(directory.parent.glob("*-stray"))
    code, shown = answer("y\n")
    assert code == 0, shown
    assert "t-0 is repaired" in shown
    assert "copying [" in shown
    assert len(list(directory.parent.glob("*-stray"))) == 1
