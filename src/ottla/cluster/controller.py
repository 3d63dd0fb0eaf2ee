"""Controller: what handlers ask of the cluster, and whether this broker is the one that decides for all.

Every broker has one. It registers its broker and takes the controller's office when that is free (`office`); as long as it
holds it, it does the controller's duties after each change (`duties`). Requests of clients are served one at a time: topics
are made and enlarged and settings are changed by the broker that is asked, by compare-and-set (`topic_writer`,
`settings_writer`); only deletions and elections need the office. A method returns when the change is in the tree *and* in
this broker's own image, so that a client that asks next sees it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ottla.cluster.acl_writer import AclWriter
from ottla.cluster.change_log import CHANGES_KEPT, PARTITIONS_PER_MULTI, ChangeLog
from ottla.cluster.decisions.configs import (
    Alteration,
    check_request,
    validate_broker_config,
    validate_client_metrics_config,
    validate_group_config,
    validate_topic_config,
)
from ottla.cluster.decisions.default_topics import (
    ControllerSettings,
    default_topic,
    internal_min_isr,
    internal_replicas,
    internal_topic_configs,
)
from ottla.cluster.decisions.election import elect_on_request
from ottla.cluster.decisions.features import FeatureUpdate
from ottla.cluster.decisions.reassignment import plan_reassignment
from ottla.cluster.decisions.recovery import FoundPartition, rebuild_topics
from ottla.cluster.decisions.refusal import Refusal
from ottla.cluster.decisions.registration import Identity, RegistrationRefusedError
from ottla.cluster.decisions.thread_counts import why_thread_counts_refused
from ottla.cluster.decisions.topic_names import CLUSTER_METADATA_TOPIC, why_invalid
from ottla.cluster.decisions.topics import NewTopic, TopicPlan, plan_growth, plan_topics
from ottla.cluster.duties import Duties, all_partitions, touched_partitions
from ottla.cluster.ends import EndsReporter
from ottla.cluster.image import (
    BROKERS,
    CLIENT_METRICS,
    DEFAULT_ENTITY,
    GROUPS,
    TOPICS,
    ClusterImage,
    ConfigResource,
    Endpoint,
    ImageDelta,
    LogEnd,
    PartitionImage,
    TopicImage,
)
from ottla.cluster.nodes import CONTROLLER_EPOCH, BrokerEpochNode
from ottla.cluster.office import Office
from ottla.cluster.preparation import (
    ForeignTreeError,
    InconsistentClusterIdError,
    NewerTreeError,
    check_ours,
    cluster_id_of,
    prepare_tree,
)
from ottla.cluster.registration import Registration, free_id
from ottla.cluster.settings_writer import SettingsWriter, TryOut, untried
from ottla.cluster.state_writer import NewState, StateWriter, Written
from ottla.cluster.topic_writer import TopicWriter
from ottla.cluster.tree import BadVersionError, RequestTooLargeError, Tree, TreeError, TreeUnavailableError
from ottla.config import ConfigError
from ottla.config.effective import Levels, broker_value, topic_setting
from ottla.errors import (
    CoordinatorLoadInProgressError,
    ErrorCode,
    InvalidRequestError,
    KafkaError,
    KafkaStorageError,
    NotControllerError,
)
from ottla.types import TopicPartition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from random import Random

    from ottla.clock import Clock
    from ottla.cluster.follow import MetadataFollower
    from ottla.security.acls import Binding

logger = logging.getLogger(__name__)

__all__ = [
    "Controller",
    "ControllerSettings",
    "ForeignTreeError",
    "InconsistentClusterIdError",
    "NewTopic",
    "NewerTreeError",
    "RegistrationRefusedError",
    "TopicResult",
    "check_ours",
    "cluster_id_of",
    "prepare_tree",
]

#: Pause before the controller tries again what it could not do.
RETRY_SECONDS = 0.5
#: How often topics are planned again because brokers came or went while they were made.
PLANS_MAX = 3
#: How long an answer about a new topic waits for its logs at most.
SETTLED_SECONDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicResult:
    """What became of one topic. `error` NONE: done (or, validate only: could be done)."""

    name: str | None
    topic_id: bytes = bytes(16)
    error: ErrorCode = ErrorCode.NONE
    message: str | None = None
    num_partitions: int = -1
    replication_factor: int = -1
    configs: Mapping[str, str] = field(default_factory=dict)


class Controller:
    """Registers this broker, becomes controller where it can, serves what handlers ask.

    Args:
        tree: the first session; `begin_session` gives the next ones.
        follower: started; its image is what decisions are made on.
        random: for placement and topic ids.
        secret_bytes: for the text by which other brokers know this process, and which no client must guess.
        check_broker_config: raises ConfigError if dynamic settings (for this broker, for all) do not fit together.
        try_out: see `SettingsWriter`.
        settled: waits until the logs that this broker holds of these topics have been made; a topic is answered for then,
            or after `SETTLED_SECONDS`: a disk that hangs holds up no answer for longer.
        log_end: where the log of a partition ends here; None if it has none.
        is_clock_right: whether what is old by the wall clock may be removed.
    """

    def __init__(
        self,
        tree: Tree,
        follower: MetadataFollower,
        settings: ControllerSettings,
        *,
        random: Random,
        secret_bytes: Callable[[int], bytes],
        clock: Clock,
        check_broker_config: Callable[[Mapping[str, str], Mapping[str, str]], object] = lambda broker, default: None,
        try_out: TryOut = untried,
        settled: Callable[[Sequence[str]], Awaitable[None]] | None = None,
        log_end: Callable[[TopicPartition], LogEnd | None] = lambda topic_partition: None,
        is_clock_right: Callable[[], bool] = lambda: True,
        partitions_per_multi: int = PARTITIONS_PER_MULTI,
        changes_kept: int = CHANGES_KEPT,
    ) -> None:
        self._follower = follower
        self._settings = settings
        self._random = random
        self._check_broker_config = check_broker_config
        self._settled = settled
        self._turn = asyncio.Lock()
        self._news = asyncio.Event()
        #: What to look at, None for everything.
        self._touched: set[tuple[str, int]] | None = set()
        process = secret_bytes(16).hex()
        self._identity = Identity(node_id=settings.node_id, endpoints=(), rack=settings.rack, process=process)
        self._log = ChangeLog(tree, follower, clock, partitions_per_multi=partitions_per_multi, kept=changes_kept)
        self.registration = Registration(lambda: self._identity, clock)
        self._office = Office(self._log, self.registration, clock)
        self._topics = TopicWriter(
            self._log, self.registration, clock, on_unfinished=self._look_at_everything, is_clock_right=is_clock_right
        )
        self._settings_writer = SettingsWriter(self._log, self.registration, try_out)
        self._acl_writer = AclWriter(self._log, self.registration)
        self._duties = Duties(
            self._log,
            follower,
            self._office,
            self._topics,
            min_isr=self.min_isr,
            is_unclean_allowed=lambda topic: bool(self._topic_setting("unclean.leader.election.enable", topic)),
            internal_replicas=lambda topic: internal_replicas(topic, settings),
            internal_min_isr=lambda topic: internal_min_isr(topic, settings),
            set_min_isr=self._set_min_isr,
        )
        self._ends = EndsReporter(self._log, self.registration, log_end)
        self._tasks: list[asyncio.Task[None]] = []
        self._stop_following: Callable[[], None] | None = None

    @property
    def image(self) -> ClusterImage:
        return self._follower.image

    @property
    def epoch(self) -> int:
        """The epoch in which this broker is the controller, 0 if it is not."""
        return self._office.epoch if self._office.is_held else 0

    @property
    def elections(self) -> tuple[int, int]:
        """How many leaders this broker has elected as the controller, and how many of these elections were unclean."""
        return self._duties.elections, self._duties.unclean_elections

    @property
    def broker_epoch(self) -> int:
        """The epoch under which this broker is registered, -1 before `start`."""
        return self.registration.epoch

    @property
    def process(self) -> str:
        """The random text of this process that its registration has."""
        return self._identity.process

    @property
    def levels(self) -> Levels:
        """This broker's settings, static and dynamic."""
        return Levels(
            static=self._settings.static,
            default=self.image.config(BROKERS, DEFAULT_ENTITY),
            broker=self.image.config(BROKERS, str(self._settings.node_id)),
        )

    def min_isr(self, topic: str) -> int:
        """Return min.insync.replicas of a topic."""
        value = self._topic_setting("min.insync.replicas", topic)
        assert isinstance(value, int)
        return value

    def _topic_setting(self, name: str, topic: str) -> object:
        return topic_setting(name, self.image.topic_config(topic), self.levels)

    # -- start, sessions, stop

    async def start(
        self,
        endpoints: Sequence[Endpoint],
        *,
        clean: bool = False,
        found: Sequence[FoundPartition] | None = None,
        keep_everything: bool = True,
        directories: Sequence[str] = (),
        page_cache: str = "",
        machine: str = "",
        listener: str = "",
    ) -> tuple[str, ...]:
        """Register this broker; become controller if there is none, and give every partition a leader that needs one.

        Args:
            endpoints: where clients and brokers reach this one.
            clean: the last stop was a clean one, so what was in sync still is.
            found: the partition directories, if the tree was just made although data directories are not empty.
            keep_everything: topics rebuilt from `found` delete nothing until their settings are given again; False: the
                broker's defaults are known to be right for them.
            directories: ids of the log directories.
            page_cache: which page cache unsynced writes are in, see BrokerEpoch.
            machine, listener: see BrokerImage.

        Returns:
            Sentences about what was odd while topics were rebuilt from `found`.

        Raises:
            RegistrationRefusedError: the broker id or an address is taken.
            TreeUnavailableError: the tree cannot be reached.
        """
        notes: tuple[str, ...] = ()
        async with self._turn:
            self._identity = replace(
                self._identity,
                endpoints=tuple(endpoints),
                directories=tuple(directories),
                page_cache=page_cache,
                machine=machine,
                listener=listener,
                was_clean=clean or found is not None,
            )
            await self._register()
            if await self._office.try_take():
                if found is not None and not self.image.topics:
                    notes = await self._rebuild(found, keep_everything)
                await self._duties.run()
                await self._log.maybe_purge(now=True)
        self._stop_following = self._follower.subscribe(self._on_image)
        self._look_at_everything()
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._run(), name="controller"),
            loop.create_task(self._rebalance(), name="preferred-leaders"),
        ]
        return notes

    async def _register(self) -> None:
        await self.registration.register(self._log.tree)
        await self._follower.refresh()

    async def _rebuild(self, found: Sequence[FoundPartition], keep_everything: bool) -> tuple[str, ...]:
        rebuilt = rebuild_topics(
            found,
            self._settings.node_id,
            self._random,
            settings=None if keep_everything else {},
            internal_settings=internal_topic_configs(self._settings, len(self.image.brokers)),
        )
        plans = [_admitted_under(plan, self.broker_epoch) for plan in rebuilt.plans]
        await self._topics.create(plans, self.image, fence=self._office.fence(), controller_epoch=self.epoch)
        # Begin far from ids given out before the tree was lost: a second owner of an id would be taken for the first.
        await self._settings_writer.begin_producer_ids_at(self._random.randrange(1 << 32, 1 << 48) // 1000 * 1000)
        return rebuilt.notes

    async def begin_session(self, tree: Tree) -> None:
        """Register anew in the next session; the one before has ended, and with it the office if this broker held it.

        Raises:
            RegistrationRefusedError: the broker id or an address is taken by now.
            TreeUnavailableError: the tree cannot be reached; call it again, with the same session or another one.
        """
        self._office.leave()
        self._log.tree = tree
        self._follower.use(tree)
        await self._register()
        self._look_at_everything()

    def end_session(self) -> None:
        """Note that the session has ended: the office, if this broker held it, is another's from now on."""
        if self._office.is_held:
            logger.warning("broker %d is no longer the controller: its session has ended", self._settings.node_id)
        self._office.leave()

    async def stop(self) -> None:
        """Do nothing more for others."""
        if self._stop_following is not None:
            self._stop_following()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def hand_over(self, seconds: float) -> bool:
        """Say that this broker is about to stop, and wait until others lead what they can. Return whether they do.

        Nothing is waited for as long as no other broker is registered.
        """
        if not self.image.brokers.keys() - {self._settings.node_id}:
            return True
        try:
            async with asyncio.timeout(seconds):
                await self.registration.begin_stop(self._log.tree)
                while True:
                    image = await self._follower.refresh()
                    if not _led_where_others_can(image, self._settings.node_id):
                        return True
                    await self._follower.applied(image.epoch + 1)
        except (TimeoutError, TreeError, TreeUnavailableError) as error:
            logger.warning("not all leadership was given to others before the stop: %s", error or "it took too long")
            return False

    # -- duties

    def _on_image(self, image: ClusterImage, delta: ImageDelta) -> None:
        if self._touched is not None:
            if delta.brokers_changed or delta.changed_configs:
                self._touched = None
            else:
                self._touched.update((topic.name, index) for topic, index in touched_partitions(image, delta))
        self._news.set()

    def _look_at_everything(self) -> None:
        self._touched = None
        self._news.set()

    async def _run(self) -> None:
        """Take the office when it is free; as long as it is held, look after each change at what it touched."""
        while True:
            await self._news.wait()
            self._news.clear()
            touched, self._touched = self._touched, set()
            try:
                if touched is None or touched:
                    await self._ends.report(
                        self.image, all_partitions(self.image) if touched is None else _found(self.image, touched)
                    )
                    await self._topics.finish_creations(
                        self.image, fence=self.registration.fence(), controller_epoch=self._office.epoch, own=True
                    )
                if not self._office.is_held:
                    # This broker's own id: the office was taken, and the answer was lost.
                    if (
                        self.image.controller_id not in (-1, self._settings.node_id)
                        or not await self._office.try_take()
                    ):
                        continue
                    logger.info("broker %d is the controller now", self._settings.node_id)
                    touched = None
                await self._duties.run(None if touched is None else _found(self.image, touched))
            except NotControllerError:
                continue
            except BadVersionError as error:
                if error.path == CONTROLLER_EPOCH:
                    self._office.leave()
                    logger.warning("broker %d is no longer the controller", self._settings.node_id)
                else:
                    await self._try_later(error)
            except TreeUnavailableError as error:
                await self._try_later(error)
            except Exception as error:
                logger.exception("the controller cannot do what is to be done")
                await self._try_later(error)

    async def _try_later(self, error: Exception) -> None:
        logger.debug("the controller tries again: %s", error)
        await asyncio.sleep(RETRY_SECONDS)
        self._look_at_everything()

    async def _rebalance(self) -> None:
        """Now and then give partitions back to their preferred leaders."""
        while True:
            await asyncio.sleep(max(1, _number(broker_value("leader.imbalance.check.interval.seconds", self.levels))))
            if not self._office.is_held or not broker_value("auto.leader.rebalance.enable", self.levels):
                continue
            try:
                await self._duties.elect_preferred()
            except (KafkaError, BadVersionError, TreeUnavailableError) as error:
                logger.debug("no leadership was given back: %s", error)

    # -- what handlers ask

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        """One request at a time; what keeps the tree from being written becomes an answer for the client.

        Raises:
            KafkaStorageError: the tree cannot be used now; whether the change was made is unknown.
            NotControllerError: another broker has become controller.
            InvalidRequestError: what would have to be written is too large for the tree; nothing was changed.
        """
        async with self._turn:
            try:
                yield
            except TreeUnavailableError as error:
                raise KafkaStorageError(str(error)) from error
            except RequestTooLargeError as error:
                raise InvalidRequestError(f"This is too large for the coordination tree: {error}.") from error
            except BadVersionError as error:
                if error.path == CONTROLLER_EPOCH:
                    self._office.leave()
                    raise NotControllerError("another broker has become controller") from error
                if error.path == BrokerEpochNode.path(self._settings.node_id):
                    raise KafkaStorageError("this broker is being registered anew") from error
                raise

    async def create_topics(self, topics: Sequence[NewTopic], *, validate_only: bool = False) -> list[TopicResult]:
        """Make the topics that can be made. Names must be unique among them."""
        results: dict[str, TopicResult] = {}
        async with self._serving():
            left = list(topics)
            for attempt in range(PLANS_MAX):
                plans = plan_topics(
                    self.image,
                    left,
                    num_partitions=self._settings.num_partitions,
                    replication_factor=self._settings.default_replication_factor,
                    levels=self.levels,
                    random=self._random,
                )
                possible = [plan for plan in plans if isinstance(plan, TopicPlan)]
                outcome: Mapping[str, Refusal | None] = {}
                if possible and not validate_only:
                    if self._office.is_held and not await self._topics.are_free([plan.name for plan in possible]):
                        await self._topics.finish_deletions(fence=self._office.fence())  # one that was interrupted
                    outcome = await self._topics.create(
                        possible, self.image, fence=self.registration.fence(), controller_epoch=self._office.epoch
                    )
                for topic, plan in zip(left, plans, strict=True):
                    why = plan if isinstance(plan, Refusal) else outcome.get(topic.name)
                    results[topic.name] = (
                        TopicResult(name=topic.name, error=why.error, message=why.message)
                        if why is not None
                        else _result_of(plan)
                        if isinstance(plan, TopicPlan)
                        else TopicResult(name=topic.name)
                    )
                left = [t for t in left if results[t.name].error is ErrorCode.REQUEST_TIMED_OUT]
                if not left or attempt + 1 == PLANS_MAX:
                    break
                await self._follower.refresh()
        if not validate_only:
            await self._wait_for_logs([name for name, result in results.items() if not result.error])
        return [results[topic.name] for topic in topics]

    async def _wait_for_logs(self, topics: Sequence[str]) -> None:
        """Wait until a client that asks next can produce here. No other request waits meanwhile."""
        if self._settled is None or not topics:
            return
        try:
            async with asyncio.timeout(SETTLED_SECONDS):
                await self._settled(topics)
        except TimeoutError:
            logger.warning("the logs of %s are not all made after %d s", ", ".join(topics), SETTLED_SECONDS)

    async def ensure_topic(self, name: str) -> TopicResult:
        """Make a topic with the broker's defaults if it does not exist: for Metadata, and for internal topics.

        Internal topics get Kafka's settings, and as many replicas as configured but never more than brokers are alive.
        """
        topic = self.image.topics.get(name)
        if topic is None:
            if name == CLUSTER_METADATA_TOPIC:
                return TopicResult(name=name, error=ErrorCode.INVALID_TOPIC_EXCEPTION)
            try:
                result = (await self.create_topics([default_topic(name, self._settings, len(self.image.brokers))]))[0]
            except KafkaError as error:
                return TopicResult(name=name, error=error.code, message=error.message)
            # Somebody else may have made it meanwhile: all the better.
            topic = self.image.topics.get(name)
            if topic is None:
                return result
        return TopicResult(
            name=name,
            topic_id=topic.topic_id,
            num_partitions=len(topic.partitions),
            replication_factor=len(topic.partitions[0].replicas),
        )

    async def delete_topics(self, names: Sequence[str]) -> list[TopicResult]:
        """Delete topics and their settings: once /deleted names a topic it is gone, and its nodes are taken away after."""
        async with self._serving():
            found = {name: self.image.topics[name] for name in names if name in self.image.topics}
            if found:
                await self._topics.delete(found.values(), self.image, fence=self._office.fence())
        return [
            TopicResult(name=name, topic_id=found[name].topic_id)
            if name in found
            else TopicResult(name=name, error=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
            for name in names
        ]

    async def create_partitions(
        self, name: str, count: int, assignments: Sequence[Sequence[int]] | None = None, *, validate_only: bool = False
    ) -> TopicResult:
        """Grow a topic to `count` partitions."""
        async with self._serving():
            plan = plan_growth(self.image, name, count, assignments, self._random)
            refusal = plan if isinstance(plan, Refusal) else None
            if not isinstance(plan, Refusal) and not validate_only:
                topic = self.image.topics[name]
                refusal = await self._topics.grow(
                    topic, plan, fence=self.registration.fence(), controller_epoch=self._office.epoch
                )
            if refusal is not None:
                return TopicResult(name=name, error=refusal.error, message=refusal.message)
        if not validate_only:
            await self._wait_for_logs([name])
        return TopicResult(name=name, num_partitions=count)

    async def incremental_alter_configs(
        self, resource: ConfigResource, alterations: Sequence[Alteration], *, validate_only: bool = False
    ) -> Refusal | None:
        """Change single keys of one resource. Returns None if it was done."""
        refusal = check_request(alterations)
        if refusal is not None:
            return refusal
        async with self._serving():
            return await self._settings_writer.alter(
                resource, alterations, lambda changed: self._validate(resource, changed), validate_only=validate_only
            )

    async def alter_configs(
        self, resource: ConfigResource, configs: Sequence[tuple[str, str | None]], *, validate_only: bool = False
    ) -> Refusal | None:
        """Replace all overrides of one resource (the old way). Returns None if it was done."""
        refusal = check_request([Alteration(name, 0, value) for name, value in configs])
        if refusal is not None:
            return refusal
        async with self._serving():
            changed = {name: value for name, value in configs if value is not None}
            return await self._settings_writer.replace(
                resource, changed, lambda config: self._validate(resource, config), validate_only=validate_only
            )

    async def alter_entity(
        self,
        resource: ConfigResource,
        alterations: Sequence[Alteration],
        check: Callable[[Mapping[str, str]], Refusal | None] = lambda changed: None,
    ) -> Refusal | None:
        """Change what is kept of a user, a client id, both together or an address; `check` sees all of it. None: done."""
        async with self._serving():
            return await self._settings_writer.alter(resource, alterations, check, validate_only=False)

    async def create_acls(self, bindings: Sequence[Binding]) -> None:
        """Add access rules; those that are there already stay."""
        async with self._serving():
            await self._acl_writer.create(bindings)

    async def delete_acls(self, bindings: Sequence[Binding]) -> None:
        """Take access rules away."""
        async with self._serving():
            await self._acl_writer.delete(bindings)

    async def elect_leader(self, topic_partition: TopicPartition, election_type: int) -> Refusal | None:
        """Move leadership on request. Returns None if it was done."""
        async with self._serving():
            self._office.fence()
            image = self.image
            partition = elect_on_request(image, topic_partition, election_type)
            if isinstance(partition, Refusal):
                return partition
            outcome = await self._duties.write(image, {topic_partition: partition})
            if outcome[topic_partition] is Written.DONE:
                return None
            return Refusal(ErrorCode.REQUEST_TIMED_OUT, "The partition changed at the same time.")

    async def _set_min_isr(self, topic: str, min_isr: int) -> None:
        resource = ConfigResource(TOPICS, topic)
        alteration = Alteration("min.insync.replicas", 0, str(min_isr))
        refusal = await self._settings_writer.alter(
            resource, [alteration], lambda changed: self._validate(resource, changed), validate_only=False
        )
        if refusal is not None:
            logger.warning("min.insync.replicas of %s stays: %s", topic, refusal.message)

    async def reassign(
        self, targets: Mapping[TopicPartition, Sequence[int] | None], *, may_change_count: bool = True
    ) -> dict[TopicPartition, Refusal | None]:
        """Begin to move partitions to other replicas, or take that back (None). Returns None for each that was done."""
        async with self._serving():
            self._office.fence()
            image = self.image
            plans = {
                topic_partition: plan_reassignment(
                    image,
                    topic_partition,
                    target,
                    may_change_count=may_change_count,
                )
                for topic_partition, target in targets.items()
            }
            moves = {tp: plan for tp, plan in plans.items() if not isinstance(plan, Refusal)}
            outcome = await self._duties.move(image, moves)
        return {tp: plan if isinstance(plan, Refusal) else outcome[tp] for tp, plan in plans.items()}

    async def unregister(self, node_id: int) -> Refusal | None:
        """Free the id of a broker that is gone, for one with other log directories. Returns None if it was done."""
        async with self._serving():
            self._office.fence()
            if node_id in self.image.brokers:
                sentence = f"Broker {node_id} is running: stop it first."
                return Refusal(ErrorCode.INVALID_REQUEST, sentence)
            if not await free_id(self._log, node_id, fence=self._office.fence()):
                return Refusal(ErrorCode.BROKER_ID_NOT_REGISTERED, f"Broker ID {node_id} is not currently registered")
        return None

    async def update_features(self, updates: Sequence[FeatureUpdate], *, validate_only: bool = False) -> Refusal | None:
        """Give features other levels, all of them or none. Returns None if it was done."""
        async with self._serving():
            return await self._settings_writer.update_features(updates, validate_only=validate_only)

    async def update_partitions(
        self, partitions: Mapping[TopicPartition, PartitionImage]
    ) -> dict[TopicPartition, ErrorCode]:
        """Write leaders and ISRs decided elsewhere, if `partition_epoch` still is what the decision was made on."""
        results: dict[TopicPartition, ErrorCode] = {}
        async with self._serving():
            image = self.image
            states: dict[TopicPartition, NewState] = {}
            for topic_partition, partition in partitions.items():
                topic = image.topics.get(topic_partition.topic)
                now = image.partition(topic_partition)
                if topic is None or now is None:
                    results[topic_partition] = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
                elif now.partition_epoch != partition.partition_epoch:
                    results[topic_partition] = ErrorCode.INVALID_UPDATE_VERSION
                else:
                    states[topic_partition] = NewState(topic_id=topic.topic_id, partition=partition, relies_on={})
            outcome = await StateWriter(self._log).write(
                states, fence=self._office.fence(), controller_epoch=self._office.epoch
            )
            codes = {
                Written.DONE: ErrorCode.NONE,
                Written.CONFLICT: ErrorCode.INVALID_UPDATE_VERSION,
                Written.GONE: ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
            }
            results |= {topic_partition: codes[result] for topic_partition, result in outcome.items()}
        return results

    async def write_states(self, states: Mapping[TopicPartition, NewState]) -> dict[TopicPartition, Written]:
        """Write states that this broker has decided as the leader of their partitions.

        Raises:
            TreeError: this broker has been registered anew.
            TreeUnavailableError: of what is not in the tree after a `sync` it is unknown whether it was written.
        """
        return await StateWriter(self._log).write(
            states, fence=self.registration.fence(), controller_epoch=self._office.epoch
        )

    async def allocate_producer_ids(self) -> range:
        """Return a block of 1,000 producer ids that no other broker has or will get.

        Raises:
            CoordinatorLoadInProgressError: the tree cannot be used now (what Apache Kafka answers without its controller).
        """
        try:
            return await self._settings_writer.allocate_producer_ids()
        except TreeUnavailableError as error:
            logger.warning("no producer id can be given: the coordination tree cannot be used: %s", error)
            raise CoordinatorLoadInProgressError(
                f"the broker has no producer ids left and gets none: {error}"
            ) from error

    def _validate(self, resource: ConfigResource, changed: Mapping[str, str]) -> Refusal | None:
        kind, name = resource
        if kind == TOPICS:
            if not name:
                return Refusal(ErrorCode.INVALID_REQUEST, "Default topic resources are not allowed.")
            invalid = why_invalid(name)
            if invalid is not None:
                return Refusal(ErrorCode.INVALID_TOPIC_EXCEPTION, invalid)
            refusal = validate_topic_config(changed, self.levels)
            if refusal is None and name not in self.image.topics:
                refusal = Refusal(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"The topic '{name}' does not exist.")
            return refusal
        if kind == GROUPS:
            return validate_group_config(name, changed, self.levels)
        if kind == CLIENT_METRICS:
            return validate_client_metrics_config(name, changed)
        assert kind == BROKERS
        refusal = validate_broker_config(changed, per_broker=name != DEFAULT_ENTITY)
        if refusal is None:
            before = self.levels
            if name == DEFAULT_ENTITY:
                after = replace(before, default=changed)
            else:
                after = replace(before, broker=changed)
            try:
                self._check_broker_config(after.broker, after.default)
                why = why_thread_counts_refused(before, after)
            except ConfigError as error:
                why = str(error)
            refusal = None if why is None else Refusal(ErrorCode.INVALID_REQUEST, why)
        return refusal


def _admitted_under(plan: TopicPlan, broker_epoch: int) -> TopicPlan:
    partitions = tuple(p._replace(isr_epochs=(broker_epoch,) * len(p.isr)) for p in plan.partitions)
    return replace(plan, partitions=partitions)


def _found(image: ClusterImage, partitions: Iterable[tuple[str, int]]) -> list[tuple[TopicImage, int]]:
    topics = image.topics
    return [(topics[n], i) for n, i in sorted(partitions) if n in topics and i < len(topics[n].partitions)]


def _led_where_others_can(image: ClusterImage, node_id: int) -> bool:
    """Return whether a broker that stops still leads what another member of the ISR could lead."""
    return any(
        partition.leader == node_id
        and any(n in image.brokers and n != node_id and not image.brokers[n].is_stopping for n in partition.isr)
        for _, partition in image.partitions_on(node_id)
    )


def _number(value: object) -> int:
    assert isinstance(value, int)
    return value


def _result_of(plan: TopicPlan) -> TopicResult:
    return TopicResult(
        name=plan.name,
        topic_id=plan.topic_id,
        num_partitions=len(plan.partitions),
        replication_factor=len(plan.partitions[0].replicas),
        configs=plan.configs,
    )
