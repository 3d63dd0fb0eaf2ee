"""`ottla security init` and what README.md says about it: the five commands run as they stand there, but for the port."""

from __future__ import annotations

import io
import os
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import confluent_kafka
import pytest
from tests.cli.conftest import Done
from tests.support import kafka_anchor
from tests.support.broker_process import BrokerProcess
from tests.support.ports import free_port
from tests.support.printed import without_librdkafka

import ottla
from ottla.cli.main import main
from ottla.client.errors import ConfigurationError
from ottla.client.property_files import read_properties

README = Path(__file__).parents[2] / "README.md"


def commands() -> list[list[str]]:
    """Return the five commands of README.md, without `ottla`."""
    section = README.read_text().partition("## Making it safe")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```console\n(.*?)```", section, re.DOTALL)
    found = [shlex.split(line.removeprefix("$ ")) for line in block.splitlines()]
    assert len(found) == 5
    assert all(line[0] == "ottla" for line in found)
    return [line[1:] for line in found]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Runner:
    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd

    def __call__(self, *arguments: str) -> Done:
        code = main(arguments)
        shown = self._capfd.readouterr()
        return Done(code, shown.out, without_librdkafka(shown.err))


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capfd)


@contextmanager
def served(properties: str, port: int, data: Path) -> Iterator[BrokerProcess]:
    """Run `ottla serve` with a file, and nothing else but a directory of its own."""
    command = [sys.executable, "-m", "ottla", "serve", properties, "--data-dir", str(data)]
    process = BrokerProcess(port=port, data_dir=data, options=(properties,))
    assert command[3] == "serve"
    with process:
        yield process


def test_the_five_commands_make_a_safe_broker(home: Path, run: Runner) -> None:
    """init, serve, user, acl, produce; then other clients, strangers, and what one user may not do."""
    init, serve, *rest = commands()
    port = free_port()
    assert init == ["security", "init"]
    made = run(*init, "--port", str(port))
    assert made.code == 0, made.err
    assert "ottla serve" in made.out
    assert serve[0] == "serve"
    with served(serve[1], port, home / "data") as broker:
        for arguments in rest:
            done = run(*arguments)
            assert done.code == 0, (arguments, done.err)
        alice = read_properties("alice.properties")
        with ottla.Consumer(config=alice, topics=["orders"], auto_offset_reset="earliest") as consumer:
            assert [record.value for record in consumer.records(until="end")] == [b"hello"]
        login = re.search(r'username="(.*)" password="(.*)"', alice["sasl.jaas.config"])
        assert login is not None
        settings: dict[str, str | int] = {
            "bootstrap.servers": alice["bootstrap.servers"],
            "security.protocol": "SASL_SSL",
            "ssl.ca.location": "ottla-secure/ca.pem",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": login[1],
            "sasl.password": login[2],
        }
        told: dict[str | None, object] = {}
        producer = confluent_kafka.Producer(settings)
        for topic in ("orders", "secret"):
            producer.produce(
                topic, b"by librdkafka", on_delivery=lambda error, message: told.update({message.topic(): error})
            )
        producer.flush(30)
        assert told["orders"] is None
        assert "authorization failed" in str(told["secret"])
        # Without a login, without TLS: nothing.
        plain = run("topic", "list", "-b", f"localhost:{port}", "-X", "default.api.timeout.ms=3s")
        assert plain.code == 1
        assert "speaks TLS, this client does not. Say -F FILE" in plain.err
        assert "ssl_context" not in plain.err
        Path("wrong.properties").write_text(Path("alice.properties").read_text().replace(login[2], "wrong"))
        assert "uthentication" in run("produce", "orders", "-v", "x", "-F", "wrong.properties").err
        denied = run("topic", "create", "mine", "-F", "alice.properties")
        assert (denied.code, denied.err) == (1, "ottla: Not authorized to create topic 'mine'.\n")
        denied = run("topic", "delete", "orders", "--yes", "-F", "alice.properties")
        assert (denied.code, denied.err) == (1, "ottla: Not authorized to delete topic 'orders'.\n")
        # Nothing secret in what the broker says, or in what others see of its process.
        with open(f"/proc/{broker.pid}/cmdline", "rb") as file:
            shown = file.read().decode() + broker.output
        for secret in (login[2], *_secrets(home)):
            assert secret not in shown


def _secrets(home: Path) -> list[str]:
    text = (home / "ottla-secure" / "server.properties").read_text() + (
        home / "ottla-secure" / "admin.properties"
    ).read_text()
    found = re.findall(r'password="([^"]+)"|stored_key=([^,]+),server_key=([^,]+),|secret.key=(.+)', text)
    assert len(found) == 3
    return [part for parts in found for part in parts if part]


def test_users_of_the_file_are_told_apart_from_what_is_none(home: Path, run: Runner) -> None:
    """A mistake in `ottla.scram.users` is one sentence at the start, without the keys in it."""
    assert run("security", "init").code == 0
    path = home / "ottla-secure" / "server.properties"
    path.write_text(path.read_text().replace("stored_key=", "storedkey=canary"))
    done = run("serve", str(path), "--data-dir", str(home / "data"))
    assert done.code == 2
    assert "ottla.scram.users: user 1 cannot be read" in done.err
    assert "canary" not in done.err


def test_a_changed_password_stays_changed_through_a_restart(home: Path, run: Runner) -> None:
    port = free_port()
    assert run("security", "init", "--port", str(port)).code == 0
    admin = "ottla-secure/admin.properties"
    with served("ottla-secure/server.properties", port, home / "data"):
        assert run("user", "passwd", "admin", "--client-file", "new.properties", "-F", admin).code == 0
    with served("ottla-secure/server.properties", port, home / "data"):
        assert run("user", "list", "-F", "new.properties").code == 0
        assert "uthentication" in run("user", "list", "-F", admin).err


def test_the_safe_broker_has_its_records_beside_its_settings(
    home: Path, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs beside a plain broker, and neither of the two ever serves the records of the other."""
    from ottla.cli.serve import parser, read_config

    made = run("security", "init", "my secure\tplace")
    assert made.code == 0, made.err
    assert "no other broker uses it" in made.out
    given = parser().parse_args(["my secure\tplace/server.properties"])
    assert read_config(given, {}).log_dirs == (str(home / "my secure\tplace" / "data"),)
    assert "has a comma" in run("security", "init", "a,b", "--context", "other").err
    assert not (home / "a,b").exists()


def test_init_says_that_commands_go_to_the_safe_broker_from_now_on_and_how_they_go_back(
    home: Path, run: Runner
) -> None:
    made = run("security", "init")
    assert "It is the current context now" in made.out
    back = [line.split()[1:] for line in made.out.splitlines() if line.startswith("  ottla context ")]
    assert len(back) == 2
    for arguments in back:
        assert run(*arguments).code == 0
    current = [line for line in run("context", "list").lines if "localhost:9092" in line]
    assert [line[0] for line in current] == ["yes"]
    beside = run("security", "init", "elsewhere", "--context", "other")
    assert "It is the current context now" not in beside.out
    assert "  ottla context use other\n" in beside.out


def test_every_file_is_its_owners_only(home: Path, run: Runner) -> None:
    old = os.umask(0)
    try:
        assert run("security", "init").code == 0
    finally:
        os.umask(old)
    assert stat.S_IMODE((home / "ottla-secure").stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (home / "ottla-secure").iterdir()}
    assert modes.pop("ca.pem") == 0o644
    assert set(modes) == {"ca.key", "broker.pem", "server.properties", "admin.properties"}
    assert set(modes.values()) == {0o600}


def test_nothing_that_is_there_is_overwritten(home: Path, run: Runner) -> None:
    assert run("security", "init").code == 0
    before = {path.name: path.read_bytes() for path in (home / "ottla-secure").iterdir()}
    again = run("security", "init", "--context", "other")
    assert again.code == 1
    assert "nothing was changed" in again.err
    assert before == {path.name: path.read_bytes() for path in (home / "ottla-secure").iterdir()}
    assert "there is a context 'secure' already" in run("security", "init", "elsewhere").err
    assert not (home / "elsewhere").exists()


def test_a_directory_that_others_write_into_is_refused(home: Path, run: Runner) -> None:
    (home / "open").mkdir()
    (home / "open").chmod(0o777)
    assert "other users may write into" in run("security", "init", "open").err


def test_renew_makes_a_certificate_of_the_same_names_and_wants_a_key_that_only_its_owner_reads(
    home: Path, run: Runner
) -> None:
    assert run("security", "init", "--host", "kafka.example.com").code == 0
    store = home / "ottla-secure" / "broker.pem"
    before = store.read_bytes()
    done = run("security", "renew")
    assert done.code == 0
    assert "kafka.example.com" in done.err
    assert store.read_bytes() != before
    assert stat.S_IMODE(store.stat().st_mode) == 0o600
    (home / "ottla-secure" / "ca.key").chmod(0o644)
    assert "other users may read" in run("security", "renew").err


def test_a_producer_of_an_earlier_test_is_not_taken_for_the_command(run: Runner) -> None:
    """librdkafka logs to descriptor 2 from a thread of its own, for as long as its producer lives."""
    os.write(2, b"%3|1796097059.957|FAIL|rdkafka#producer-11| [thrd:x/bootstrap]: Connection refused (after 0ms)\n")
    assert run("security", "init", "--port", "none").err.startswith("ottla: ")


def test_without_the_extra_it_says_what_to_install(home: Path, run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    done = run("security", "init")
    assert (done.code, done.err) == (
        1,
        "ottla: Making certificates needs more packages: pip install 'ottla[security]'\n",
    )
    assert not (home / "ottla-secure").exists()


def test_a_password_is_taken_from_a_file_or_stdin_never_from_nowhere(
    home: Path, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ottla.cli.passwords import take_password

    (home / "p").write_text("wonder land\nmore\n")
    assert take_password("a", "p", generate=False) == "wonder land"
    monkeypatch.setattr(sys, "stdin", io.StringIO("from stdin\n"))
    assert take_password("a", "-", generate=False) == "from stdin"
    done = run("user", "passwd", "alice", "-b", "localhost:1", "-X", "default.api.timeout.ms=1")
    assert done.code != 0
    for arguments, text in [(("a", "p", True), "exclude"), (("a", None, False), "without one say --generate")]:
        with pytest.raises(Exception, match=text):
            take_password(arguments[0], arguments[1], generate=arguments[2])


def test_a_file_that_is_none_is_told_without_its_values(home: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_properties("nothing.properties")
    (home / "bad.properties").write_text("sasl.password=\\u12xcanary\n")
    with pytest.raises(ConfigurationError, match="line 1") as raised:
        read_properties("bad.properties")
    assert "canary" not in str(raised.value)


def test_a_secret_on_the_command_line_is_refused(home: Path, run: Runner) -> None:
    """A context takes them from a file."""
    for arguments in (("topic", "list"), ("context", "set", "x")):
        done = run(*arguments, "-X", "sasl.password=canary")
        assert done.code == 2
        assert "sasl.password on the command line can be read by others" in done.err
        assert "canary" not in done.err
    (home / "x.properties").write_text("bootstrap.servers=localhost:1\nsasl.password=canary\nlinger.ms=5\n")
    assert run("context", "set", "x", "-F", "x.properties").code == 0
    listed = run("context", "list", "--json")
    assert "sasl.password" in listed.out
    assert "canary" not in listed.out
    assert "linger.ms" not in listed.out


@pytest.mark.kafka
def test_kafkas_tools_and_java_client_read_what_it_makes(home: Path, run: Runner) -> None:
    """kafka-topics, kafka-acls and kafka-configs as admin; the Java client as a user whom they let in."""
    kafka_anchor.require()
    port = free_port()
    assert run("security", "init", "--port", str(port)).code == 0
    admin = str(home / "ottla-secure" / "admin.properties")
    with served("ottla-secure/server.properties", port, home / "data"):
        address = f"localhost:{port}"

        def tool(name: str, *arguments: str, config: str = admin, stdin: str | None = None) -> str:
            return kafka_anchor.tool(
                name, "--bootstrap-server", address, "--command-config", config, *arguments, stdin=stdin
            )

        tool("kafka-topics", "--create", "--topic", "orders")
        assert run("user", "create", "alice", "--client-file", "alice.properties", "-F", admin).code == 0
        tool("kafka-configs", "--alter", "--entity-type", "users", "--entity-name", "bob", "--add-config",
             "SCRAM-SHA-256=[iterations=4096,password=wonder]")  # fmt: skip
        assert ["bob", "SCRAM-SHA-256", "4096"] in run("user", "list", "-F", admin).lines
        added = run("acl", "add", "--principal", "User:alice", "--producer", "--consumer", "--topic", "orders", "--group",
                    "g", "-F", admin)  # fmt: skip
        assert added.code == 0
        listed = tool("kafka-acls", "--list", "--principal", "User:alice")
        for operation in ("WRITE", "DESCRIBE", "CREATE", "READ"):
            assert f"operation={operation}" in listed
        alice = str(home / "alice.properties")
        tool("kafka-console-producer", "--topic", "orders", config=alice, stdin="by Java\n")
        read = tool(
            "kafka-console-consumer", "--topic", "orders", "--group", "g", "--from-beginning", "--max-messages", "1",
            "--timeout-ms", "30000", config=alice,
        )  # fmt: skip
        assert "by Java" in read
        assert "TopicAuthorizationException" in tool(
            "kafka-console-producer", "--topic", "closed", config=alice, stdin="x\n"
        )


def test_the_command_line_shows_no_password(home: Path) -> None:
    """There is no option that takes one."""
    helped = subprocess.run(
        [sys.executable, "-m", "ottla", "user", "create", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "--password-file" in helped
    assert not re.search(r"--password\s", helped)
