"""Replication: what all replicas of a broker share: the lease, the writing of ISRs, fetchers, unfit replicas.

The shell around `Leader` and `Follower`: it has the tasks, and asks the tree. Who has which role decides the image
(`ReplicaManager`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ottla.broker.replicas.fetcher import Fetchers, FetcherSettings, FetcherSurroundings
from ottla.broker.replicas.isr_keeper import IsrKeeper, StateStore
from ottla.broker.replicas.lease import Lease, renewal_interval_ms
from ottla.broker.replicas.throttles import Throttles
from ottla.cluster.tree import SessionState, TreeError, TreeUnavailableError

if TYPE_CHECKING:
    from ottla.broker.replicas.partition import Partition
    from ottla.clock import Clock
    from ottla.cluster.image import ClusterImage
    from ottla.cluster.tree import Tree
    from ottla.network.channel import ChannelSettings
    from ottla.types import TopicPartition

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.5
#: The tree is looked at once, however many partitions meet a leader that knows another epoch.
STALE_SECONDS = 0.1
#: How long a request waits for the tree.
LOOK_SECONDS_MAX = 5.0


class ClusterSide(StateStore, Protocol):
    """What replication needs of the cluster."""

    @property
    def broker_epoch(self) -> int:
        """Under which this broker is registered."""
        ...

    async def say_unfit(self, partitions: Collection[tuple[bytes, int]]) -> None:
        """Say in the tree which partitions this broker holds and cannot lead.

        Raises:
            TreeError, TreeUnavailableError: it is unknown whether it was done.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicationSettings:
    """Of the broker's configuration.

    Attributes:
        lag_ms_max: replica.lag.time.max.ms.
        listener: on which brokers reach each other (`inter.broker.listener.name`).
        channel: how connections to other brokers are made.
        has_peers: other brokers use the tree: there is a lease to keep.
    """

    lag_ms_max: int = 30_000
    listener: str = "PLAINTEXT"
    channel: ChannelSettings
    fetchers: FetcherSettings
    has_peers: bool = True


class Replication:
    """The replication of one broker; made before its partitions, started when the broker is registered.

    Attributes:
        lease: of leaders that are alone in their ISRs.
        fetchers, isrs, throttles: see there.
    """

    def __init__(
        self,
        node_id: int,
        cluster: ClusterSide,
        settings: ReplicationSettings,
        *,
        image: Callable[[], ClusterImage],
        min_isr: Callable[[str], int],
        clock: Clock,
    ) -> None:
        self.node_id = node_id
        self.settings = settings
        self.min_isr = min_isr
        self.lease = Lease(clock.boot_ms)
        self.throttles = Throttles(node_id, clock.monotonic_ms)
        self._cluster = cluster
        self._image = image
        self._clock = clock
        self._partitions: Callable[[], Iterable[Partition]] = tuple
        self._on_refused: Callable[[TopicPartition, str], None] = lambda _tp, _why: None
        self._is_damaged: Callable[[TopicPartition], bool] = lambda _tp: False
        self._on_healed: Callable[[], None] = lambda: None
        self.isrs = IsrKeeper(
            cluster, lambda: list(self._partitions()), clock=clock, lag_ms_max=lambda: settings.lag_ms_max
        )
        self.fetchers = Fetchers(
            FetcherSurroundings(
                node_id=node_id,
                image=image,
                broker_epoch=lambda: cluster.broker_epoch,
                listener=settings.listener,
                channel=settings.channel,
                clock=clock,
                settings=settings.fetchers,
                on_stale=self._on_stale,
                on_refused=lambda tp, why: self._on_refused(tp, why),
                is_damaged=lambda tp: self._is_damaged(tp),
                on_healed=lambda: self._on_healed(),
                throttle=self.throttles.follower,
            )
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._renewing: asyncio.Task[None] | None = None
        self._look: asyncio.Task[bool] | None = None
        self._stale = asyncio.Event()
        self._unfit: frozenset[tuple[bytes, int]] = frozenset()
        self._unfit_news = asyncio.Event()

    def serve(
        self,
        led: Callable[[], Iterable[Partition]],
        on_refused: Callable[[TopicPartition, str], None],
        *,
        is_damaged: Callable[[TopicPartition], bool],
        on_healed: Callable[[], None],
    ) -> None:
        """Know whose replication this is.

        Args:
            led: returns what is led here.
            on_refused: called when a replica follows no more.
            is_damaged: whether a part of a log here cannot be read.
            on_healed: called when a damaged log has been begun anew.
        """
        self._partitions = led
        self._on_refused = on_refused
        self._is_damaged = is_damaged
        self._on_healed = on_healed

    def start(self, tree: Tree) -> None:
        """Begin, in the session in which the broker is registered."""
        loop = asyncio.get_running_loop()
        self.isrs.start()
        self._tasks = [
            loop.create_task(self._look_at_tree(), name="replication-stale"),
            loop.create_task(self._report_unfit(), name="replication-unfit"),
        ]
        self.on_session(tree)

    async def stop(self) -> None:
        """Fetch and write nothing more."""
        await self.fetchers.stop()
        await self.isrs.stop()
        tasks: list[asyncio.Task[Any]] = [*self._tasks, *(t for t in (self._renewing, self._look) if t is not None)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- the lease

    def on_session(self, tree: Tree) -> None:
        """A session has begun in which this broker is registered, and whose image has been read since."""
        if not self.settings.has_peers:
            return
        if self._renewing is not None:
            self._renewing.cancel()
        self._renewing = asyncio.get_running_loop().create_task(self._renew(tree), name="lease")
        self._unfit_news.set()

    def on_session_end(self) -> None:
        """The session has ended: whoever is alone in an ISR may have been replaced."""
        self.lease.end()
        if self._renewing is not None:
            self._renewing.cancel()
            self._renewing = None

    async def _renew(self, tree: Tree) -> None:
        while tree.state is not SessionState.ENDED:
            sent_ms = self._clock.boot_ms()
            held = self.lease.holds()
            asking = asyncio.ensure_future(tree.sync())
            interval_s = renewal_interval_ms(tree.session_timeout_ms) / 1000
            try:
                # One that is not answered is not waited for: the next one may be.
                async with asyncio.timeout(interval_s):
                    await asyncio.shield(asking)
                self.lease.on_answer(sent_ms, tree.session_timeout_ms)
            except TimeoutError:
                asking.add_done_callback(
                    lambda done, sent_ms=sent_ms: self._on_late_answer(done, sent_ms, tree)  # type: ignore[misc]
                )
            except TreeUnavailableError as error:
                logger.debug("the lease is not renewed: %s", error)
            if not held and self.lease.holds():
                self._on_lease()
            passed_s = (self._clock.boot_ms() - sent_ms) / 1000
            await asyncio.sleep(max(0.0, interval_s - passed_s))

    def _on_late_answer(self, done: asyncio.Future[None], sent_ms: int, tree: Tree) -> None:
        if done.cancelled() or done.exception() is not None or tree.state is SessionState.ENDED:
            return
        held = self.lease.holds()
        self.lease.on_answer(sent_ms, tree.session_timeout_ms)
        if not held and self.lease.holds():
            self._on_lease()

    def _on_lease(self) -> None:
        for partition in self._partitions():
            if partition.leader is not None and partition.leader.is_alone:
                partition.on_role_facts()

    async def look_at_tree(self) -> bool:
        """Bring the image up to what was in the tree when this was called; return whether that was possible.

        One look serves all who came before it began.
        """
        running = self._look
        if running is not None and not running.done():
            await asyncio.wait([running])
        if self._look is running or self._look is None:
            self._look = asyncio.get_running_loop().create_task(self._look_once(), name="replication-look")
        return await asyncio.shield(self._look)

    async def _look_once(self) -> bool:
        try:
            async with asyncio.timeout(LOOK_SECONDS_MAX):
                await self._cluster.refresh()
        except (TimeoutError, TreeError, TreeUnavailableError):
            return False
        return True

    # -- leaders that know another epoch

    def _on_stale(self) -> None:
        self._stale.set()

    async def _look_at_tree(self) -> None:
        while True:
            await self._stale.wait()
            self._stale.clear()
            try:
                await self._cluster.refresh()
            except (TreeError, TreeUnavailableError) as error:
                logger.debug("the tree cannot be looked at: %s", error)
            await asyncio.sleep(STALE_SECONDS)

    # -- unfit replicas

    def on_unfit(self, partitions: frozenset[tuple[bytes, int]]) -> None:
        """These partitions, as (topic id, index), are held here and cannot be led."""
        self._unfit = partitions
        if partitions != self._image().unfit.get(self.node_id, frozenset()):
            self._unfit_news.set()

    async def _report_unfit(self) -> None:
        while True:
            await self._unfit_news.wait()
            self._unfit_news.clear()
            unfit = self._unfit
            if unfit == self._image().unfit.get(self.node_id, frozenset()):
                continue
            try:
                await self._cluster.say_unfit(sorted(unfit))
            except (TreeError, TreeUnavailableError) as error:
                logger.debug("unfit replicas are said later: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
                self._unfit_news.set()
