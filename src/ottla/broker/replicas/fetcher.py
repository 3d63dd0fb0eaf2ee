"""Fetchers: bring what leaders have into the logs of their followers, one fetcher for each leader.

A fetcher drives all followers of its leader over one connection: it asks, appends what comes, cuts off what diverges, and
asks again. What an answer means for one partition decides `Follower`.

Invariants:
  * An answer is taken in only by the role that asked for it: `leave` comes before a partition notes another role, and the
    log refuses what belongs to another leader epoch, whenever its turn comes.
  * Where the topic asks for an fsync before an acknowledgement, a follower asks only from an offset that is on its disk.
  * A partition in trouble waits; the others of the same leader go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

from ottla.broker.replicas.fetch_requests import FetchLimits, FetchSession, Wanted
from ottla.errors import (
    CorruptMessageError,
    ErrorCode,
    KafkaError,
    NotLeaderOrFollowerError,
    OffsetOutOfRangeError,
    RemoteProtocolError,
    SaslAuthenticationFailedError,
    StorageError,
    UnsupportedSaslMechanismError,
    UnsupportedVersionError,
)
from ottla.network.channel import Channel, ChannelSettings, EncodedRequest
from ottla.network.channel_errors import AnswerTimeoutError, ConnectionFailedError
from ottla.protocol.api import ApiKey
from ottla.protocol.codec import decode
from ottla.protocol.messages.fetch import FetchResponse, PartitionData
from ottla.protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopic,
)
from ottla.protocol.replica_fetch_frames import VERSION as SHORT_VERSION
from ottla.protocol.replica_fetch_frames import ReplicaAnswer, encode_request, parse_answer
from ottla.types import EARLIEST, LATEST, TopicPartition

if TYPE_CHECKING:
    from ottla.broker.replicas.follower import Follower, Truncation
    from ottla.broker.replicas.partition import Partition
    from ottla.broker.replicas.throttles import Throttle
    from ottla.clock import Clock
    from ottla.cluster.image import ClusterImage
    from ottla.file_region import Buffer
    from ottla.storage.log import PartitionLog

logger = logging.getLogger(__name__)

#: The first pause after a failure; each is twice the one before, up to replica.fetch.backoff.ms.
BACK_OFF_SECONDS_MIN = 0.02
#: How often it is looked whether a throttled replica may go on.
THROTTLE_SECONDS = 0.1
#: Answers up to this size are appended on the loop while the disk is quick.
ON_LOOP_BYTES_MAX = 512 << 10
#: All partitions are looked at at least so often; in between only those that an answer was about. With thousands of
#: partitions these looks are most of what a cluster costs that has nothing to do.
LOOK_SECONDS = 1.0
#: The first version of Fetch that says which process asks (KIP-903).
REPLICA_STATE_SINCE = 15

_CHANNEL_ERRORS = (
    ConnectionFailedError,
    AnswerTimeoutError,
    RemoteProtocolError,
    UnsupportedVersionError,
    SaslAuthenticationFailedError,
    UnsupportedSaslMechanismError,
)
_SESSION_ERRORS = (
    ErrorCode.FETCH_SESSION_ID_NOT_FOUND,
    ErrorCode.INVALID_FETCH_SESSION_EPOCH,
    ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FetcherSettings:
    """Kafka's broker keys `replica.fetch.*` and `replica.socket.timeout.ms`; milliseconds and bytes."""

    partition_bytes_max: int = 1 << 20
    bytes_min: int = 1
    bytes_max: int = 10 << 20
    wait_ms_max: int = 500
    backoff_ms: int = 1_000
    timeout_ms: int = 30_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FetcherSurroundings:
    """What fetchers have to know, and whom they tell.

    Attributes:
        image: the newest image of the cluster.
        broker_epoch: under which this broker is registered.
        listener: on which brokers reach each other.
        open_channel: connects to a broker.
        on_stale: a leader knows another leader epoch than this broker: the tree should be looked at.
        on_refused: a replica cannot follow any more, for a reason that an operator has to look at.
        is_damaged: whether a part of a log cannot be read.
        on_healed: a damaged log has been begun anew.
        throttle: of what followers fetch.
    """

    node_id: int
    image: Callable[[], ClusterImage]
    broker_epoch: Callable[[], int]
    listener: str
    channel: ChannelSettings
    clock: Clock
    settings: FetcherSettings
    on_stale: Callable[[], None]
    on_refused: Callable[[TopicPartition, str], None]
    is_damaged: Callable[[TopicPartition], bool]
    on_healed: Callable[[], None]
    throttle: Throttle


class _Asked(NamedTuple):
    partition: Partition
    follower: Follower
    offset: int

    @property
    def is_current(self) -> bool:
        """Whether the partition still has the role that asked."""
        return self.partition.follower is self.follower


class Fetchers:
    """All fetchers of this broker. Belongs to the loop's thread."""

    def __init__(self, around: FetcherSurroundings) -> None:
        self._around = around
        self._fetchers: dict[int, LeaderFetcher] = {}
        self._leader_of: dict[TopicPartition, int] = {}

    def follow(self, partition: Partition) -> None:
        """Fetch for a partition that has the role of a follower."""
        follower = partition.follower
        assert follower is not None
        self.leave(partition.topic_partition)
        fetcher = self._fetchers.get(follower.leader)
        if fetcher is None:
            fetcher = self._fetchers[follower.leader] = LeaderFetcher(follower.leader, self._around)
        self._leader_of[partition.topic_partition] = follower.leader
        fetcher.add(partition)

    def leave(self, topic_partition: TopicPartition) -> None:
        """Fetch no more for a partition; an answer that is under way is dropped. Comes before the partition's next role."""
        leader = self._leader_of.pop(topic_partition, None)
        if leader is not None:
            self._fetchers[leader].remove(topic_partition)

    def on_brokers(self) -> None:
        """Brokers came, went or moved: fetchers look again where their leaders are."""
        for fetcher in self._fetchers.values():
            fetcher.wake()

    async def stop(self) -> None:
        """Fetch nothing more."""
        for fetcher in self._fetchers.values():
            await fetcher.stop()


class LeaderFetcher:
    """Fetches from one leader, for all its followers here."""

    def __init__(self, leader: int, around: FetcherSurroundings) -> None:
        self._leader = leader
        self._around = around
        self._partitions: dict[TopicPartition, Partition] = {}
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failures: dict[TopicPartition, int] = {}
        self._is_out_of_reach = False

    def add(self, partition: Partition) -> None:
        self._partitions[partition.topic_partition] = partition
        self._failures.pop(partition.topic_partition, None)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"fetcher-{self._leader}")
        self._news.set()

    def remove(self, topic_partition: TopicPartition) -> None:
        self._partitions.pop(topic_partition, None)
        self._news.set()

    def wake(self) -> None:
        self._news.set()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # -- the connection

    async def _run(self) -> None:
        failures = 0
        while True:
            address = self._address()
            if not self._partitions or address is None:
                await self._wait(None)
                continue
            channel: Channel | None = None
            try:
                channel = await Channel.open(*address, self._around.channel)
                if self._is_out_of_reach:
                    self._is_out_of_reach = False
                    logger.info("broker %d can be fetched from again", self._leader)
                failures = 0
                await self._fetch_on(channel, address)
            except _CHANNEL_ERRORS as error:
                if not self._is_out_of_reach:
                    self._is_out_of_reach = True
                    logger.warning("cannot fetch from broker %d at %s:%d: %s", self._leader, *address, error)
                failures += 1
                await self._wait(_pause(failures, self._around.settings.backoff_ms), for_news=False)
            except Exception:
                logger.exception("the fetcher of broker %d met what it does not understand", self._leader)
                failures += 1
                await self._wait(_pause(failures, self._around.settings.backoff_ms), for_news=False)
            finally:
                if channel is not None:
                    channel.close()

    def _address(self) -> tuple[str, int] | None:
        broker = self._around.image().brokers.get(self._leader)
        endpoint = None if broker is None else broker.endpoint(self._around.listener)
        if broker is not None and endpoint is None and broker.endpoints:
            endpoint = broker.endpoints[0]
        return None if endpoint is None else (endpoint.host or "localhost", endpoint.port)

    async def _wait(self, seconds: float | None, *, for_news: bool = True) -> None:
        if not for_news:
            await asyncio.sleep(seconds or 0)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            pass
        self._news.clear()

    # -- asking

    async def _fetch_on(self, channel: Channel, address: tuple[str, int]) -> None:
        version = channel.version(ApiKey.FETCH)
        if version < REPLICA_STATE_SINCE:
            raise UnsupportedVersionError(f"broker {self._leader} speaks Fetch {version}, which does not say who asks")
        session = FetchSession()
        settings = self._around.settings
        limits = FetchLimits(settings.partition_bytes_max, settings.bytes_min, settings.bytes_max, settings.wait_ms_max)
        timeout_s = (settings.wait_ms_max + settings.timeout_ms) / 1000
        while self._address() == address:
            await self._heal(channel)
            self._news.clear()  # all there is to know is looked at now
            asked, pause = self._ready()
            if not asked:
                await self._wait(pause)
                if not self._partitions:
                    return
                continue
            by_key = {(one.partition.topic_id, tp.partition): one for tp, one in asked.items()}
            request = session.request(
                {key: _wanted(one) for key, one in by_key.items()},
                replica=(self._around.node_id, self._around.broker_epoch()),
                limits=limits,
            )
            answer = await channel.ask(request, FetchResponse, version=version, timeout_s=timeout_s)
            if not await self._is_accepted(answer, session):
                continue
            await self._take_in_all(channel, answer, by_key)
            if version == SHORT_VERSION and session.goes_on:
                seconds = LOOK_SECONDS if pause is None else min(LOOK_SECONDS, pause)
                await self._go_on(channel, session, by_key, limits, timeout_s, seconds)

    async def _is_accepted(self, answer: FetchResponse, session: FetchSession) -> bool:
        """Whether the leader has answered, and not refused; if so the session goes on."""
        if not answer.error_code:
            session.on_answer(answer.session_id)
            return True
        session.reset()
        if answer.error_code not in _SESSION_ERRORS:
            logger.warning("broker %d refuses to be fetched from: %s", self._leader, _name(answer.error_code))
            await asyncio.sleep(self._around.settings.backoff_ms / 1000)
        return False

    async def _go_on(
        self,
        channel: Channel,
        session: FetchSession,
        asked: dict[tuple[bytes, int], _Asked],
        limits: FetchLimits,
        timeout_s: float,
        seconds: float,
    ) -> None:
        """Ask again while answers are ordinary: only about partitions that the last answer was about something is new.

        It ends after so many seconds, and as soon as something needs the look at all partitions: news, a log that has to be
        synced, an error, a throttle.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        until = began + seconds
        changed: list[tuple[bytes, int]] = list(asked)
        while loop.time() < until and not self._news.is_set() and self._around.throttle.is_idle:
            wanted: dict[tuple[bytes, int], Wanted] = {}
            for key in changed:
                one = asked[key]
                partition, follower = one.partition, one.follower
                log = partition.log
                if (
                    not one.is_current
                    or follower.is_busy
                    or follower.refused is not None
                    or follower.asks_at > began
                    or log.flush_needed_before_ack
                ):
                    return
                one = asked[key] = _Asked(partition, follower, log.log_end_offset)
                wanted[key] = _wanted(one)
            replica = (self._around.node_id, self._around.broker_epoch())
            body = encode_request(session.changes(wanted, replica=replica, limits=limits))
            came = await channel.send_encoded(EncodedRequest(ApiKey.FETCH, body), SHORT_VERSION, timeout_s=timeout_s)
            ordinary = parse_answer(came)
            if ordinary is None:
                answer, _ = decode(FetchResponse, SHORT_VERSION, bytes(came))
                if await self._is_accepted(answer, session):
                    await self._take_in_all(channel, answer, asked)
                return
            session.on_answer(ordinary.session_id)
            if not await self._take_in_ordinary(ordinary, asked) or not session.goes_on:
                return
            changed = [(row.topic_id, row.partition) for row in ordinary.partitions]

    async def _take_in_ordinary(self, answer: ReplicaAnswer, asked: dict[tuple[bytes, int], _Asked]) -> bool:
        """Take in an answer without an error; return False if there was trouble, or another role has begun."""
        later: list[tuple[_Asked, PartitionData]] = []
        is_all = True
        for row in answer.partitions:
            one = asked.get((row.topic_id, row.partition))
            if one is None or not one.is_current:
                is_all = False
                continue
            records = cast("Buffer", row.records)  # what is parsed is never a region of a file
            if not records:
                self._on_taken_in(one, 0, row.high_watermark, row.log_start_offset)
                continue
            taken = self._append_now(one, records, row.high_watermark, row.log_start_offset)
            if taken is None:
                later.append(
                    (
                        one,
                        PartitionData(
                            partition_index=row.partition,
                            high_watermark=row.high_watermark,
                            log_start_offset=row.log_start_offset,
                            records=records,
                        ),
                    )
                )
            elif not taken:
                is_all = False
        if later:
            await asyncio.gather(*(self._take_in(one, data) for one, data in later))
        return is_all

    def _ready(self) -> tuple[dict[TopicPartition, _Asked], float | None]:
        """Return the partitions that may ask now, and if there are none after how many seconds one may."""
        now = asyncio.get_running_loop().time()
        found: dict[TopicPartition, _Asked] = {}
        soonest: float | None = None
        for topic_partition, partition in self._partitions.items():
            follower = partition.follower
            if follower is None or follower.is_busy or follower.refused is not None:
                continue
            asks_at = follower.asks_at
            if self._is_held_up(topic_partition, follower):
                asks_at = max(asks_at, now + THROTTLE_SECONDS)
            if asks_at > now:
                soonest = asks_at if soonest is None else min(soonest, asks_at)
                continue
            if partition.log.flush_needed_before_ack and partition.has_unsynced:
                self._sync(partition, follower)
                continue
            found[topic_partition] = _Asked(partition, follower, partition.log.log_end_offset)
        return found, None if soonest is None else max(0.001, soonest - now)

    def _is_held_up(self, topic_partition: TopicPartition, follower: Follower) -> bool:
        """Whether a replica that catches up has to wait because of the throttle."""
        throttle = self._around.throttle
        return (
            not throttle.is_idle
            and not follower.is_in_sync
            and throttle.is_throttled(*topic_partition)
            and throttle.is_exceeded()
        )

    async def _heal(self, channel: Channel) -> None:
        """Begin damaged logs anew, from the leader, as soon as the cluster does not count on their records any more."""
        now = asyncio.get_running_loop().time()
        for topic_partition, partition in list(self._partitions.items()):
            follower = partition.follower
            if (
                follower is None
                or follower.is_in_sync
                or follower.is_busy
                or follower.refused is not None
                or follower.asks_at > now
                or not self._around.is_damaged(topic_partition)
                or not partition.log.damages
            ):
                continue
            one = _Asked(partition, follower, partition.log.log_end_offset)
            earliest = await self._offset(channel, one, EARLIEST)
            if earliest is None or not one.is_current:
                continue
            logger.warning(
                "%s cannot be read everywhere; all of it is fetched anew from broker %d", topic_partition, self._leader
            )
            follower.is_busy = True
            try:
                await partition.begin_anew(earliest, follower.leader_epoch)
            except (KafkaError, StorageError) as error:
                self._on_trouble(one, error)
            finally:
                follower.is_busy = False
            self._around.on_healed()

    def _sync(self, partition: Partition, follower: Follower) -> None:
        """Have what was appended brought to the disk; until then the partition asks for nothing."""
        follower.is_busy = True

        def synced(error: BaseException | None) -> None:
            follower.is_busy = False
            if error is not None:
                self._delay(partition, follower)
            self._news.set()

        partition.sync(synced)

    # -- taking in

    async def _take_in_all(
        self, channel: Channel, answer: FetchResponse, asked: dict[tuple[bytes, int], _Asked]
    ) -> None:
        out_of_range: list[_Asked] = []
        later: list[tuple[_Asked, PartitionData]] = []
        for topic in answer.responses:
            for data in topic.partitions:
                one = asked.get((topic.topic_id, data.partition_index))
                if one is None or not one.is_current:
                    continue  # of a role that the partition has no more
                if data.error_code:
                    if data.error_code == ErrorCode.OFFSET_OUT_OF_RANGE:
                        out_of_range.append(one)
                    else:
                        self._on_error(one, data.error_code)
                elif not self._take_in_now(one, data):
                    later.append((one, data))
        if later:
            await asyncio.gather(*(self._take_in(one, data) for one, data in later))
        if out_of_range:
            await self._find_place(channel, out_of_range)

    def _take_in_now(self, one: _Asked, data: PartitionData) -> bool:
        """Take in what needs no disk that may be slow; return False if it takes more."""
        if data.diverging_epoch.end_offset >= 0:
            return False
        if not data.records:
            self._on_taken_in(one, 0, data.high_watermark, data.log_start_offset)
            return True
        return self._append_now(one, data.records, data.high_watermark, data.log_start_offset) is not None

    def _append_now(self, one: _Asked, records: Buffer, high_watermark: int, log_start_offset: int) -> bool | None:
        """Append on the loop; return whether that went well, None if it cannot be done there."""
        partition = one.partition
        if len(records) > ON_LOOP_BYTES_MAX or not partition.may_append_on_loop():
            return None
        try:
            if not partition.append_from_leader_nowait(records, one.follower.leader_epoch):
                return None
        except (KafkaError, StorageError) as error:
            self._on_trouble(one, error)
            return False
        self._on_taken_in(one, len(records), high_watermark, log_start_offset)
        return True

    async def _take_in(self, one: _Asked, data: PartitionData) -> None:
        partition, follower = one.partition, one.follower
        follower.is_busy = True
        try:
            if data.diverging_epoch.end_offset >= 0:
                await self._cut(one, self._truncation(one, data))
            else:
                await partition.append_from_leader(data.records or b"", follower.leader_epoch)
                if one.is_current:
                    self._on_taken_in(one, len(data.records or b""), data.high_watermark, data.log_start_offset)
        except (KafkaError, StorageError) as error:
            self._on_trouble(one, error)
        finally:
            follower.is_busy = False

    def _on_taken_in(self, one: _Asked, byte_count: int, high_watermark: int, log_start_offset: int) -> None:
        partition = one.partition
        if self._failures:
            self._failures.pop(partition.topic_partition, None)
        throttle = self._around.throttle
        if byte_count and not throttle.is_idle and throttle.is_throttled(*partition.topic_partition):
            throttle.record(byte_count)
        partition.on_followed(high_watermark, log_start_offset)
        one.follower.lag = max(0, high_watermark - partition.log.log_end_offset)

    def _truncation(self, one: _Asked, data: PartitionData) -> Truncation:
        log = one.partition.log
        return one.follower.truncation(
            data.diverging_epoch.epoch,
            data.diverging_epoch.end_offset,
            own_end_of=log.end_offset_for_epoch,
            log_end=log.log_end_offset,
            high_watermark=log.high_watermark,
            last_epoch=_last_epoch(log),
        )

    async def _cut(self, one: _Asked, truncation: Truncation) -> None:
        partition = one.partition
        if truncation.refusal is not None:
            one.follower.refused = truncation.refusal
            self._around.on_refused(partition.topic_partition, truncation.refusal)
            return
        log = partition.log
        logger.info(
            "%s is cut off at %d, where the log of broker %d parts from it; it ended at %d",
            partition.topic_partition,
            truncation.offset,
            self._leader,
            log.log_end_offset,
        )
        await partition.cut_for_leader(
            truncation.offset, one.follower.leader_epoch, keeps_copy=truncation.below_high_watermark
        )

    async def _find_place(self, channel: Channel, asked: list[_Asked]) -> None:
        """Ask where the leader's logs begin and end, for followers whose logs end outside of these."""
        for one in asked:
            partition, follower = one.partition, one.follower
            latest = await self._offset(channel, one, LATEST)
            earliest = await self._offset(channel, one, EARLIEST)
            if not one.is_current:
                continue
            if latest is None or earliest is None:
                self._delay(partition, follower)
                continue
            log = partition.log
            follower.is_busy = True
            try:
                if latest < log.log_end_offset:
                    cut = follower.cut(latest, high_watermark=log.high_watermark, last_epoch=_last_epoch(log))
                    await self._cut(one, cut)
                elif earliest > log.log_end_offset:
                    logger.warning(
                        "%s begins anew at %d: what follows %d is no longer in the log of broker %d",
                        partition.topic_partition,
                        earliest,
                        log.log_end_offset,
                        self._leader,
                    )
                    await partition.begin_anew(earliest, follower.leader_epoch)
                else:
                    self._delay(partition, follower)
            except (KafkaError, StorageError) as error:
                self._on_trouble(one, error)
            finally:
                follower.is_busy = False

    async def _offset(self, channel: Channel, one: _Asked, timestamp: int) -> int | None:
        topic, index = one.partition.topic_partition
        row = ListOffsetsPartition(
            partition_index=index, current_leader_epoch=one.follower.leader_epoch, timestamp=timestamp
        )
        request = ListOffsetsRequest(
            replica_id=self._around.node_id, topics=[ListOffsetsTopic(name=topic, partitions=[row])]
        )
        timeout_s = self._around.settings.timeout_ms / 1000
        answer = await channel.ask(request, ListOffsetsResponse, timeout_s=timeout_s)
        part = answer.topics[0].partitions[0]
        if part.error_code and one.is_current:
            self._on_error(one, part.error_code)
        return None if part.error_code else part.offset

    # -- trouble

    def _on_error(self, one: _Asked, code: int) -> None:
        if code in (
            ErrorCode.FENCED_LEADER_EPOCH,
            ErrorCode.UNKNOWN_LEADER_EPOCH,
            ErrorCode.NOT_LEADER_OR_FOLLOWER,
            ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
            ErrorCode.UNKNOWN_TOPIC_ID,
            ErrorCode.INCONSISTENT_TOPIC_ID,
        ):
            self._around.on_stale()
        logger.debug("%s: broker %d answers %s", one.partition.topic_partition, self._leader, _name(code))
        self._delay(one.partition, one.follower)

    def _on_trouble(self, one: _Asked, error: KafkaError | StorageError) -> None:
        if isinstance(error, NotLeaderOrFollowerError) and not one.is_current:
            return
        if isinstance(error, OffsetOutOfRangeError) and one.partition.log.log_end_offset != one.offset:
            return  # the log has grown or been cut since this was asked
        level = logging.ERROR if isinstance(error, CorruptMessageError) else logging.WARNING
        if one.partition.topic_partition in self._failures:
            level = logging.DEBUG  # it has been said; a full disk would say it twice a second for each partition
        logger.log(
            level, "%s cannot take in what broker %d sent: %s", one.partition.topic_partition, self._leader, error
        )
        self._delay(one.partition, one.follower)

    def _delay(self, partition: Partition, follower: Follower) -> None:
        failures = self._failures.get(partition.topic_partition, 0) + 1
        self._failures[partition.topic_partition] = failures
        pause = _pause(failures, self._around.settings.backoff_ms)
        follower.asks_at = asyncio.get_running_loop().time() + pause


def _wanted(one: _Asked) -> Wanted:
    log = one.partition.log
    return Wanted(
        one.follower.leader_epoch,
        one.offset,
        _last_epoch(log),
        log.log_start_offset,
        log.high_watermark,
    )


def _last_epoch(log: PartitionLog) -> int:
    """Return the leader epoch of the last record; an epoch that has none yet is no part of the log."""
    end_offset = log.log_end_offset
    return log.leader_epochs.epoch_for(end_offset - 1) if end_offset > log.log_start_offset else -1


def _pause(failures: int, backoff_ms: int) -> float:
    return min(backoff_ms / 1000, BACK_OFF_SECONDS_MIN * 1.5 ** min(failures - 1, 20))


def _name(code: int) -> str:
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"error {code}"
