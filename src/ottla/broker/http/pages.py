"""What the broker's port answers to HTTP: `/`, `/healthz`, `/readyz`, `/metrics`. Nothing can be changed through it.

Decides text from facts it is given; no I/O. Long answers are generators that do a bounded amount of work per step, and an
empty step where others should have their turn (`network/http.py` returns to the loop there).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import NamedTuple, Protocol

from ottla.broker.http.broker_facts import BrokerFacts
from ottla.broker.http.coordinator_metrics import CoordinatorFacts
from ottla.broker.http.metrics_page import OFFSETS_PER_STEP, metrics_page
from ottla.network.http import HttpResponse
from ottla.observability.exposition import CONTENT_TYPE
from ottla.observability.metrics import BrokerMetrics

ROWS_MAX = 300
"""Topics and groups shown on the front page."""


class PartitionFacts(NamedTuple):
    """One partition as this broker knows it; offsets and size are -1 where it is not led here."""

    partition: int
    leader: int
    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    log_start_offset: int
    high_watermark: int
    log_end_offset: int
    size: int
    min_insync_replicas: int = 1


class CommittedOffset(NamedTuple):
    """How far a group has come in one partition; `lag_seconds` is the age of the next record, or None if unknown.

    Of a share group `offset` is the first record that is not finished, and `lag` the records that are not.
    """

    topic: str
    partition: int
    offset: int
    lag: int
    lag_seconds: float | None = None


class GroupFacts(NamedTuple):
    """One group of any type.

    Attributes:
        group_type: "classic", "consumer", "share" or "streams".
        state: Kafka's word ("Stable", "Empty", "PreparingRebalance", ...).
        offsets: to be walked over once, in steps of `OFFSETS_PER_STEP`: each takes a look at a log.
    """

    group_id: str
    group_type: str
    state: str
    members: int
    offsets: Iterable[CommittedOffset]


class Facts(Protocol):
    """What the pages ask the broker. Every call returns at once; lists are snapshots in a stable order."""

    @property
    def broker(self) -> BrokerFacts:
        """This broker."""
        ...

    @property
    def metrics(self) -> BrokerMetrics:
        """What it has counted."""
        ...

    @property
    def ready(self) -> bool:
        """Whether clients can be served."""
        ...

    @property
    def problem(self) -> str | None:
        """What is broken (a log directory is offline ...), in one sentence; None if nothing is."""
        ...

    @property
    def shortage(self) -> str | None:
        """What is short (no space on a disk ...) and will pass, in one sentence; None if nothing is."""
        ...

    @property
    def unreadable(self) -> str | None:
        """Which partitions cannot be read in part or at all, in one sentence; None if all can."""
        ...

    def unreadable_partitions(self) -> Sequence[tuple[str, int, int]]:
        """Topic, partition and how many bytes of its log cannot be read; -1: the whole log cannot be used."""
        ...

    @property
    def takes_appends(self) -> bool:
        """Whether there is a directory in which there is room."""
        ...

    def directories(self) -> Sequence[tuple[str, bool, bool]]:
        """Every log directory: its path, whether it is offline, whether it is full."""
        ...

    @property
    def uptime_seconds(self) -> float:
        """Since this broker became ready."""
        ...

    def replication(self) -> Iterable[tuple[str, str, str, float]]:
        """Name, kind, help text and value of single numbers about replicas and the controller."""
        ...

    def replica_lags(self) -> Sequence[tuple[str, int, int, int]]:
        """Topic, partition, leader and lag, in committed records, of each replica here that follows."""
        ...

    def gauges(self) -> Iterable[tuple[str, str, float]]:
        """Name, help text and value of single numbers known elsewhere: memory, loop idle share, connection rates."""
        ...

    def warnings(self) -> Sequence[str]:
        """Sentences about what an operator should look at: topics whose records are deleted at once."""
        ...

    def coordinators(self) -> CoordinatorFacts:
        """What the coordinators hold."""
        ...

    def telemetry(self) -> Iterable[tuple[str, str, str, float]]:
        """Name, kind, help text and value of what is counted about pushes of clients (KIP-714)."""
        ...

    def client_metrics(self) -> Iterable[bytes]:
        """What clients have pushed, as it stands on /metrics, in steps."""
        ...

    def quotas(self) -> Iterable[bytes]:
        """What clients with quotas have used, as it stands on /metrics, in steps."""
        ...

    def brokers(self) -> Sequence[tuple[int, str]]:
        """Id and host:port of every live broker."""
        ...

    @property
    def controller_id(self) -> int:
        """The broker that is the controller; -1: none."""
        ...

    def topics(self) -> Sequence[str]:
        """Names of all topics, sorted: users' own first, then internal ones."""
        ...

    def partitions(self, topic: str) -> Sequence[PartitionFacts]:
        """Partitions of a topic by index; empty if it is gone meanwhile."""
        ...

    def groups(self) -> Sequence[str]:
        """Ids of the groups coordinated here, of all types, sorted."""
        ...

    def group(self, group_id: str) -> GroupFacts | None:
        """One group, or None if it is gone meanwhile."""
        ...


class Pages:
    """Path -> answer; `handle` is what an `HttpSite` is given."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def handle(self, path: str) -> HttpResponse:
        """Answer GET (and HEAD) of `path`."""
        match path:
            case "/":
                return HttpResponse(body=front_page(self._facts), content_type="text/html; charset=utf-8")
            case "/metrics":
                return HttpResponse(body=metrics_page(self._facts), content_type=CONTENT_TYPE)
            case "/healthz":
                problem = self._facts.problem
                return HttpResponse(status=503 if problem else 200, body=f"{problem or 'ok'}\n".encode())
            case "/readyz":
                return self._readiness()
            case _:
                return HttpResponse(status=404, body=b"There are /, /metrics, /healthz and /readyz here.\n")

    def handle_stranger(self, path: str) -> HttpResponse:
        """Answer a client without a login or a right that it needs: whether all is well, in one word."""
        if path in ("/healthz", "/readyz"):
            status = self.handle(path).status
            return HttpResponse(status=status, body=b"ok\n" if status == 200 else b"unavailable\n")
        return HttpResponse(
            status=403, body=b"Pages are for users that may describe the cluster; /healthz and /readyz are open.\n"
        )

    def _readiness(self) -> HttpResponse:
        """A full disk is no reason to be started again (/healthz), but one to be sent no producers."""
        facts = self._facts
        if not facts.ready:
            return HttpResponse(status=503, body=b"starting\n")
        word = f"ready, but {facts.shortage}" if facts.takes_appends and facts.shortage else facts.shortage or "ready"
        return HttpResponse(
            status=503 if facts.shortage and not facts.takes_appends else 200, body=f"{word}\n".encode()
        )


STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8888;--accent:#0a7f6f}
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin:0}h1 small{font-weight:400;color:var(--soft);font-size:1rem}
h2{font-size:1.05rem;margin:2rem 0 .4rem}
.facts{display:flex;flex-wrap:wrap;gap:.3rem 2rem;margin:.8rem 0;padding:.7rem 0;border-block:1px solid var(--line)}
.facts b{display:block;font-size:.75rem;font-weight:500;color:var(--soft)}
table{border-collapse:collapse;width:100%}
th{font-size:.75rem;font-weight:500;color:var(--soft);text-align:left;padding:.2rem .6rem .2rem 0}
td{padding:.25rem .6rem .25rem 0;border-top:1px solid var(--line);overflow-wrap:anywhere}
.n{text-align:right;font-variant-numeric:tabular-nums}
.internal td{color:var(--soft)}
.bad{color:#b3261e;font-weight:600}.good{color:var(--accent)}
code{font:13px/1.5 ui-monospace,monospace;background:#8881;padding:.1rem .3rem;border-radius:4px}
p.none{color:var(--soft)}a{color:var(--accent)}
"""


def front_page(facts: Facts) -> Iterator[bytes]:
    """The broker, its topics and groups on one page without any other file."""
    broker = facts.broker
    address = broker.addresses[0] if broker.addresses else ""
    problem = "; ".join(filter(None, (facts.problem, facts.shortage, facts.unreadable)))
    state = f'<span class="bad">{escape(problem)}</span>' if problem else '<span class="good">running</span>'
    if not facts.ready:
        state = "starting"
    items = [
        ("State", state),
        ("Address", escape(", ".join(broker.addresses))),
        ("Node", str(broker.node_id)),
        ("Cluster", escape(broker.cluster_id)),
        ("Up", duration(facts.uptime_seconds)),
        ("Data", escape(", ".join(broker.data_dirs))),
        ("Kernels", escape(broker.kernels)),
    ]
    cells = "".join(f"<div><b>{name}</b>{value}</div>" for name, value in items)
    yield (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>ottla</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta http-equiv="refresh" content="10">'
        f"<style>{STYLE}</style></head><body><h1>ottla <small>{escape(broker.version)}</small></h1>"
        f'<div class="facts">{cells}</div>'
    ).encode()
    for sentence in facts.warnings():
        yield f'<p class="bad">{escape(sentence)}</p>'.encode()
    yield from _brokers(facts)
    yield from _troubled(facts)
    yield from _topics(facts, address)
    yield from _groups(facts)
    yield (
        '<p><a href="/metrics">metrics</a> · <a href="/healthz">health</a> · <a href="/readyz">readiness</a></p>'
        "</body></html>\n"
    ).encode()


def _brokers(facts: Facts) -> Iterator[bytes]:
    """The brokers of a cluster: who is the controller, what each leads, holds and is in sync with."""
    brokers = facts.brokers()
    if len(brokers) < 2 and all(len(one.replicas) < 2 for name in facts.topics() for one in facts.partitions(name)):
        return
    leads: Counter[int] = Counter()
    holds: Counter[int] = Counter()
    in_sync: Counter[int] = Counter()
    for name in facts.topics():
        for one in facts.partitions(name):
            leads[one.leader] += 1
            holds.update(one.replicas)
            in_sync.update(one.isr)
    yield f"<h2>Brokers ({len(brokers):,})</h2>".encode()
    yield (
        b"<table><tr><th>Broker</th><th>Address</th><th class=n>Leads</th><th class=n>Holds</th><th class=n>In sync</th></tr>"
    )
    living = dict(brokers)
    for node_id in sorted({*living, *holds}):
        address = escape(living[node_id]) if node_id in living else '<span class="bad">not registered</span>'
        mark = " (controller)" if node_id == facts.controller_id else ""
        behind = in_sync[node_id] < holds[node_id]
        yield (
            f"<tr><td>{node_id}{mark}</td><td>{address}</td><td class=n>{leads[node_id]:,}</td>"
            f'<td class=n>{holds[node_id]:,}</td><td class="n{" bad" if behind else ""}">{in_sync[node_id]:,}</td></tr>'
        ).encode()
    yield b"</table>"
    if facts.controller_id not in living:
        yield b'<p class="bad">There is no controller: leaders and topics cannot change.</p>'


def _troubled(facts: Facts) -> Iterator[bytes]:
    """Partitions without a leader, or with fewer replicas in sync than they have."""
    found = [
        (name, one)
        for name in facts.topics()
        for one in facts.partitions(name)
        if one.leader < 0 or len(one.isr) < len(one.replicas)
    ]
    if not found:
        return
    yield f"<h2>Partitions that are not whole ({len(found):,})</h2>".encode()
    yield b"<table><tr><th>Partition</th><th>Leader</th><th>Replicas</th><th>In sync</th></tr>"
    for name, one in found[:ROWS_MAX]:
        leader = str(one.leader) if one.leader >= 0 else '<span class="bad">none</span>'
        replicas, isr = (", ".join(map(str, ids)) for ids in (one.replicas, one.isr))
        yield (
            f"<tr><td>{escape(name)}-{one.partition}</td><td>{leader}</td><td>{replicas}</td><td>{isr}</td></tr>"
        ).encode()
    yield b"</table>"
    if len(found) > ROWS_MAX:
        yield f'<p class="none">and {len(found) - ROWS_MAX:,} more</p>'.encode()


def _topics(facts: Facts, address: str) -> Iterator[bytes]:
    names = facts.topics()
    yield f"<h2>Topics ({len(names):,})</h2>".encode()
    if not names:
        yield (
            '<p class="none">None yet. Any Kafka client creates one by writing to it: '
            f"<code>echo hello | kcat -b {escape(address)} -t greetings -P</code></p>"
        ).encode()
        return
    yield (
        b"<table><tr><th>Name</th><th class=n>Partitions</th><th class=n>Records</th><th class=n>Size</th>"
        b"<th class=n>Under-replicated</th></tr>"
    )
    for name in names[:ROWS_MAX]:
        partitions = facts.partitions(name)
        records = sum(max(one.high_watermark - one.log_start_offset, 0) for one in partitions)
        size = sum(max(one.size, 0) for one in partitions)
        short = sum(len(one.isr) < len(one.replicas) for one in partitions)
        yield (
            f"<tr{' class=internal' if is_internal(name) else ''}><td>{escape(name)}</td>"
            f"<td class=n>{len(partitions):,}</td><td class=n>{records:,}</td><td class=n>{byte_size(size)}</td>"
            f'<td class="n{" bad" if short else ""}">{short}</td></tr>'
        ).encode()
        yield b""
    yield b"</table>"
    if len(names) > ROWS_MAX:
        yield f'<p class="none">and {len(names) - ROWS_MAX:,} more; all of them are in /metrics</p>'.encode()
    yield (
        b'<p class="none">Records are counted by offsets: markers of transactions and what compaction has removed count as '
        b"well, here and in the lag of groups.</p>"
    )


def _groups(facts: Facts) -> Iterator[bytes]:
    ids = facts.groups()
    yield f"<h2>Groups ({len(ids):,})</h2>".encode()
    if not ids:
        yield b'<p class="none">No group has been here yet.</p>'
        return
    yield (
        b"<table><tr><th>Group</th><th>Type</th><th>State</th><th class=n>Members</th><th>Topics</th>"
        b"<th class=n>Lag (records)</th><th class=n>Lag (time)</th></tr>"
    )
    for group_id in ids[:ROWS_MAX]:
        group = facts.group(group_id)
        if group is None:
            continue
        offsets: list[CommittedOffset] = []
        for committed in group.offsets:
            offsets.append(committed)
            if len(offsets) % OFFSETS_PER_STEP == 0:
                yield b""
        topics = ", ".join(dict.fromkeys(committed.topic for committed in offsets))
        lag = sum(max(committed.lag, 0) for committed in offsets)
        ages = [committed.lag_seconds for committed in offsets if committed.lag_seconds is not None]
        age = duration(max(ages)) if lag and ages else ""
        yield (
            f"<tr><td>{escape(group.group_id)}</td><td>{escape(group.group_type)}</td><td>{escape(group.state)}</td>"
            f"<td class=n>{group.members}</td><td>{escape(topics)}</td><td class=n>{lag:,}</td><td class=n>{age}</td></tr>"
        ).encode()
        yield b""
    yield b"</table>"
    if len(ids) > ROWS_MAX:
        yield f'<p class="none">and {len(ids) - ROWS_MAX:,} more; all of them are in /metrics</p>'.encode()


def is_internal(topic: str) -> bool:
    """Whether a topic is the broker's own, or looks like one: the custom is a name with two underscores in front."""
    return topic.startswith("__")


def byte_size(size: int) -> str:
    """A size for people: 1.2 MB."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if amount >= 10 or unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def duration(seconds: float) -> str:
    """A time for people: 3 h 12 min."""
    whole = int(seconds)
    for size, unit, part_size, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part_size} {part}"
    return f"{whole} s"
