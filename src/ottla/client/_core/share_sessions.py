"""What a member of a share group has acquired, from whom, and what it says of it: sessions, leases, acknowledgements.

A session with a broker begins with a ShareFetch of epoch 0 and counts its requests, so one is in flight at a time. Records
come with a lock: a lease, which ends by an acknowledgement, by time, or with its session. Acknowledgements wait until the
caller wants more, or for ACKNOWLEDGE_LINGER_MS, and go out together. KIP-932.

Invariants:
  * An acknowledgement is about the delivery to which the caller has answered, or goes nowhere: the same offset may have been
    acquired anew by this member, in a later session or after its lock had ended, and the old word would be taken for one
    about that.
  * Every acknowledgement of the caller's has one outcome in `outcomes`; without an answer it is a failure (it may have been
    made all the same).
  * Fetching waits until the caller wants records and none wait: what is acquired early is locked for others.

How many records are acquired at a time grows while they are gone at once, and shrinks when they last: a worker with long jobs
takes one, and leaves the rest to others. Sources: Kafka's Java client (ShareConsumeRequestManager, ShareSessionHandler);
KIP-1206 (exact numbers of records), KIP-1222 (renewed locks).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, cast

from ottla.client._core.client import ClientMachine
from ottla.client._core.denials import error_of
from ottla.client._core.metadata import Node
from ottla.client._core.offset_queries import STALE_METADATA
from ottla.client._core.requests import FOREVER, Action, Send
from ottla.client._core.share_leases import (
    AcquiredChunk,
    Lease,
    LeaseState,
    Outcome,
    Session,
    half_ms,
    look_after,
)
from ottla.client._core.share_member import ShareMembership
from ottla.client._core.share_requests import (
    RENEWING,
    Kind,
    Run,
    Said,
    ShareSettings,
    acknowledge_request,
    fetch_request,
    runs,
)
from ottla.errors import (
    ErrorCode,
    InvalidRecordStateError,
    KafkaError,
    NetworkError,
    error_for,
)
from ottla.protocol.api import ApiKey
from ottla.protocol.messages import share_fetch
from ottla.protocol.messages.share_acknowledge import ShareAcknowledgeRequest, ShareAcknowledgeResponse
from ottla.protocol.messages.share_fetch import ShareFetchRequest, ShareFetchResponse
from ottla.protocol.schema import Message
from ottla.types import TopicIdPartition, TopicPartition

logger = logging.getLogger("ottla.client.share")

#: How long acknowledgements wait for others while the caller has work.
ACKNOWLEDGE_LINGER_MS: Final = 100.0
#: Records that were gone so soon: take twice as many next time. That lasted for so long: take half.
_SOON_MS: Final = 100.0
_LONG_MS: Final = 1_000.0
_FINAL_EPOCH: Final = -1
_EPOCH_MAX: Final = 0x7FFFFFFF


class ShareSessions:
    """All sessions of one member.

    Attributes:
        wanted: how many records the caller waits for; 0 while it has work.
        flushing: whether the caller waits for the outcome of its acknowledgements.
        outcomes: of acknowledgements, oldest first, until the shell takes them.
        acquired, acknowledged, refused: how many records, since the beginning.
    """

    def __init__(self, machine: ClientMachine, settings: ShareSettings, membership: ShareMembership) -> None:
        self.wanted = 0
        self.flushing = False
        self.outcomes: deque[Outcome] = deque()
        self.acquired = self.acknowledged = self.refused = 0
        self._machine = machine
        self._settings = settings
        self._membership = membership
        self._sessions: dict[int, Session] = {}
        self._chunks: deque[AcquiredChunk] = deque()
        self._error: Exception | None = None
        self._closing = False
        self._window = 1
        #: When records came last, until how long they have lasted is taken in.
        self._arrived_ms: float | None = None
        self._told_no_renewal = False

    # -- the caller's side ------------------------------------------------------------------------------------------

    def take(self) -> AcquiredChunk | None:
        """Return what was acquired in one partition, and forget it here; None if nothing waits.

        Raises:
            Exception: a partition's or a broker's, once.
        """
        error, self._error = self._error, None
        if error is not None:
            raise error
        while self._chunks:
            chunk = self._chunks.popleft()
            if any(not lease.gone for lease in chunk.leases.values()):
                return chunk
        return None

    def hand_out(self, lease: Lease, *, hold: bool) -> bool:
        """The caller gets the record; False: its lock is gone, and it must not.

        Args:
            hold: whether the lock is renewed from now on.
        """
        if lease.state is not LeaseState.WAITING or lease.gone:
            return False
        lease.state = LeaseState.HELD if hold else LeaseState.HANDED_OUT
        return True

    def hold(self, lease: Lease) -> bool:
        """Renew the lock of a record that was handed out, from now on; return whether `poll` has to know soon."""
        if lease.state is not LeaseState.HANDED_OUT:
            return False
        lease.state = LeaseState.HELD
        return look_after(lease)

    def acknowledge(self, lease: Lease, kind: Kind, now_ms: float, *, by_caller: bool = True) -> bool:
        """Say what has become of a record; return whether `poll` has to know soon.

        Raises:
            InvalidRecordStateError: that was said already.
        """
        if lease.state is LeaseState.DONE:
            raise InvalidRecordStateError(
                f"The record at {lease.topic_partition}, offset {lease.offset}, is acknowledged already."
            )
        session = lease.session
        if kind is not Kind.RENEW:
            lease.state = LeaseState.DONE
            if not lease.gone:
                session.leases.pop((lease.where, lease.offset), None)
        if lease.gone:
            if by_caller:
                self._tell(lease.topic_partition, [lease.offset], _lost())
            return by_caller
        session.pending.setdefault(lease.where, {})[lease.offset] = kind, by_caller
        due_ms = now_ms + (0.0 if kind is Kind.RENEW else ACKNOWLEDGE_LINGER_MS)
        sooner = due_ms < session.linger_ms
        session.linger_ms = min(session.linger_ms, due_ms)
        return sooner or self.flushing

    @property
    def settled(self) -> bool:
        """Whether each acknowledgement has an outcome."""
        return not any(session.pending or session.sent for session in self._sessions.values())

    def close(self) -> None:
        """End all sessions: what is acknowledged goes out, what is not is released by the brokers."""
        self._closing = True
        self.wanted = 0
        for session in self._sessions.values():
            for lease in session.leases.values():
                lease.state = LeaseState.DONE
            session.leases.clear()
        self._chunks.clear()

    @property
    def closed(self) -> bool:
        """Whether all sessions have ended."""
        return not self._sessions

    # -- what to do next --------------------------------------------------------------------------------------------

    def poll(self, now_ms: float, actions: list[Action]) -> float:
        by_node = self._wanted_partitions(now_ms)
        if not self._closing:
            for node_id in by_node:
                if node_id not in self._sessions:
                    self._sessions[node_id] = Session(node_id)
        wake_ms = FOREVER
        for session in list(self._sessions.values()):
            wake_ms = min(wake_ms, self._poll_session(session, by_node.get(session.node_id, {}), now_ms, actions))
        return wake_ms

    def _wanted_partitions(self, now_ms: float) -> dict[int, dict[TopicIdPartition, str]]:
        """Return by leader the partitions of the assignment, with their topics' names."""
        found: dict[int, dict[TopicIdPartition, str]] = {}
        image = self._machine.metadata.image
        for where in self._membership.assignment or ():
            topic = image.topic_named(where.topic_id)
            info = None if topic is None else image.leader(topic.name, where.partition)
            if topic is None or info is None:
                if topic is not None:
                    self._machine.metadata.use(topic.name, now_ms)
                self._machine.metadata.request_update()
            else:
                found.setdefault(info.leader, {})[where] = topic.name
        return found

    def _poll_session(
        self, session: Session, wanted: dict[TopicIdPartition, str], now_ms: float, actions: list[Action]
    ) -> float:
        if session.in_flight:
            return FOREVER
        if self._closing and session.epoch == 0:
            del self._sessions[session.node_id]
            self._machine.wake()
            return FOREVER
        renew_ms = FOREVER if self._closing else self._renew(session, now_ms)
        fetches = bool(self.wanted and wanted and not self._chunks and not self._closing)
        if not fetches and not self._closing:
            if not session.pending:
                return renew_ms
            if session.linger_ms > now_ms and not (self.flushing or self.wanted):
                return min(session.linger_ms, renew_ms)
        if session.retry_ms > now_ms:
            return min(session.retry_ms, renew_ms)
        retry_ms = self._machine.reach(session.node_id, now_ms, actions)
        if retry_ms is not None:
            return min(retry_ms, renew_ms)
        renews = any(kind is Kind.RENEW for said in session.pending.values() for kind, _ in said.values())
        if fetches and not renews:
            self._fetch(session, wanted, now_ms, actions)
        else:
            self._acknowledge(session, renews=renews, now_ms=now_ms, actions=actions)
        return FOREVER

    def _renew(self, session: Session, now_ms: float) -> float:
        """See to locks half of whose time is over; return when the next one is due."""
        if session.look_ms > now_ms:
            return session.look_ms
        due_ms = FOREVER
        for lease in list(session.leases.values()):
            when_ms = half_ms(lease)
            if lease.renewing or lease.state is LeaseState.HANDED_OUT:
                continue
            if when_ms > now_ms:
                due_ms = min(due_ms, when_ms)
                continue
            lease.renewing = True
            lasts = now_ms - lease.since_ms < self._settings.max_processing_ms and self._may_renew(session)
            if lease.state is LeaseState.WAITING and (lease.delivery_count == 1 or not lasts):
                # It waits behind a slow one: another member may be free. Not again and again: each delivery counts.
                self.acknowledge(lease, Kind.RELEASE, now_ms, by_caller=False)
            elif lasts:
                self.acknowledge(lease, Kind.RENEW, now_ms, by_caller=False)
            else:
                logger.warning(
                    "%s, offset %d: its lock is not renewed any more after %.0f s (max_processing): it may come again",
                    lease.topic_partition,
                    lease.offset,
                    (now_ms - lease.since_ms) / 1000,
                )
        session.look_ms = due_ms
        return due_ms

    def _may_renew(self, session: Session) -> bool:
        if not self._machine.connections.is_up(session.node_id):
            return True  # it will be known when the request goes out
        version = self._machine.connections.version(session.node_id, ApiKey.SHARE_ACKNOWLEDGE)
        if version is not None and version < RENEWING and not self._told_no_renewal:
            self._told_no_renewal = True
            logger.warning("the broker cannot renew locks (KIP-1222): records that take longer are delivered again")
        return version is not None and version >= RENEWING

    def _adapt(self, now_ms: float) -> int:
        """Return how many records to ask for: see the module's text."""
        if self._arrived_ms is not None:
            lasted_ms, self._arrived_ms = now_ms - self._arrived_ms, None
            if lasted_ms <= _SOON_MS:
                self._window = min(self._window * 2, self._settings.max_poll_records)
            elif lasted_ms > _LONG_MS:
                self._window = max(self._window // 2, 1)
        return min(max(self._window, self.wanted), self._settings.max_poll_records)

    def _fetch(
        self, session: Session, wanted: dict[TopicIdPartition, str], now_ms: float, actions: list[Action]
    ) -> None:
        settings = self._settings
        count = self._adapt(now_ms)
        added = [where for where in wanted if where not in session.partitions]
        forgotten = [where for where in session.partitions if where not in wanted]
        for where, name in wanted.items():
            session.names[where.topic_id] = name
        partitions: dict[TopicIdPartition, list[Run]] = {where: [] for where in added}
        partitions.update(self._take_pending(session))
        epoch = session.epoch

        def build(version: int) -> ShareFetchRequest:
            return fetch_request(
                settings,
                self._membership.member_id,
                epoch,
                count=count,
                exact=version >= RENEWING and settings.record_limit,
                partitions=partitions,
                forgotten=forgotten,
            )

        session.in_flight = True
        session.partitions = dict.fromkeys(wanted)
        self._ask(session, ApiKey.SHARE_FETCH, build, now_ms, actions, wait_ms=settings.fetch_max_wait_ms)

    def _acknowledge(self, session: Session, *, renews: bool, now_ms: float, actions: list[Action]) -> None:
        """Send what is said; as the last request of the session if it is being closed."""
        settings = self._settings
        partitions = self._take_pending(session)
        epoch = _FINAL_EPOCH if self._closing else session.epoch

        def build(version: int) -> ShareAcknowledgeRequest:
            return acknowledge_request(
                settings.group_id,
                self._membership.member_id,
                epoch,
                renews=renews and version >= RENEWING,
                partitions=partitions,
            )

        session.in_flight = True
        session.ending = self._closing
        self._ask(session, ApiKey.SHARE_ACKNOWLEDGE, build, now_ms, actions)

    def _ask(
        self, session: Session, key: ApiKey, build: Any, now_ms: float, actions: list[Action], *, wait_ms: float = 0
    ) -> None:
        def answered(send: Send, response: Message, when_ms: float) -> None:
            session.in_flight = False
            if not session.lost:
                self._on_answer(session, cast("ShareFetchResponse | ShareAcknowledgeResponse", response), when_ms)
            self._machine.wake()

        def failed(send: Send, error: Exception, when_ms: float) -> None:
            session.in_flight = False
            self._lose(session, _as_kafka_error(error))
            self._retry(session, when_ms)
            self._machine.metadata.request_update()
            self._machine.wake()

        self._machine.ask(now_ms, actions, session.node_id, key, build, answered, failed, wait_ms=wait_ms)

    def _take_pending(self, session: Session) -> dict[TopicIdPartition, list[Run]]:
        """Return what is said, as the requests want it; it is on its way now."""
        session.sent, session.pending = session.pending, {}
        session.linger_ms = FOREVER
        return {where: runs(said) for where, said in session.sent.items()}

    # -- what happened ----------------------------------------------------------------------------------------------

    def on_down(self, node_id: int, error: Exception) -> None:
        """The connection to a broker broke, and with it the session."""
        session = self._sessions.get(node_id)
        if session is not None and session.epoch:
            self._lose(session, _as_kafka_error(error))

    def _on_answer(
        self, session: Session, response: ShareFetchResponse | ShareAcknowledgeResponse, now_ms: float
    ) -> None:
        if response.error_code:
            error = error_of(response.error_code, response.error_message, group=("READ", self._settings.group_id))
            self._lose(session, error)
            self._retry(session, now_ms)
            if not error.retriable and not self._closing:
                self._error = error
            return
        session.failures = 0
        session.epoch = 1 if session.epoch == _EPOCH_MAX else session.epoch + 1
        if response.acquisition_lock_timeout_ms:
            session.lock_ms = response.acquisition_lock_timeout_ms
        nodes = [Node(end.node_id, end.host, end.port, end.rack) for end in response.node_endpoints]
        sent, session.sent = session.sent, {}
        for topic in response.responses:
            for part in topic.partitions:
                where = TopicIdPartition(topic.topic_id, part.partition_index)
                if topic.topic_id not in session.names:
                    continue
                code, message = part.error_code, part.error_message
                if isinstance(part, share_fetch.PartitionData):
                    if code:
                        self._on_partition_error(session.named(where), part, nodes)
                    if part.acquired_records:
                        self._acquire(session, where, part, now_ms)
                    code, message = part.acknowledge_error_code, part.acknowledge_error_message
                elif code in STALE_METADATA:
                    self._learn(session.named(where), part, nodes)
                if where in sent:
                    self._on_said(session, where, sent.pop(where), error_for(code, message) if code else None, now_ms)
        for where, said in sent.items():
            self._on_said(session, where, said, InvalidRecordStateError("The broker's answer left it out."), now_ms)
        if session.ending:
            del self._sessions[session.node_id]

    def _on_said(
        self, session: Session, where: TopicIdPartition, said: Said, error: KafkaError | None, now_ms: float
    ) -> None:
        for offset, (kind, _) in said.items():
            lease = session.leases.get((where, offset)) if kind is Kind.RENEW else None
            if lease is None:
                continue
            if error is None:
                lease.renewing = False
                lease.until_ms = now_ms + session.lock_ms
                look_after(lease)
            else:
                logger.warning("%s, offset %d: its lock was not renewed: %s", session.named(where), offset, error)
        told = [offset for offset, (_, by_caller) in said.items() if by_caller]
        if told:
            self._tell(session.named(where), told, error)

    def _tell(self, where: TopicPartition, offsets: list[int], error: KafkaError | None) -> None:
        if error is None:
            self.acknowledged += len(offsets)
        else:
            self.refused += len(offsets)
        self.outcomes.append(Outcome(where, offsets, error))
        self._machine.wake()

    def _acquire(
        self, session: Session, where: TopicIdPartition, part: share_fetch.PartitionData, now_ms: float
    ) -> None:
        until_ms = now_ms + session.lock_ms
        leases: dict[int, Lease] = {}
        for run in part.acquired_records:
            for offset in range(run.first_offset, run.last_offset + 1):
                lease = Lease(session, where, offset, run.delivery_count, now_ms, until_ms)
                self._supersede(session, where, offset)
                leases[offset] = session.leases[where, offset] = lease
        self.acquired += len(leases)
        if self._closing:
            return  # the end of the session releases them
        self._arrived_ms = now_ms
        session.look_ms = min(session.look_ms, until_ms - session.lock_ms / 2)
        self._chunks.append(AcquiredChunk(session.named(where), leases, memoryview(part.records or b"")))

    def _supersede(self, session: Session, where: TopicIdPartition, offset: int) -> None:
        """A record comes again in a session: its earlier delivery is gone, and what waits to be said of that."""
        before = session.leases.get((where, offset))
        if before is not None:
            before.gone = True
        said = session.pending.get(where, {})
        _, by_caller = said.pop(offset, (None, False))
        if not said:
            session.pending.pop(where, None)
        if by_caller:
            self._tell(session.named(where), [offset], _lost())

    def _on_partition_error(
        self, where: TopicPartition, part: share_fetch.PartitionData, nodes: Sequence[Node]
    ) -> None:
        error = error_of(part.error_code, part.error_message, topic=("READ", where.topic))
        if part.error_code in STALE_METADATA:
            self._learn(where, part, nodes)
        elif not error.retriable or part.error_code == ErrorCode.CORRUPT_MESSAGE:
            self._error = error

    def _learn(self, where: TopicPartition, part: Any, nodes: Sequence[Node]) -> None:
        current = part.current_leader
        metadata = self._machine.metadata
        if metadata.learn_leader(where.topic, where.partition, current.leader_id, current.leader_epoch, nodes):
            self._machine.take_image()
        else:
            metadata.request_update()

    def _lose(self, session: Session, error: KafkaError) -> None:
        """The broker, or the connection, has dropped the session; another one begins."""
        if session.lost:
            return
        session.lost = True
        for each in (session.sent, session.pending):
            for where, said in each.items():
                told = [offset for offset, (_, by_caller) in said.items() if by_caller]
                if told:
                    self._tell(session.named(where), told, error)
        session.sent, session.pending = {}, {}
        if session.leases:
            logger.warning("the session with broker %d ended (%s): its locks are gone", session.node_id, error)
        for lease in session.leases.values():
            lease.gone = True
        session.leases.clear()
        if self._sessions.get(session.node_id) is session:
            self._sessions[session.node_id] = Session(
                session.node_id, failures=session.failures, retry_ms=session.retry_ms
            )
        self._machine.wake()

    def _retry(self, session: Session, now_ms: float) -> None:
        current = self._sessions.get(session.node_id)
        if current is not None:
            current.failures += 1
            current.retry_ms = now_ms + self._machine.delay_ms(current.failures)


def _as_kafka_error(error: Exception) -> KafkaError:
    return error if isinstance(error, KafkaError) else NetworkError(str(error))


def _lost() -> KafkaError:
    return InvalidRecordStateError(
        "The lock of the record had ended, by time or with its session: it is delivered again."
    )
