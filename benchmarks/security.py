"""What security costs: access rules, throttled neighbours, and logins by the thousand.

    python benchmarks/security.py rules|neighbours|logins [--pairs 5] [--seconds 2] [--alone]

rules       A user produces batches of 100 records of 100 bytes to 100 topics, over 4 connections, to brokers without an
            authorizer and with one and 10,000 rules: literal ones of others, prefixed ones, its own. Records and processor
            seconds of the broker; Apache Kafka with the same rules beside it.
neighbours  A group member sends heartbeats, alone and beside two clients that are held back by their quotas and always
            send more. The p99 of its answers.
logins      A group member sends heartbeats, alone and while others open connections, shake hands in TLS, log in by SCRAM with
            a salted password that they know, ask for metadata and leave: 50 a second, 3,000 a minute. The p99 of its answers.

Each pair is measured one after the other, in turns, in one run. Clients run in processes of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.brokers import ApacheKafka, Ottla, contestants, cpu_seconds, running
from benchmarks.support.swarm import Line, Swarm, frame
from tests.hostile.calm_client import CalmClient
from tests.support.ports import free_port

from ottla.protocol.messages.alter_client_quotas import (
    AlterClientQuotasRequest,
    AlterClientQuotasRequestEntryData,
    AlterClientQuotasResponse,
    EntityData,
    OpData,
)
from ottla.protocol.messages.alter_user_scram_credentials import (
    AlterUserScramCredentialsRequest,
    AlterUserScramCredentialsResponse,
    ScramCredentialUpsertion,
)
from ottla.protocol.messages.create_acls import AclCreation, CreateAclsRequest, CreateAclsResponse
from ottla.protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest, CreateTopicsResponse
from ottla.protocol.messages.metadata import MetadataRequest, MetadataResponse
from ottla.protocol.messages.produce import PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData
from ottla.protocol.messages.sasl_authenticate import SaslAuthenticateRequest, SaslAuthenticateResponse
from ottla.protocol.messages.sasl_handshake import SaslHandshakeRequest, SaslHandshakeResponse
from ottla.protocol.records.builder import Record, build_batch
from ottla.security.authority import make_authority, make_certificate
from ottla.security.sasl.scram import ScramClient, salted_password
from ottla.testing.wire import WireClient

TOPICS, RULES, CONNECTIONS, IN_FLIGHT = 100, 10_000, 4, 4
RECORDS = 100
AUTHORIZER = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
LOGINS_PER_SECOND = 50.0


# -- rules


def rules() -> list[AclCreation]:
    """The user's own on each topic, prefixed ones that fit some of them, and those of others."""

    def one(name: str, principal: str, pattern: int, operation: int = 4) -> AclCreation:
        return AclCreation(
            resource_type=2,
            resource_name=name,
            resource_pattern_type=pattern,
            principal=f"User:{principal}",
            host="*",
            operation=operation,
            permission_type=3,
        )

    made = [one(f"topic-{number}", "alice", 3) for number in range(TOPICS)]
    made += [one(f"topic-{number % TOPICS}", f"user-{number}", 3) for number in range(2_000)]
    made += [one(f"team-{number}-", f"user-{number}", 4) for number in range(3_000)]
    made += [one(f"t{'o' * (number % 5)}", f"user-{number}", 4, 3) for number in range(900)]
    made += [one(f"other-{number}", f"user-{number % 500}", 3) for number in range(RULES - len(made))]
    return made


@contextmanager
def guarded(kind: type[Ottla] | type[ApacheKafka], *, has_rules: bool) -> Iterator[tuple[Ottla | ApacheKafka, int]]:
    """Run a broker whose second listener has logins; return it and the port of that."""
    broker, port = kind(), free_port()
    line = f'{PLAIN} user_alice="x" user_admin="x";'
    with ExitStack() as stack:
        settings = {
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,LOGIN:SASL_PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.name.login.sasl.enabled.mechanisms": "PLAIN",
            "auto.create.topics.enable": "false",
        }
        if has_rules:
            settings |= {"authorizer.class.name": AUTHORIZER, "super.users": "User:ANONYMOUS;User:admin"}
        listeners = {"PLAINTEXT": broker.port, "LOGIN": port}
        text = ",".join(f"{name}://127.0.0.1:{number}" for name, number in listeners.items())
        if isinstance(broker, ApacheKafka):
            settings["listeners"] = f"{text},CONTROLLER://127.0.0.1:{broker.port + 1}"
            settings["advertised.listeners"] = text
            settings["listener.name.login.plain.sasl.jaas.config"] = line
            broker.settings = settings
        else:
            del settings["listener.security.protocol.map"]
            broker.settings = settings
            os.environ["KAFKA_LISTENER_NAME_LOGIN_PLAIN_SASL_JAAS_CONFIG"] = line
            os.environ["KAFKA_LISTENERS"] = text
            os.environ["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"] = "PLAINTEXT:PLAINTEXT,LOGIN:SASL_PLAINTEXT"
        stack.enter_context(running(broker))
        broker.spawn()
        wait_for(port)
        for name in [name for name in os.environ if name.startswith("KAFKA_LISTENER")]:
            del os.environ[name]
        swarm = Swarm(broker.port)
        (admin,) = swarm.open(1)
        topics = [CreatableTopic(name=f"topic-{n}", num_partitions=1, replication_factor=1) for n in range(TOPICS)]
        made = swarm.ask(admin, CreateTopicsRequest(topics=topics, timeout_ms=30_000), 7, CreateTopicsResponse)
        assert not any(topic.error_code for topic in made.topics), made.topics[0].error_message
        if has_rules:
            everything = rules()
            for start in range(0, len(everything), 500):
                request = CreateAclsRequest(creations=everything[start : start + 500])
                answer = swarm.ask(admin, request, 3, CreateAclsResponse)
                assert not any(row.error_code for row in answer.results), answer.results[0].error_message
        swarm.close()
        yield broker, port


def wait_for(port: int) -> None:
    import socket

    deadline = time.monotonic() + 90
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < deadline, "the broker does not listen"
        time.sleep(0.1)


class Producing:
    """One client with its connections."""

    def __init__(self, port: int) -> None:
        self._swarm = Swarm(port)
        self._lines = self._swarm.open(CONNECTIONS)
        for line in self._lines:
            self._swarm.ask(line, SaslHandshakeRequest(mechanism="PLAIN"), 1, SaslHandshakeResponse)
            said = SaslAuthenticateRequest(auth_bytes=b"\0alice\0x")
            login = self._swarm.ask(line, said, 2, SaslAuthenticateResponse)
            assert not login.error_code, login.error_message
        batch = bytes(build_batch([Record(n, int(time.time() * 1000), None, bytes(100)) for n in range(RECORDS)]))
        self._requests = []
        for number in range(TOPICS):
            data = TopicProduceData(
                name=f"topic-{number}", partition_data=[PartitionProduceData(index=0, records=batch)]
            )
            request = ProduceRequest(acks=1, timeout_ms=10_000, topic_data=[data])
            answer = self._swarm.ask(self._lines[0], request, 9, ProduceResponse)
            for _ in range(100):  # Kafka knows of a topic a little later than it says
                if not answer.responses[0].partition_responses[0].error_code:
                    break
                time.sleep(0.1)
                answer = self._swarm.ask(self._lines[0], request, 9, ProduceResponse)
            assert not answer.responses[0].partition_responses[0].error_code
            self._requests.append(frame(request, 9))
        self._next = 0
        self._done = 0

    def run(self, seconds: float) -> float:
        """Keep requests under way for a while; return records per second."""
        began = time.perf_counter()
        self._done = 0
        free = [line for line in self._lines for _ in range(IN_FLIGHT)]
        while (now := time.perf_counter()) < began + seconds:
            sending, free[:] = list(free), ()
            for line in sending:
                self._next = (self._next + 1) % TOPICS
                self._swarm.send(line, self._requests[self._next], partial(self._on_answer, line, free))
            self._swarm.turn(1.0)
        self._swarm.wait()
        return self._done * RECORDS / (now - began)

    def _on_answer(self, line: Line, free: list[Line], body: bytes) -> None:
        self._done += 1
        free.append(line)

    def close(self) -> None:
        self._swarm.close()


def measure_rules(pairs: int, seconds: float, *, alone: bool) -> None:
    with ExitStack() as stack:
        running_now: dict[str, tuple[Ottla | ApacheKafka, Producing]] = {}
        for kind in contestants(alone=alone):
            for has_rules in (False, True):
                broker, port = stack.enter_context(guarded(kind, has_rules=has_rules))
                client = Producing(port)
                stack.callback(client.close)
                running_now[f"{kind.name}, {'10,000 rules' if has_rules else 'no authorizer'}"] = (broker, client)
        for _, client in running_now.values():
            client.run(3 * seconds)  # warm: a JVM has to compile
        rates: dict[str, list[float]] = {name: [] for name in running_now}
        costs: dict[str, list[float]] = {name: [] for name in running_now}
        for _ in range(pairs):
            for name, (broker, client) in running_now.items():
                before = cpu_seconds(broker.pid)
                began = time.perf_counter()
                rate = client.run(seconds)
                records = rate * (time.perf_counter() - began)
                rates[name].append(rate)
                costs[name].append((cpu_seconds(broker.pid) - before) / records * 1e6)
    for name in rates:
        print(
            f"{name:>30}: {statistics.median(rates[name]):>11,.0f} records/s, {statistics.median(costs[name]):.2f} CPU s/M"
        )
    mine = [f"ottla, {how}" for how in ("10,000 rules", "no authorizer")]
    tell("ottla with rules / without, records/s", rates[mine[0]], rates[mine[1]])
    tell("ottla with rules / without, CPU", costs[mine[0]], costs[mine[1]])
    if f"{ApacheKafka.name}, 10,000 rules" in rates:
        theirs = [f"{ApacheKafka.name}, {how}" for how in ("10,000 rules", "no authorizer")]
        tell("ottla / Apache Kafka, both with rules, records/s", rates[mine[0]], rates[theirs[0]])
        tell("ottla / Apache Kafka, both with rules, CPU", costs[mine[0]], costs[theirs[0]])
        tell("Apache Kafka with rules / without, records/s", rates[theirs[0]], rates[theirs[1]])


def tell(what: str, ones: list[float], others: list[float]) -> None:
    ratios = sorted(one / other for one, other in zip(ones, others, strict=True))
    print(
        f"{what}: median {statistics.median(ratios):.2f} of {len(ratios)} pairs ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


# -- neighbours, logins


def heartbeats_of(port: int, seconds: float, answers: Any) -> None:
    """In a process of its own: a group member's heartbeats for a while; their p50 and p99 in ms."""

    async def go() -> tuple[float, float, int]:
        wire = await WireClient.connect("127.0.0.1", port, client_id="calm")
        client = CalmClient(wire, f"calm-{os.getpid()}")
        await client.join()
        for _ in range(50):
            await client.heartbeat()
        answers.send("ready")
        taken = []
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            taken.append(await timed(client.heartbeat))
            await asyncio.sleep(0.004)
        taken.sort()
        return taken[len(taken) // 2] * 1000, taken[len(taken) * 99 // 100] * 1000, len(taken)

    answers.send(asyncio.run(go()))


async def timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    await call()
    return time.perf_counter() - began


def beside(port: int, seconds: float, others: list[tuple[Callable[..., None], tuple[Any, ...]]]) -> tuple[float, float]:
    """Measure a calm client while others do what they do; return p50 and p99 in ms."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=run, args=arguments, daemon=True) for run, arguments in others]
    mine, theirs = context.Pipe()
    calm = context.Process(target=heartbeats_of, args=(port, seconds, theirs), daemon=True)
    for process in (*processes, calm):
        process.start()
    try:
        assert mine.recv() == "ready"
        p50, p99, _ = mine.recv()
    finally:
        for process in (*processes, calm):
            process.kill()
            process.join()
    return p50, p99


def press(port: int, client_id: str) -> None:
    """Send more than a quota allows, for ever."""

    async def go() -> None:
        client = await WireClient.connect("127.0.0.1", port, client_id)
        batch = bytes(build_batch([Record(0, int(time.time() * 1000), None, bytes(20_000))]))
        data = TopicProduceData(name="pressed", partition_data=[PartitionProduceData(index=0, records=batch)])
        request = ProduceRequest(acks=1, timeout_ms=10_000, topic_data=[data])
        while True:
            await client.ask(request, 9, ProduceResponse)

    asyncio.run(go())


def measure_neighbours(pairs: int, seconds: float, *, alone: bool) -> None:
    for kind in contestants(alone=alone):
        broker = kind()
        with running(broker):
            broker.spawn()
            wait_for(broker.port)
            swarm = Swarm(broker.port)
            (admin,) = swarm.open(1)
            topic = CreatableTopic(name="pressed", num_partitions=1, replication_factor=1)
            swarm.ask(admin, CreateTopicsRequest(topics=[topic], timeout_ms=30_000), 7, CreateTopicsResponse)
            entry = AlterClientQuotasRequestEntryData(
                entity=[EntityData(entity_type="client-id", entity_name=None)],
                ops=[OpData(key="producer_byte_rate", value=1_000_000.0, remove=False)],
            )
            calm = AlterClientQuotasRequestEntryData(
                entity=[EntityData(entity_type="client-id", entity_name="calm")],
                ops=[OpData(key="producer_byte_rate", value=1e12, remove=False)],
            )
            swarm.ask(admin, AlterClientQuotasRequest(entries=[entry, calm]), 1, AlterClientQuotasResponse)
            swarm.close()
            time.sleep(1)
            pressing = [(press, (broker.port, f"pressing-{number}")) for number in range(2)]
            port = broker.port
            compare(kind.name, pairs, partial(beside, port, seconds, []), partial(beside, port, seconds, pressing))


def compare(
    name: str, pairs: int, alone: Callable[[], tuple[float, float]], together: Callable[[], tuple[float, float]]
) -> None:
    quiet, busy = [], []
    for _ in range(pairs):
        quiet.append(alone())
        busy.append(together())
    for what, rows in (("alone", quiet), ("beside others", busy)):
        p50, p99 = (statistics.median(row[index] for row in rows) for index in (0, 1))
        print(f"{name:>14}, {what}: heartbeats p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    tell(f"{name}: p99 beside others / alone", [row[1] for row in busy], [row[1] for row in quiet])


def log_in_again_and_again(port: int, authority: bytes, per_second: float) -> None:
    """Connect by TLS, log in by SCRAM with a salted password that is known, ask something, leave; at this pace for ever."""
    known: dict[Any, bytes] = {}

    def salt(mechanism: str, password: str, salt: bytes, iterations: int) -> bytes:
        key = (mechanism, password, salt, iterations)
        if key not in known:
            known[key] = salted_password(mechanism, password, salt, iterations)
        return known[key]

    context = ssl.create_default_context(cadata=authority.decode())

    async def one() -> None:
        client = await WireClient.connect("127.0.0.1", port, tls=context)
        await client.ask(SaslHandshakeRequest(mechanism="SCRAM-SHA-256"), 1, SaslHandshakeResponse)
        exchange = ScramClient("SCRAM-SHA-256", "alice", "wonder", nonce=os.urandom(12).hex(), salt=salt)
        said: bytes | None = exchange.begin()
        while not exchange.is_complete:
            answer = await client.ask(SaslAuthenticateRequest(auth_bytes=said or b""), 2, SaslAuthenticateResponse)
            assert not answer.error_code, answer.error_message
            said = exchange.respond(bytes(answer.auth_bytes))
        await client.ask(MetadataRequest(topics=[]), 12, MetadataResponse)
        client.close()

    async def go() -> None:
        due = time.perf_counter()
        waiting: set[asyncio.Task[None]] = set()
        while True:
            task = asyncio.create_task(one())
            waiting.add(task)
            task.add_done_callback(waiting.discard)
            due += 1 / per_second
            await asyncio.sleep(max(due - time.perf_counter(), 0))

    asyncio.run(go())


def logins_of(port: int) -> int:
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        for line in page.read().decode().splitlines():
            if line.startswith("ottla_logins_total"):
                return int(line.split()[1])
    return 0


def measure_logins(pairs: int, seconds: float, *, alone: bool) -> None:
    now = datetime.now(UTC)
    authority = make_authority("benchmark", now=now, days=2)
    pair = make_certificate(authority, ["localhost", "127.0.0.1"], now=now, days=2)
    with tempfile.TemporaryDirectory() as directory:
        store = Path(directory) / "broker.pem"
        store.write_bytes(pair.key + pair.certificate)
        store.chmod(0o600)
        for kind in contestants(alone=alone):
            broker, port = kind(), free_port()
            listeners = f"PLAINTEXT://127.0.0.1:{broker.port},SECURE://127.0.0.1:{port}"
            broker.settings = {
                "listeners": listeners,
                "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL",
                "inter.broker.listener.name": "PLAINTEXT",
                "sasl.enabled.mechanisms": "SCRAM-SHA-256",
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": str(store),
            }
            if isinstance(broker, ApacheKafka):
                broker.settings["listeners"] += f",CONTROLLER://127.0.0.1:{broker.port + 1}"
                broker.settings["advertised.listeners"] = listeners
                broker.settings["listener.name.secure.scram-sha-256.sasl.jaas.config"] = (
                    "org.apache.kafka.common.security.scram.ScramLoginModule required;"
                )
            with running(broker):
                broker.spawn()
                wait_for(port)
                swarm = Swarm(broker.port)
                (admin,) = swarm.open(1)
                user = ScramCredentialUpsertion(
                    name="alice",
                    mechanism=1,
                    iterations=4096,
                    salt=b"salt",
                    salted_password=salted_password("SCRAM-SHA-256", "wonder", b"salt", 4096),
                )
                request = AlterUserScramCredentialsRequest(upsertions=[user])
                assert not swarm.ask(admin, request, 0, AlterUserScramCredentialsResponse).results[0].error_code
                swarm.close()
                time.sleep(2)
                others = [(log_in_again_and_again, (port, authority.certificate, LOGINS_PER_SECOND))]
                began, before = time.perf_counter(), cpu_seconds(broker.pid)
                compare(
                    kind.name,
                    pairs,
                    partial(beside, broker.port, seconds, []),
                    partial(beside, broker.port, seconds, others),
                )
                used = (cpu_seconds(broker.pid) - before) / (time.perf_counter() - began)
                if kind is Ottla:
                    count = logins_of(broker.port)
                    print(f"{kind.name}: {count} logins in all, {used:.2f} processors on the average of the run")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("rules", "neighbours", "logins"))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--alone", action="store_true", help="without Apache Kafka")
    given = parser.parse_args()
    print(json.dumps({"load": os.getloadavg(), "cpus": os.cpu_count(), "what": given.what, "pairs": given.pairs}))
    measure = {"rules": measure_rules, "neighbours": measure_neighbours, "logins": measure_logins}[given.what]
    measure(given.pairs, given.seconds, alone=given.alone)


if __name__ == "__main__":
    main()
