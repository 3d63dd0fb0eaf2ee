"""The rows of the matrix of logins that are about Kerberos: the same conversations with Apache Kafka and with ottla.

A realm of the tests' own, a listener with Kafka's default rules, one with rules, one whose sessions end, one with TLS.
`python -m tests.compatibility.authentication.test_kerberos_matrix` prints the table of docs/logins-beside-kafka.md.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.compatibility.authentication.brokers import Identities, make_identities
from tests.compatibility.authentication.conversation import SESSION_MS, ClosedError, Conversation
from tests.support import kafka_anchor, kdc
from tests.support.broker_process import BrokerProcess
from tests.support.kdc import Kdc
from tests.support.ports import free_port

from ottla.security.kerberos import Keys, initiating
from ottla.security.sasl import ClientExchange
from ottla.security.sasl.gssapi import Context, GssapiClient

pytestmark = [pytest.mark.kafka, pytest.mark.kerberos]

LISTENERS = {"KRB": "SASL_PLAINTEXT", "RULES": "SASL_PLAINTEXT", "AGAIN": "SASL_PLAINTEXT", "SECURE": "SASL_SSL"}
#: Of the principals below all but `nobody` have a user here, and most another one than by DEFAULT.
RULES = r"RULE:[2:$2-$1](.*-app)s/([a-z]+)\.([a-z]+)/$2.$1/,RULE:[1:$1](alice)s/[ai]/o/g/U,RULE:[1:$1@$0](bob@.*)"
MODULE = "com.sun.security.auth.module.Krb5LoginModule required"
#: Clocks may differ by this many seconds: so long a ticket counts after its end.
CLOCK_SKEW = 5

#: Where the two differ, and why.
EXPLAINED = {
    "rules: none is about it": "A principal without a user is not let in; Kafka lets it in, and closes at its next request.",
    "rules: still a principal": "A principal without a user is not let in; Kafka lets it in, and closes at its next request.",
}


@dataclass(frozen=True)
class Place:
    """A realm, whose principals' keys are in `keytabs`, another one that has a service of the same name, and certificates."""

    realm: Kdc
    other: Kdc
    keytabs: dict[str, Path]
    service: Path
    identities: Identities

    def exchange(self, who: str = "alice", *, service: str = "kafka", authzid: str = "") -> ClientExchange:
        return GssapiClient(initiating(self.keys(who), service, "localhost"), authzid or who)

    def keys(self, who: str) -> Keys:
        return Keys(principal=f"{who}@{self.realm.realm}", keytab=str(self.keytabs[who]))


@dataclass(frozen=True)
class Doors:
    """Where one broker is reached."""

    name: str
    ports: dict[str, int]
    place: Place


Step = Callable[[Conversation, Doors], Awaitable[None]]
CELLS: dict[str, tuple[str, tuple[Step, ...]]] = {}


def cell(name: str, listener: str, *steps: Step) -> None:
    assert name not in CELLS
    CELLS[name] = (listener, steps)


def logs_in(who: str = "alice", **how: Any) -> Step:
    plain = {name: how.pop(name) for name in ("handshake", "version") if name in how}
    return lambda client, doors: client.log_in(doors.place.exchange(who, **how), **plain)


def tokens(*said: bytes) -> Step:
    async def step(client: Conversation, doors: Doors) -> None:
        await client.handshake("GSSAPI")
        for token in said:
            await client.authenticate(token)

    return step


async def who(client: Conversation, doors: Doors) -> None:
    await client.who()


async def works(client: Conversation, doors: Doors) -> None:
    await client.works()


def waits(seconds: float) -> Step:
    return lambda client, doors: asyncio.sleep(seconds)


class Layer:
    """A context whose client takes a security layer that was not offered."""

    def __init__(self, inner: Context) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def wrap(self, message: bytes) -> bytes:
        return self._inner.wrap(b"\x04" + message[1:])


async def takes_secrecy(client: Conversation, doors: Doors) -> None:
    make = initiating(doors.place.keys("alice"), "kafka", "localhost")
    await client.log_in(GssapiClient(lambda: Layer(make())))


async def sends_a_ticket_of_another_service(client: Conversation, doors: Doors) -> None:
    await client.log_in(doors.place.exchange(service="other"))


async def sends_a_ticket_of_another_realm(client: Conversation, doors: Doors) -> None:
    other = doors.place.other
    keys = Keys(principal=f"alice@{other.realm}", keytab=str(other.directory / "alice.keytab"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KRB5_CONFIG", str(other.krb5_conf))
        token = initiating(keys, "kafka", "localhost")().step(b"")
    await client.handshake("GSSAPI")
    await client.authenticate(token)


async def sends_a_ticket_that_has_ended(client: Conversation, doors: Doors) -> None:
    place = doors.place
    cache = place.realm.tickets("alice", place.keytabs["alice"], lifetime="3s", name=f"ends-{doors.name[:3]}")
    token = initiating(Keys(ticket_cache=str(cache)), "kafka", "localhost")().step(b"")
    await asyncio.sleep(3 + CLOCK_SKEW + 2)
    await client.handshake("GSSAPI")
    await client.authenticate(token)


async def says_another_clients_words(client: Conversation, doors: Doors) -> None:
    token = initiating(doors.place.keys("alice"), "kafka", "localhost")().step(b"")
    first = await Conversation.open(doors.ports["KRB"])
    await first.handshake("GSSAPI")
    await first.authenticate(token)
    first.close()
    await client.handshake("GSSAPI")
    await client.authenticate(token)


async def changes_its_ticket(client: Conversation, doors: Doors) -> None:
    token = bytearray(initiating(doors.place.keys("alice"), "kafka", "localhost")().step(b""))
    token[-20] ^= 1
    await client.handshake("GSSAPI")
    await client.authenticate(bytes(token))


async def logs_in_by_bare_tokens(client: Conversation, doors: Doors) -> None:
    exchange = doors.place.exchange()
    await client.handshake("GSSAPI", 0)
    said = exchange.respond(await client.bare(exchange.begin()))
    last = exchange.respond(await client.bare(said or b""))
    assert last is not None
    await client.send(len(last).to_bytes(4, "big") + last)  # which is not answered


SHORT, LONG = SESSION_MS / 1000 * 0.5, SESSION_MS / 1000 + 1.5

cell("right", "KRB", logs_in(), works, who)
cell("right, over TLS", "SECURE", logs_in(), works, who)
cell("right, bare tokens", "KRB", logs_in_by_bare_tokens, works, who)
cell("right, SaslAuthenticate 0", "KRB", logs_in(version=0), works, who)
cell("right: two components", "KRB", logs_in("app/one.two"), who)
cell("right: acts as somebody else", "KRB", logs_in(authzid="bob"), who)
cell("wrong: a ticket of another service", "KRB", sends_a_ticket_of_another_service)
cell("wrong: a ticket of another realm", "KRB", sends_a_ticket_of_another_realm)
cell("wrong: a ticket that has ended", "KRB", sends_a_ticket_that_has_ended)
cell("wrong: a ticket that was changed", "KRB", changes_its_ticket)
cell("wrong: another client's first message", "KRB", says_another_clients_words)
cell("wrong: no ticket", "KRB", tokens(b"not a ticket"))
cell("wrong: nothing", "KRB", tokens(b""))
cell("wrong: takes secrecy", "KRB", takes_secrecy)
cell("wrong: PLAIN", "KRB", lambda client, doors: client.handshake("PLAIN"))
cell("rules: upper case, all of it", "RULES", logs_in(), who)
cell("rules: two components", "RULES", logs_in("app/one.two"), who)
cell("rules: still a principal", "RULES", logs_in("bob"), who)
cell("rules: none is about it", "RULES", logs_in("nobody"), who)
cell("again: in time", "AGAIN", logs_in(), waits(SHORT), logs_in(), works, who)
cell("again: too late", "AGAIN", logs_in(), waits(LONG), works)
cell("again: as somebody else", "AGAIN", logs_in(), waits(SHORT), logs_in("bob"), works)


def _settings(place: Place) -> dict[str, str]:
    store = place.identities.directory
    protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", **LISTENERS}
    line = f'{MODULE} useKeyTab=true storeKey=true keyTab="{place.service}" principal="kafka/localhost@{place.realm.realm}";'
    return {
        "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
        "inter.broker.listener.name": "PLAINTEXT",
        "sasl.enabled.mechanisms": "GSSAPI",
        "sasl.kerberos.service.name": "kafka",
        "listener.name.rules.sasl.kerberos.principal.to.local.rules": RULES,
        "listener.name.again.connections.max.reauth.ms": str(SESSION_MS),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(store / "broker.pem"),
        "delegation.token.secret.key": "of-the-cluster",
        "offsets.topic.num.partitions": "1",
        **{f"listener.name.{name.lower()}.gssapi.sasl.jaas.config": line for name in LISTENERS},
    }


def _text(settings: dict[str, str]) -> dict[str, str]:
    return {key: value.replace("\\", "\\\\") for key, value in settings.items()}


@contextmanager
def ottla_doors(place: Place) -> Iterator[Doors]:
    process = BrokerProcess(environment=place.realm.environment)
    ports = {"PLAINTEXT": process.port, **{name: free_port() for name in LISTENERS}}
    file = place.identities.directory / "ottla.properties"
    listeners = ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())
    lines = _text({"listeners": listeners, **_settings(place)})
    file.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
    file.chmod(0o600)
    process._options = (str(file),)
    with process:
        yield Doors("ottla", ports, place)


@contextmanager
def kafka_doors(place: Place) -> Iterator[Doors]:
    process = kafka_anchor.KafkaProcess()
    ports = {"PLAINTEXT": process.port, **{name: free_port() for name in LISTENERS}}
    listeners = [f"{name}://127.0.0.1:{port}" for name, port in ports.items()]
    process.settings = {
        "listeners": ",".join([*listeners, f"CONTROLLER://127.0.0.1:{process.port + 1}"]),
        "advertised.listeners": ",".join(listeners),
        **_text(_settings(place)),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KAFKA_HEAP", f"-Xms256m -Xmx512m -Djava.security.krb5.conf={place.realm.krb5_conf}")
        try:
            process.start()
            yield Doors("Apache Kafka", ports, place)
        finally:
            process.close()


@contextmanager
def place_in(directory: Path) -> Iterator[Place]:
    with Kdc(directory / "kdc") as realm, Kdc(directory / "other", "OTHER.TEST") as other:
        for made in (realm, other):
            made.write_conf(clock_skew=CLOCK_SKEW)
        service = realm.keytab("kafka/localhost")
        for name in ("kafka/localhost", "alice"):
            other.keytab(name)
        realm.keytab("other/localhost")
        keytabs = {name: realm.keytab(name) for name in ("alice", "bob", "nobody", "app/one.two")}
        identities = directory / "identities"
        identities.mkdir()
        before = {name: os.environ.get(name) for name in realm.environment}
        os.environ.update(realm.environment)
        try:
            yield Place(realm, other, keytabs, service, make_identities(identities))
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


async def outcomes(doors: Doors) -> dict[str, list[Any]]:
    """Return the facts of every conversation with one broker, one after the other."""
    found: dict[str, list[Any]] = {}
    for name, (listener, steps) in CELLS.items():
        context = doors.place.identities.client_context(None, None) if listener == "SECURE" else None
        client = await Conversation.open(doors.ports[listener], context)
        try:
            for step in steps:
                await step(client, doors)
        except (ClosedError, ConnectionError):
            client.facts.append(("closed",))
        except Exception as error:
            raise AssertionError(f"{name}, {doors.name}: {error!r}") from error
        finally:
            client.close()
        found[name] = [list(fact) for fact in client.facts]
    return found


def both(directory: Path) -> Iterator[dict[str, list[Any]]]:
    with place_in(directory) as place:
        for make in (ottla_doors, kafka_doors):
            with make(place) as doors:
                began = time.monotonic()
                yield asyncio.run(outcomes(doors))
                print(f"{doors.name}: {len(CELLS)} conversations in {time.monotonic() - began:.0f} s")


def test_logins_by_kerberos_are_answered_as_by_apache_kafka(tmp_path: Path) -> None:
    kdc.require()
    kafka_anchor.require()
    ours, kafka = both(tmp_path)
    differ = {name for name in CELLS if ours[name] != kafka[name]}
    shown = "\n".join(
        f"{n}\n    ottla        {ours[n]}\n    Apache Kafka {kafka[n]}" for n in differ - EXPLAINED.keys()
    )
    assert not shown, f"{len(differ - EXPLAINED.keys())} of {len(CELLS)} conversations differ:\n{shown}"
    assert EXPLAINED.keys() <= differ, "what does not differ needs no explanation"
    assert ours["right"][-1] == ["who", 0, "User:alice"]
    assert ours["rules: upper case, all of it"][-1] == ["who", 0, "User:OLOCE"]


if __name__ == "__main__":
    from tests.compatibility.authentication.test_matrix import _shown

    with tempfile.TemporaryDirectory() as made:
        first, second = both(Path(made))
    for name in CELLS:
        same = first[name] == second[name]
        print(f"| GSSAPI {name} | {_shown(first[name])} | {'the same' if same else _shown(second[name])} |")
