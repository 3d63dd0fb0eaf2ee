"""Metering: stands between connections and the dispatcher while a quota is in force, and is not there otherwise.

Charges what requests use and holds clients back as Kafka does (KIP-124, KIP-219): the answer goes out at once and says
for how long; then the connection's next frames wait, whether the client obeys or not. What a client has pipelined
waits with them.

Produce is charged when it arrives, by the size of the request. Fetch is charged by its handler, which must know before it
answers: a consumer over its limit gets an empty answer, and what it was to get is not counted. Changes of topics are
counted by the controller; its answer says for how long the client is held back. The time a request takes is what it keeps the
event loop busy with until its handler returns; one that waits then (a long poll) is not charged for waiting.

Where we differ from Apache Kafka: a Fetch over its request_percentage gets its records all the same (Kafka empties the
answer), because by then they have been counted; both hold the client back.
"""

from __future__ import annotations

import asyncio
from functools import cache
from struct import Struct
from struct import error as StructError
from typing import TYPE_CHECKING, Final, cast

from ottla.errors import LocalProtocolError, RemoteProtocolError
from ottla.network.connection import PendingReply
from ottla.protocol.api import APIS, ApiKey, response_header_version
from ottla.protocol.codec import decode, encode
from ottla.protocol.messages.headers import ResponseHeader
from ottla.protocol.schema import fields_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ottla.broker.context import Session
    from ottla.broker.quotas.client_quotas import ClientQuotas
    from ottla.file_region import Sendable
    from ottla.network.connection import BrokerConnection, Handle, Reply

_KEY_AND_VERSION = Struct(">hh")
_LENGTH = Struct(">h")
_INT = Struct(">i")
_CLIENT_ID_AT = 8

#: What brokers ask of each other; only those that may are exempt.
BROKER_APIS: Final = frozenset(
    {
        ApiKey.ENVELOPE,
        ApiKey.ALTER_PARTITION,
        ApiKey.WRITE_TXN_MARKERS,
        ApiKey.INITIALIZE_SHARE_GROUP_STATE,
        ApiKey.READ_SHARE_GROUP_STATE,
        ApiKey.WRITE_SHARE_GROUP_STATE,
        ApiKey.DELETE_SHARE_GROUP_STATE,
        ApiKey.READ_SHARE_GROUP_STATE_SUMMARY,
    }
)
#: Answers in which a handler may have said for how long the client is held back.
_SAY_SO: Final = frozenset(
    {ApiKey.FETCH, ApiKey.SHARE_FETCH, ApiKey.CREATE_TOPICS, ApiKey.DELETE_TOPICS, ApiKey.CREATE_PARTITIONS}
)


class Metering:
    """Handles frames by `handle`, and charges for them.

    Args:
        now: the loop's time, in seconds.
        is_broker: whether a session's client is another broker, that may do what only brokers may.
    """

    def __init__(
        self, handle: Handle, quotas: ClientQuotas, *, now: Callable[[], float], is_broker: Callable[[Session], bool]
    ) -> None:
        self._handle = handle
        self._quotas = quotas
        self._now = now
        self._is_broker = is_broker

    def handle(self, connection: BrokerConnection, frame: memoryview) -> Reply:
        """Answer one frame; see `ottla.network.connection.Handle`."""
        if connection.is_stranger or len(frame) < _CLIENT_ID_AT + 2:
            return self._handle(connection, frame)
        key, version = _KEY_AND_VERSION.unpack_from(frame)
        client_id = _client_id(frame)
        size = len(frame)
        begun = self._now()
        reply = self._handle(connection, frame)
        now = self._now()
        session: Session | None = connection.session
        if session is None or key not in APIS:
            return reply
        spent_ms, now_ms = (now - begun) * 1000, now * 1000
        if key in BROKER_APIS and self._is_broker(session):
            self._quotas.exempt_ms += spent_ms
            return reply
        charges = self._quotas.of(session, client_id, now_ms)
        throttle_ms = 0
        if key == ApiKey.PRODUCE and charges.produce is not None:
            throttle_ms = charges.produce.charge(size, now_ms)
        if charges.request is not None and not (key == ApiKey.PRODUCE and reply is None):  # acks=0, as in Kafka
            throttle_ms = max(throttle_ms, charges.request.charge(spent_ms / 10, now_ms))  # percent of a second
        if not throttle_ms and key not in _SAY_SO:
            return reply
        return self._answer(connection, ApiKey(key), version, reply, throttle_ms)

    def _answer(self, connection: BrokerConnection, key: ApiKey, version: int, reply: Reply, throttle_ms: int) -> Reply:
        """Return the answer with the time in it; the connection is held back with it."""
        if reply is None:
            connection.mute(throttle_ms / 1000)
            return None
        if isinstance(reply, list):
            chunks, held_ms = _with_throttle(key, version, reply, throttle_ms)
            if held_ms:
                connection.mute(held_ms / 1000)
            return chunks
        inner, blocks_next, work = reply if isinstance(reply, PendingReply) else (reply, True, None)
        if not blocks_next and throttle_ms:  # its next frames would be handled before this answer is there
            connection.mute(throttle_ms / 1000)
        outer: asyncio.Future[list[Sendable] | None] = asyncio.get_running_loop().create_future()

        def finish(answered: asyncio.Future[list[Sendable] | None]) -> None:
            if outer.done():
                if not answered.cancelled():
                    answered.exception()
                return
            if answered.cancelled():
                outer.cancel()
                return
            error = answered.exception()
            if error is not None:
                outer.set_exception(error)
                return
            chunks = answered.result()
            held_ms = throttle_ms
            if chunks is not None:
                chunks, held_ms = _with_throttle(key, version, chunks, throttle_ms)
            if held_ms and blocks_next:
                connection.mute(held_ms / 1000)
            outer.set_result(chunks)

        inner.add_done_callback(finish)
        outer.add_done_callback(lambda done: inner.cancel() if done.cancelled() else None)
        return PendingReply(outer, blocks_next, work)


def _client_id(frame: memoryview) -> str | None:
    """Return the client id of a request; None where there is none, or nothing that could be one."""
    (length,) = _LENGTH.unpack_from(frame, _CLIENT_ID_AT)
    if length < 0:
        return None
    try:
        return str(frame[_CLIENT_ID_AT + 2 : _CLIENT_ID_AT + 2 + length], "utf-8")
    except UnicodeDecodeError:
        return None


@cache
def _place(key: ApiKey, version: int) -> int:
    """Return where the answer has its throttle time: 0 is first, 1 somewhere, -1 nowhere."""
    for number, one in enumerate(fields_of(APIS[key].response_class())):
        if one.name == "throttle_time_ms":
            return -1 if not one.exists(version) else 0 if number == 0 else 1
    return -1


def _with_throttle(key: ApiKey, version: int, chunks: list[Sendable], throttle_ms: int) -> tuple[list[Sendable], int]:
    """Return the answer with the larger one of `throttle_ms` and what it says itself, and which that is."""
    place = _place(key, version)
    if place < 0:
        return chunks, throttle_ms
    head_size = 9 if response_header_version(key, version) else 8
    if place == 0:
        first = cast(bytes, chunks[0])
        if len(first) < head_size + 4:  # a large answer's head is a chunk of its own
            first, rest = first + bytes(cast(bytes, chunks[1])), chunks[2:]
        else:
            rest = chunks[1:]
        (said,) = _INT.unpack_from(first, head_size)
        if said >= throttle_ms:
            return chunks, said
        return [first[:head_size] + _INT.pack(throttle_ms) + first[head_size + 4 :], *rest], throttle_ms
    frame = b"".join(cast("list[bytes]", chunks))
    try:
        header, position = decode(ResponseHeader, response_header_version(key, version), frame, 4)
        answer, _ = decode(APIS[key].response_class(), version, frame, position)
    except (RemoteProtocolError, LocalProtocolError, StructError):
        return chunks, throttle_ms
    said = answer.throttle_time_ms  # type: ignore[attr-defined]
    if said >= throttle_ms:
        return chunks, said
    answer.throttle_time_ms = throttle_ms  # type: ignore[attr-defined]
    body = encode(header, response_header_version(key, version)) + encode(answer, version)
    return [_INT.pack(len(body)) + body], throttle_ms
