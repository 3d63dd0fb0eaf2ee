"""`ottla doctor`: looks at the way to a cluster and at the cluster, and says what is wrong and what to do about it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from ottla.cli.output import Output, output_options
from ottla.cli.running import Connection, connected, run_command
from ottla.client._core.asking import CallTimeoutError
from ottla.client.config import parse_servers
from ottla.errors import KafkaError, UnsupportedVersionError

if TYPE_CHECKING:
    from ottla.client.admin import Admin
    from ottla.client.admin_results import TopicDescription

_CONNECT_S = 3.0
_API_TIMEOUT_MS = 5_000
#: Less space than this share is told.
_SPACE_SHARE = 0.1
#: A group that is this far behind is told.
_LAG_TOLD = 10_000


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, and how it is: "ok", "warning" or "problem"."""

    what: str
    state: str
    text: str
    hint: str = ""


@click.command("doctor")
@connected
@output_options
def doctor(connection: Connection, output: Output) -> int:
    """Find out what is wrong with a cluster, or with the way to it. Exit code 1 if there is a problem."""
    findings = []
    for finding in examine(connection):
        findings.append(finding)
        if output.is_table:
            mark = {"ok": click.style("ok", fg="green"), "warning": click.style("warning", fg="yellow")}
            click.echo(f"{mark.get(finding.state, click.style('problem', fg='red'))}: {finding.what}: {finding.text}")
            if finding.hint:
                click.echo(f"    {finding.hint}")
    if not output.is_table:
        output.show(findings)
    return int(any(finding.state == "problem" for finding in findings))


def examine(connection: Connection) -> Iterator[Finding]:
    """Look at one thing after the other."""
    yield _kernels()
    reached = False
    for host, port in parse_servers(connection.servers):
        finding = _reach(f"address {host}:{port}", host, port)
        reached |= finding.state == "ok"
        yield finding
    if not reached:
        return
    began = time.monotonic()
    try:
        admin = connection.admin(default_api_timeout_ms=_API_TIMEOUT_MS)
        admin.start()
    except KafkaError as error:
        yield Finding("connection", "problem", str(error), error.hint)
        return
    with admin:
        yield Finding("connection", "ok", f"Kafka answers after {(time.monotonic() - began) * 1000:.0f} ms")
        for look in (_cluster, _partitions, _disks, _groups, _transactions):
            try:
                yield from look(admin)
            except CallTimeoutError as error:
                yield Finding(look.__name__.strip("_"), "problem", str(error), "The rest is not looked at.")
                return
            except UnsupportedVersionError as error:
                yield Finding(look.__name__.strip("_"), "ok", f"cannot be looked at: {error}")
            except KafkaError as error:
                yield Finding(look.__name__.strip("_"), "problem", str(error), error.hint)


def _kernels() -> Finding:
    from ottla import compiled
    from ottla.network import reactor  # noqa: F401  # loaded, so that its status is known
    from ottla.protocol.records import kernels  # noqa: F401

    status = compiled.status_of_all()
    if status == compiled.COMPILED:
        return Finding("this installation", "ok", "compiled kernels")
    return Finding(
        "this installation", "warning", f"kernels: {status}", "Slower. A C compiler at installation makes them."
    )


def _reach(what: str, host: str, port: int) -> Finding:
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return Finding(
            what, "problem", f"the name {host} is not known: {error.strerror or error}", "Check its spelling, DNS."
        )
    began = time.monotonic()
    failure: OSError | None = None
    for family, kind, protocol, _, address in addresses:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.settimeout(_CONNECT_S)
                probe.connect(address)
            took = (time.monotonic() - began) * 1000
            return Finding(what, "ok", f"reached as {address[0]} in {took:.0f} ms")
        except OSError as error:
            failure = error
    if isinstance(failure, ConnectionRefusedError):
        return Finding(
            what, "problem", "nothing listens there", "Is the broker up? `ottla serve` listens on localhost:9092."
        )
    return Finding(what, "problem", f"cannot be reached: {failure}", "A firewall, or the wrong address.")


def _cluster(admin: Admin) -> Iterator[Finding]:
    cluster = admin.describe_cluster()
    yield Finding("cluster", "ok", f"{cluster.cluster_id}, {len(cluster.brokers)} brokers")
    if cluster.controller is None:
        yield Finding(
            "controller", "problem", "there is none", "Topics cannot be made or changed until one is elected."
        )
    for broker in cluster.brokers:
        finding = _reach(f"broker {broker.id} at {broker.host}:{broker.port}", broker.host, broker.port)
        if finding.state == "problem":
            hint = (
                "Clients are sent to this address: set advertised.listeners (--advertise) to one that they can reach."
            )
            finding = Finding(finding.what, "problem", finding.text, hint)
        yield finding


def _partitions(admin: Admin) -> Iterator[Finding]:
    names = [topic.name for topic in admin.list_topics(internal=True)]
    topics = admin.describe_topics(names) if names else {}
    count = sum(len(topic.partitions) for topic in topics.values())
    checks: list[tuple[str, str, Callable[[TopicDescription], list[int]], str]] = [
        (
            "problem",
            "without a leader",
            lambda topic: [part.partition for part in topic.partitions if part.leader is None],
            "They can be neither read nor written until a replica comes back.",
        ),
        (
            "warning",
            "with too few replicas in sync",
            lambda topic: [p.partition for p in topic.partitions if len(p.in_sync_replicas) < len(p.replicas)],
            "A broker is away or slow.",
        ),
    ]
    sound = True
    for state, text, find, hint in checks:
        found = [f"{name}-{number}" for name, topic in topics.items() for number in find(topic)]
        if found:
            sound = False
            shown = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
            yield Finding("partitions", state, f"{len(found)} of {count} {text}: {shown}", hint)
    if sound:
        yield Finding(
            "partitions", "ok", f"{count} in {len(names)} topics, each with a leader and all replicas in sync"
        )


def _disks(admin: Admin) -> Iterator[Finding]:
    for broker, directories in sorted(admin.describe_log_dirs().items()):
        for directory in directories:
            what = f"broker {broker}, {directory.path}"
            size = sum(replica.size_bytes for replica in directory.replicas.values())
            if directory.error:
                yield Finding(what, "problem", directory.error, "Look at the broker's log.")
            elif directory.total_bytes and directory.usable_bytes is not None:
                share = directory.usable_bytes / directory.total_bytes
                text = f"{_bytes(size)} of records, {_bytes(directory.usable_bytes)} free ({share:.0%})"
                yield Finding(what, "ok" if share >= _SPACE_SHARE else "warning", text)
            else:
                yield Finding(what, "ok", f"{_bytes(size)} of records")


def _groups(admin: Admin) -> Iterator[Finding]:
    listed = admin.list_groups()
    told = False
    for group in listed:
        if group.type in ("share", "streams") or group.protocol_type not in ("consumer", ""):
            continue
        behind = sum(lag.lag or 0 for lag in admin.consumer_lag(group.group_id).values())
        if behind >= _LAG_TOLD:
            told = True
            text = f"{behind} records behind, {group.state}"
            yield Finding(f"group {group.group_id}", "warning", text, f"ottla group describe {group.group_id}")
    if not told:
        yield Finding("groups", "ok", f"{len(listed)} groups, none more than {_LAG_TOLD} records behind")


def _transactions(admin: Admin) -> Iterator[Finding]:
    hanging = admin.list_transactions(states=["Ongoing"], longer_than="15m")
    for transaction in hanging:
        yield Finding(
            f"transaction {transaction.transactional_id}",
            "warning",
            "has been open for more than 15 minutes",
            "Readers of committed records wait for it. Admin.fence_producers ends it.",
        )
    if not hanging:
        yield Finding("transactions", "ok", "none has been open for more than 15 minutes")


def _bytes(count: float) -> str:
    from ottla.cli.progress import human_bytes

    return human_bytes(count)


def main(arguments: Sequence[str]) -> int:
    """Run `ottla doctor`; return the exit code."""
    return run_command(doctor, "doctor", arguments)
