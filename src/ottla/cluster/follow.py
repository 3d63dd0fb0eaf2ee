"""MetadataFollower: follows the tree and turns its changes into cluster images.

Every broker has one. It watches the children of /changes, reads the change nodes that are new, reads again the nodes they
name, builds the next ClusterImage and tells subscribers (image, delta), on the loop, in order. A broker that fell behind
the purge of /changes reads everything again. Brokers and the controller are ephemeral nodes, which vanish without a change
node: their parents are watched as well.

Watches are hints that may get lost, so a third of the session timeout after the last look it looks anyway. In a new session
it looks after a `sync`, and goes on from the number it has.

Invariant: `image.epoch` is the number of the last change applied, and never goes back. If the numbers in the tree do, or
/changes is another node than before, this is not the tree that was followed (a backup was put in its place): then nothing
more is believed, and `lost` says why.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from ottla.cluster.image import (
    ClusterImage,
    ConfigResource,
    ImageDelta,
    PartitionImage,
    TopicImage,
    brokers_differ,
    delta_between,
    differing,
    newest,
)
from ottla.cluster.loading import (
    load_acls,
    load_brokers,
    load_configs,
    load_features,
    load_image,
    load_states,
    load_topics,
)
from ottla.cluster.nodes import BROKER_IDS, CHANGES, Change, ChangeNode, DeletedNode, merge_changes
from ottla.cluster.tree import SessionState, Tree, TreeUnavailableError

logger = logging.getLogger(__name__)

Subscriber = Callable[[ClusterImage, ImageDelta], Awaitable[None] | None]
"""Gets the next image before anybody else sees it. While an awaitable is waited for, the old image stays in force."""

#: Pause before the tree is read again after it could not be.
RETRY_SECONDS = 0.5


class MetadataFollower:
    """Keeps `image` up to date. `start()` loads everything; from then on changes are followed.

    Attributes:
        lost: resolves with one sentence when the tree is not the one that was followed before.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.image = ClusterImage()
        self.lost: asyncio.Future[str] | None = None
        self._subscribers: list[Subscriber] = []
        self._news = asyncio.Event()
        self._brokers_news = False
        self._must_sync = False
        self._waiting: list[tuple[int, asyncio.Future[ClusterImage]]] = []
        self._refreshing: list[asyncio.Future[ClusterImage]] = []
        self._stop_watching: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None
        self._changes_id: int | None = None
        self._is_interrupted = False

    async def start(self) -> None:
        """Load the whole image and follow changes from there. Subscribers get the first image as one delta.

        Raises:
            BadNodeError: a node contains something else than it should.
            TreeUnavailableError: the tree cannot be read.
        """
        self.lost = asyncio.get_running_loop().create_future()
        self._watch()
        await self._tree.sync()
        node = (await self._tree.get_many([CHANGES]))[0]
        self._changes_id = None if node is None else node.stat.czxid
        await self._publish(await load_image(self._tree))
        self._task = asyncio.get_running_loop().create_task(self._follow(), name="metadata-follower")

    def use(self, tree: Tree) -> None:
        """Follow in another session from now on."""
        for stop in self._stop_watching:
            stop()
        self._tree = tree
        self._watch()
        self._must_sync = self._brokers_news = True
        self._news.set()

    def _watch(self) -> None:
        self._stop_watching = [
            self._tree.watch_children(CHANGES, self._news.set),
            self._tree.watch_children(BROKER_IDS, self._on_brokers),
            self._tree.watch_children("/", self._on_brokers),
            self._tree.watch_state(self._on_state),
        ]

    def _on_state(self, state: SessionState) -> None:
        if state is SessionState.ENDED:
            self._fail_waiting("the session with the coordination tree has ended")

    async def stop(self) -> None:
        """Follow no more. What waits in `applied` fails: the tree is unavailable."""
        for stop in self._stop_watching:
            stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._fail_waiting("the broker stops")

    def _fail_waiting(self, why: str) -> None:
        waiting = [*(future for _, future in self._waiting), *self._refreshing]
        self._waiting, self._refreshing = [], []
        for future in waiting:
            if not future.done():
                future.set_exception(TreeUnavailableError(why))

    async def refresh(self) -> ClusterImage:
        """Return an image of everything, brokers included, that was in the tree when this was called.

        Raises:
            TreeUnavailableError: the session ends before.
        """
        future: asyncio.Future[ClusterImage] = asyncio.get_running_loop().create_future()
        self._refreshing.append(future)
        self._must_sync = self._brokers_news = True
        self._news.set()
        return await future

    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        """Call `callback(image, delta)` after every change. Returns a function that ends it.

        The callback must not wait for a change of its own (the controller's methods do): it would wait for itself.
        """
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback) if callback in self._subscribers else None

    async def applied(self, epoch: int) -> ClusterImage:
        """Wait until the image includes change number `epoch`; return it."""
        if self.image.epoch >= epoch:
            return self.image
        future: asyncio.Future[ClusterImage] = asyncio.get_running_loop().create_future()
        self._waiting.append((epoch, future))
        return await future

    def _on_brokers(self) -> None:
        self._brokers_news = True
        self._news.set()

    async def _follow(self) -> None:
        while True:
            await self._hint()
            refreshing, self._refreshing = self._refreshing, []
            try:
                await self._catch_up()
            except TreeUnavailableError as error:
                self._refreshing += refreshing
                if not self._is_interrupted and self._tree.state is not SessionState.ENDED:
                    logger.warning("cannot follow the coordination tree, trying again: %s", error)
                self._is_interrupted = True
                await self._try_later()
            except Exception:
                # A node that cannot be read must not stop the following for good: the next change may mend it.
                logger.exception("cannot apply a change of the coordination tree")
                self._refreshing += refreshing
                await self._try_later(look=False)
            else:
                if self._is_interrupted:
                    self._is_interrupted = False
                    logger.info("following the coordination tree again")
                for future in refreshing:
                    if not future.done():
                        future.set_result(self.image)

    async def _hint(self) -> None:
        """Wait until there may be something new."""
        try:
            async with asyncio.timeout(self._tree.session_timeout_ms / 3000):
                await self._news.wait()
        except TimeoutError:
            self._brokers_news = True  # nothing was told; the watches may have been lost
        self._news.clear()

    async def _try_later(self, *, look: bool = True) -> None:
        self._must_sync = self._brokers_news = True
        await asyncio.sleep(RETRY_SECONDS)
        if self._tree.state is SessionState.ENDED:
            self._fail_waiting("the session with the coordination tree has ended")
        elif look:
            self._news.set()

    async def _catch_up(self) -> None:
        tree = self._tree
        if self._must_sync:
            await tree.sync()
            self._must_sync = False
        brokers_news, self._brokers_news = self._brokers_news, False
        try:
            await self._catch_up_in(tree, brokers_news)
        except BaseException:
            self._brokers_news = self._brokers_news or brokers_news
            raise

    async def _catch_up_in(self, tree: Tree, brokers_news: bool) -> None:
        node = (await tree.get_many([CHANGES]))[0] if brokers_news else None
        numbers = sorted(ChangeNode.number(name) for name in await tree.children(CHANGES))
        if node is not None and not self._is_same_tree(node.stat.czxid, numbers):
            return
        new = [number for number in numbers if number > self.image.epoch]
        if new and new[0] > self.image.epoch + 1:
            await self._publish(self._newest(await load_image(tree)))
            return
        paths = [ChangeNode.path(number) for number in new]
        found = await tree.get_many(paths)
        changes = [ChangeNode.decode(p, node.data)[0] for p, node in zip(paths, found, strict=True) if node]
        if len(changes) < len(paths):  # purged while we were reading
            await self._publish(self._newest(await load_image(tree)))
            return
        change = merge_changes([*changes, Change(brokers=brokers_news)])
        epoch = new[-1] if new else self.image.epoch
        await self._publish(*await self._read_again(change, epoch))

    def _newest(self, image: ClusterImage) -> ClusterImage:
        before = self.image.topics
        return replace(image, topics={name: newest(before.get(name), topic) for name, topic in image.topics.items()})

    def _is_same_tree(self, changes_id: int, numbers: list[int]) -> bool:
        """Return whether this is the tree that was followed before, and say so in `lost` if it is not."""
        assert self.lost is not None
        if self._changes_id is None:
            self._changes_id = changes_id
        if changes_id == self._changes_id and (not numbers or numbers[-1] >= self.image.epoch):
            return True
        if not self.lost.done():
            self.lost.set_result(
                "the coordination tree is not the one that this broker followed: its log of changes has gone back"
            )
        return False

    async def _read_again(self, change: Change, epoch: int) -> tuple[ClusterImage, ImageDelta]:
        """Read the nodes a change names; return the image with them, and what really differs."""
        before = self.image
        topics = dict(before.topics) if change.topics or change.partitions else before.topics
        names = dict(before.topic_names) if change.topics else before.topic_names
        created: list[str] = []
        deleted: list[TopicImage] = []
        changed: dict[str, tuple[int, ...]] = {}
        gone: set[bytes] = set()
        for name, new in (await load_topics(self._tree, change.topics)).items():
            old = before.topics.get(name)
            assert isinstance(topics, dict)
            assert isinstance(names, dict)
            if old is not None and (new is None or new.topic_id != old.topic_id):
                deleted.append(old)
                gone.add(old.topic_id)
                names.pop(old.topic_id, None)
                topics.pop(name)
            if new is not None:
                new = newest(old, new)
                topics[name] = new
                names[new.topic_id] = name
                if old is None or old.topic_id != new.topic_id:
                    created.append(name)
                elif old != new:
                    changed[name] = differing(old, new)
        if change.partitions:
            assert isinstance(topics, dict)
            for name, indexes in (await self._read_states(change, topics)).items():
                changed[name] = tuple(sorted({*changed.get(name, ()), *indexes}))
        configs, changed_configs = await self._read_configs(change)
        deleted_ids = before.deleted
        if gone:
            paths = [DeletedNode.path(topic_id) for topic_id in gone]
            notes = await self._tree.get_many(paths)
            deleted_ids |= {topic_id for topic_id, node in zip(gone, notes, strict=True) if node is not None}
        image = replace(
            before,
            topics=topics,
            topic_names=names,
            configs=configs,
            epoch=max(epoch, before.epoch),
            deleted=deleted_ids,
        )
        if change.brokers:
            found = await load_brokers(self._tree)
            image = replace(
                image,
                brokers=found.brokers,
                controller_id=found.controller_id,
                unfit=found.unfit,
                ends=found.ends,
            )
        if change.features:
            levels, features_epoch = await load_features(self._tree)
            image = replace(image, features=levels, features_epoch=features_epoch)
        if change.acls:
            changed_rules = await load_acls(self._tree, change.acls)
            rules = {pattern: some for pattern, some in {**before.acls, **changed_rules}.items() if some}
            image = replace(image, acls=rules if rules != before.acls else before.acls)
        delta = ImageDelta(
            created=tuple(created),
            deleted=tuple(deleted),
            changed=tuple(changed),
            changed_partitions=changed,
            changed_configs=changed_configs,
            brokers_changed=brokers_differ(before, image),
            features_changed=image.features != before.features,
            acls_changed=image.acls is not before.acls,
        )
        return image, delta

    async def _read_states(self, change: Change, topics: dict[str, TopicImage]) -> dict[str, list[int]]:
        """Read the states a change names, and put the topics with other ones into `topics`.

        Returns the partitions that changed, by topic.

        A topic is built anew once, however many of its partitions changed.
        """
        named = [
            (topics[name], index)
            for name, index in change.partitions
            if name in topics and 0 <= index < len(topics[name].partitions)
        ]
        rebuilt: dict[str, list[PartitionImage]] = {}
        changed: dict[str, list[int]] = {}
        for (name, index), new in (await load_states(self._tree, named)).items():
            old = topics[name].partitions[index]
            if new != old and (new.isr or not old.isr) and new.partition_epoch >= old.partition_epoch:
                rebuilt.setdefault(name, list(topics[name].partitions))[index] = new
                changed.setdefault(name, []).append(index)
        for name, partitions in rebuilt.items():
            topics[name] = topics[name]._replace(partitions=tuple(partitions))
        return changed

    async def _read_configs(
        self, change: Change
    ) -> tuple[Mapping[ConfigResource, Mapping[str, str]], tuple[ConfigResource, ...]]:
        before = self.image.configs
        if not change.configs:
            return before, ()
        resources = [ConfigResource(kind, name) for kind, name in change.configs]
        found = await load_configs(self._tree, resources)
        configs = {r: c for r, c in {**before, **found}.items() if c}
        return configs, tuple(r for r in found if configs.get(r) != before.get(r))

    async def _publish(self, image: ClusterImage, delta: ImageDelta | None = None) -> None:
        if delta is None:
            delta = delta_between(self.image, image)
        if not delta.is_empty:
            for subscriber in list(self._subscribers):
                await _tell(subscriber, image, delta)
        self.image = image
        still_waiting: list[tuple[int, asyncio.Future[ClusterImage]]] = []
        for epoch, future in self._waiting:
            if epoch > image.epoch:
                still_waiting.append((epoch, future))
            elif not future.done():
                future.set_result(image)
        self._waiting = still_waiting


async def _tell(subscriber: Subscriber, image: ClusterImage, delta: ImageDelta) -> None:
    """Call one subscriber; an error there is logged, and the others are called all the same."""
    try:
        result = subscriber(image, delta)
        if result is not None:
            await result
    except Exception:
        logger.exception("a change of the cluster could not be followed completely")
