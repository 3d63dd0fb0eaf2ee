"""`ottla streams`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.cli.conftest import Run

import ottla as client
from ottla.cli.streams import keys_above
from ottla.streams import App
from ottla.streams.runtime.settings import STREAMS_KEYS

APP = """
from ottla.streams import App, DeadLetter

app = App(
    "{name}",
    on_processing_error=DeadLetter("dead-{name}"),
    processing_guarantee="exactly_once_v2",
    state_dir={state!r},
    # Each count is written, also between two commits.
    config={{"producer.linger.ms": 0, "statestore.cache.max.bytes": 0}},
)
words = app.stream("lines-{name}", value=str).flat_map_values(str.split)
words.group_by(lambda key, word: word, key=str, value=str{named}).count({store}).to_stream().to(
    "counts-{name}", key=str, value="json"
)
number = 7
"""


@pytest.fixture
def counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """MODULE:NAME of an application in the current directory."""
    name = f"counting{os.getpid()}_{time.monotonic_ns()}"
    text = APP.format(name=name, state=str(tmp_path / "state"), named=', name="words"', store='store="counts"')
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return f"{name}:app"


def test_run_check_and_reset(ottla: Run, counting: str, tmp_path: Path) -> None:
    """1. check names topics that are missing. 2. Two processes count. 3. reset refuses while they run. 4. SIGTERM hands
    over. 5. reset removes internal topics, offsets and state."""
    name = counting.partition(":")[0]
    missing = ottla("streams", "check", counting)
    assert missing.code == 1
    assert f"do not exist: lines-{name}" in missing.out
    assert ottla("topic", "create", f"lines-{name}", "-p", "2").code == 0
    assert ottla("topic", "create", f"counts-{name}").code == 0
    assert ottla("streams", "check", counting).out == f"The dead-letter topic dead-{name} does not exist.\n"
    assert ottla("topic", "create", f"dead-{name}").code == 0
    assert ottla("streams", "check", counting).err == "nothing is wrong\n"
    servers = os.environ["KAFKA_BOOTSTRAP_SERVERS"]
    with client.Producer(servers) as producer:
        producer.send_many(f"lines-{name}", ["a b a", "b a"])
    command = [sys.executable, "-m", "ottla", "streams", "run", counting, "--processes", "2"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        found: list[tuple[bytes | None, bytes | None]] = []
        deadline = time.monotonic() + 40
        while len(found) < 5 and time.monotonic() < deadline:
            found = [(record.key, record.value) for record in _read(servers, f"counts-{name}")]
            assert process.poll() is None
        assert sorted(found) == [(b"a", b"1"), (b"a", b"2"), (b"a", b"3"), (b"b", b"1"), (b"b", b"2")]
        refused = ottla("streams", "reset", counting, "--yes")
        assert refused.code == 1
        # The second process joins when it is up, which the results do not wait for.
        assert re.search(r"has (1 member|2 members): stop all instances first", refused.err), refused.err
        process.send_signal(signal.SIGTERM)
        told_while_running = process.communicate(timeout=40)[1]
        assert process.returncode == 0
        assert f"running {name}: " in told_while_running
    finally:
        process.kill()
        process.wait()
    told = ottla("streams", "reset", counting, "--dry-run")
    assert told.err == ""
    assert told.out.splitlines() == [
        f"topic {name}-counts-changelog",
        f"topic {name}-words-repartition",
        f"offsets of group {name}",
        f"directory {tmp_path / 'state' / name}",
    ]
    assert ottla("streams", "reset", counting, "--yes").err == f"{name}: starts over\n"
    assert ottla("streams", "reset", counting, "--dry-run").out == f"directory {tmp_path / 'state' / name}\n"
    assert not [path for path in (tmp_path / "state" / name).iterdir() if path.is_dir()]


def _read(servers: str, topic: str) -> list[client.Record]:
    with client.Consumer(
        servers, topics=[topic], auto_offset_reset="earliest", isolation_level="read_committed"
    ) as reader:
        return list(reader.records(until="end"))


def test_names_made_by_counting_are_found(ottla: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unnamed.py").write_text(APP.format(name="unnamed", state="state", named="", store=""))
    monkeypatch.syspath_prepend(str(tmp_path))
    found = ottla("streams", "check", "unnamed:app", "--offline")
    assert found.code == 1
    assert found.out.count("made by counting") == 2


def test_the_topology_is_described(ottla: Run, counting: str) -> None:
    assert "Sub-topology: 1" in ottla("streams", "describe", counting).out
    assert ottla("streams", "describe", counting, "--mermaid").out.startswith(("flowchart", "graph"))


def test_what_is_typed_wrong_is_one_line(ottla: Run, counting: str) -> None:
    module = counting.partition(":")[0]
    for code, arguments, line in [
        (2, ("run", "nowhere:app"), "there is no module 'nowhere' here"),
        (2, ("run", module), "is no MODULE:NAME, such as orders:app"),
        (2, ("run", f"{module}:number"), "is int; an ottla.streams.App is needed"),
        (2, ("run", f"{module}:other"), "has no 'other'"),
        (2, ("run", counting, "-X", "state.dri=x"), "Did you mean 'state.dir'?"),
        (2, ("run", counting, "-X", "group.protocol=consumer"), "it takes classic, streams"),
        (2, ("run", counting, "-X", "num.stream.threads=2"), "num.stream.threads is 1"),
        (2, ("run", counting, "-X", "application.server=me"), "application.server"),
        (2, ("run", counting, "-X", "group.id=x"), "it is the application id"),
        (1, ("check", counting, "--bootstrap-server", "localhost:1"), "Nothing listens on localhost:1"),
        (1, ("run", counting, "-b", "localhost:1"), "Nothing listens on localhost:1"),
    ]:
        done = ottla("streams", *arguments)
        assert (done.code, done.out, done.err.count("\n")) == (code, "", 1), (arguments, done)
        assert line in done.err


def test_every_key_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "streams.md").read_text()
    for key in STREAMS_KEYS.values():
        default = "" if key.default in (None, "") else key.default
        assert f"| `{key.name}` | {default} | {key.text} |" in page


def test_the_command_line_overrides_the_address_of_the_app_and_the_app_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "client.properties"
    file.write_text("security.protocol=PLAINTEXT\n")
    addressed, bare = App("a", "app:1"), App("a")

    def address(app: App, servers: str | None = None, *pairs: str, file: str | None = None) -> object:
        return keys_above(app, servers, None, pairs, file)["bootstrap.servers"]

    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "environment:1")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert address(addressed) == "app:1"
    assert address(addressed, file=str(file)) == "app:1"
    assert address(addressed, "line:1") == "line:1"
    assert address(addressed, None, "bootstrap.servers=line:1") == "line:1"
    assert address(bare) == "environment:1"
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS")
    assert address(bare) == "localhost:9092"
    file.write_text("security.protocol=SSL\nbootstrap.servers=file:1\n")
    assert keys_above(addressed, None, None, ["state.dir=x"], str(file)) == {
        "bootstrap.servers": "file:1",
        "security.protocol": "SSL",
        "state.dir": "x",
    }


def test_a_module_that_raises_is_told_with_its_own_line(
    ottla: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text, line in [
        ("raising", "import json\njson.loads('x')\n", "(raising.py:2)"),
        ("misspelt", "x = 1\ndef (\n", "SyntaxError: invalid syntax (misspelt.py:2)"),
        ("importing", "import nowhere_at_all\n", "No module named 'nowhere_at_all' (importing.py:1)"),
    ]:
        (tmp_path / f"{name}.py").write_text(text)
        done = ottla("streams", "describe", f"{name}:app")
        assert (done.code, done.out, done.err.count("\n")) == (1, "", 1), done
        assert line in done.err
