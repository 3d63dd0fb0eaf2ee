"""Raw requests over sockets, and the transcript of what came back.

A script asks by name; the name is how the answers of two brokers find each other. Nothing here hides a broker's
behaviour: a closed connection and silence are outcomes like any answer.
"""

from __future__ import annotations

import dataclasses
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.compatibility.differential.oracle import Tree, decode_answer

from ottla.protocol.api import APIS, ApiKey, request_header_version
from ottla.protocol.codec import encode
from ottla.protocol.messages.api_versions import ApiVersionsRequest
from ottla.protocol.messages.metadata import MetadataRequest, MetadataRequestTopic
from ottla.protocol.schema import Message

ANSWER_TIMEOUT_S = 20.0
SETTLE_TIMEOUT_S = 30.0
CLIENT_ID = "differ"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and what came of it.

    `outcome` is `answer`, `closed`, `silent`, `no response` (acks=0) or `unreadable`; `tree` is the decoded answer,
    `frame` its bytes from the correlation id on.
    """

    name: str
    key: int
    version: int
    outcome: str
    tree: Tree | None = None
    frame: bytes = b""

    @property
    def label(self) -> str:
        title = APIS[ApiKey(self.key)].name if self.key in APIS else f"key {self.key}"
        return f"{title} v{self.version}: {self.name}"


@dataclass(slots=True)
class Transcript:
    """All exchanges with one broker, and the facts that normalising them needs."""

    broker: str
    port: int
    cluster_id: str = ""
    topic_ids: dict[str, str] = field(default_factory=dict)
    exchanges: list[Exchange] = field(default_factory=list)
    started_ms: int = field(default_factory=lambda: int(time.time() * 1_000))


class Closed(Exception):
    """The broker closed the connection instead of answering."""


class Connection:
    """One socket; correlation ids count from 1."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._correlation = 0

    def next_correlation(self) -> int:
        self._correlation += 1
        return self._correlation

    def send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            raise Closed from None

    def receive(self, timeout_s: float = ANSWER_TIMEOUT_S) -> bytes:
        """The next response frame, without its size."""
        self._socket.settimeout(timeout_s)
        (size,) = struct.unpack(">i", self._receive_exactly(4))
        return self._receive_exactly(size)

    def _receive_exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                chunk = self._socket.recv(size - len(data))
            except ConnectionResetError:
                raise Closed from None
            if not chunk:
                raise Closed
            data += chunk
        return bytes(data)

    def close(self) -> None:
        self._socket.close()


def request_header(
    key: int, version: int, correlation: int, *, client_id: str | None = CLIENT_ID, flexible: bool | None = None
) -> bytes:
    if flexible is None:
        flexible = key in APIS and request_header_version(key, version) == 2
    text = client_id.encode() if client_id is not None else b""
    head = struct.pack(">hhih", key, version, correlation, len(text) if client_id is not None else -1) + text
    return head + (b"\0" if flexible else b"")


def framed(data: bytes) -> bytes:
    return struct.pack(">i", len(data)) + data


@dataclass(slots=True)
class Pending:
    """A request whose answer is read later."""

    name: str | None
    key: int
    version: int
    connection: str
    correlation: int


class Wire:
    """What a script talks to: named connections to one broker, recording into one transcript."""

    def __init__(self, broker: str, port: int) -> None:
        self.transcript = Transcript(broker, port)
        self._port = port
        self._connections: dict[str, Connection] = {}
        self.scope = ""

    def _record(self, exchange: Exchange) -> None:
        self.transcript.exchanges.append(dataclasses.replace(exchange, name=f"{self.scope}: {exchange.name}"))

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def ask(
        self,
        name: str | None,
        message: Message,
        version: int,
        *,
        on: str = "main",
        patience_s: float = ANSWER_TIMEOUT_S,
    ) -> Tree:
        """Send a message, record what comes back under `name` (None: do not record), return the answer's tree.

        The tree is empty if there was no answer within `patience_s`.
        """
        return self.receive(self.send(name, message, version, on=on), patience_s=patience_s)

    def send(self, name: str | None, message: Message, version: int, *, on: str = "main") -> Pending:
        key = type(message).API_KEY
        assert key is not None
        return self.send_bytes(name, key, version, encode(message, version), on=on)

    def send_bytes(
        self,
        name: str | None,
        key: int,
        version: int,
        body: bytes,
        *,
        on: str = "main",
        client_id: str | None = CLIENT_ID,
        flexible: bool | None = None,
    ) -> Pending:
        connection = self._connection(on)
        correlation = connection.next_correlation()
        head = request_header(key, version, correlation, client_id=client_id, flexible=flexible)
        try:
            connection.send(framed(head + body))
        except Closed:
            pass  # the answer, or its absence, is read below
        return Pending(name, key, version, on, correlation)

    def ask_bytes(
        self,
        name: str | None,
        key: int,
        version: int,
        body: bytes,
        *,
        client_id: str | None = CLIENT_ID,
        flexible: bool | None = None,
        answer_version: int | None = None,
    ) -> Tree:
        """Send a body of any bytes; `answer_version` is the one the answer is decoded as, if it is another."""
        pending = self.send_bytes(name, key, version, body, client_id=client_id, flexible=flexible)
        if answer_version is not None:
            pending.version = answer_version
        return self.receive(pending)

    def ask_frame(self, name: str, data: bytes) -> None:
        """Send bytes that are no request at all, size included; only what happens to the connection is recorded."""
        connection = self._connection("main")
        try:
            connection.send(data)
            connection.receive(3.0)
            outcome = "answer"
        except Closed:
            outcome = "closed"
        except TimeoutError:
            outcome = "silent"
        self._record(Exchange(name, -1, 0, outcome))
        self.drop("main")

    def ask_without_response(self, name: str, message: Message, version: int) -> None:
        """Send a message that must stay unanswered (acks=0): the answer to the next request comes first."""
        sent = self.send(name, message, version)
        probe = self.send(None, ApiVersionsRequest(), 0)
        try:
            frame = self._connection("main").receive()
            (correlation,) = struct.unpack_from(">i", frame)
            outcome = "no response" if correlation == probe.correlation else "answer"
        except Closed:
            outcome = "closed"
        except TimeoutError:
            outcome = "silent"
        if outcome != "no response":
            self.drop("main")
        self._record(Exchange(name, sent.key, version, outcome))

    def receive(self, pending: Pending, *, patience_s: float = ANSWER_TIMEOUT_S) -> Tree:
        """Read the answer to a request sent before; the connection is replaced if it is of no more use."""
        exchange = self._receive(pending, patience_s)
        if exchange.outcome != "answer":
            self.drop(pending.connection)
        if pending.name is not None:
            self._record(exchange)
        return exchange.tree if exchange.tree is not None else Tree()

    def _receive(self, pending: Pending, patience_s: float) -> Exchange:
        name, key, version = pending.name or "", pending.key, pending.version
        try:
            frame = self._connection(pending.connection).receive(patience_s)
        except Closed:
            return Exchange(name, key, version, "closed")
        except TimeoutError:
            return Exchange(name, key, version, "silent")
        return exchange_of(name, key, version, frame, pending.correlation)

    def drop(self, name: str) -> None:
        """Forget a connection; the next request on it dials anew."""
        if connection := self._connections.pop(name, None):
            connection.close()

    def _connection(self, name: str) -> Connection:
        if name not in self._connections:
            self._connections[name] = Connection(self._port)
        return self._connections[name]

    def settle(self, what: str, condition: Callable[[], bool]) -> None:
        """Ask until `condition` holds: Kafka's broker learns of its controller's changes a moment after the answer."""
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.transcript.broker}: {what} did not happen within {SETTLE_TIMEOUT_S} s")
            time.sleep(0.02)

    def topic_metadata(self, name: str) -> Tree:
        message = MetadataRequest(topics=[MetadataRequestTopic(name=name)], allow_auto_topic_creation=False)
        answer = self.ask(None, message, 12, on="aside")
        self.transcript.cluster_id = answer.cluster_id
        topic: Tree = answer.topics[0]
        return topic


def exchange_of(name: str, key: int, version: int, frame: bytes, correlation: int | None = None) -> Exchange:
    """The exchange that an answer's bytes make."""
    if correlation is not None and struct.unpack_from(">i", frame)[0] != correlation:
        return Exchange(name, key, version, "unreadable", Tree(correlation="not the request's"), frame)
    try:
        decoded = decode_answer(key, version, frame)
    except Exception as error:  # whatever a decoder says of bytes a broker made up
        return Exchange(name, key, version, "unreadable", Tree(error=f"{type(error).__name__}: {error}"), frame)
    if decoded.trailing:
        return Exchange(name, key, version, "unreadable", Tree(trailing=decoded.trailing), frame)
    return Exchange(name, key, version, "answer", decoded.tree, frame)
