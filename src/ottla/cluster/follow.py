"""MetadataFollower: follows the tree and turns its changes into cluster images.

Every broker has one. It keeps one children-watch on /changes, reads the change nodes that are new, reads again the nodes they
name, builds the next ClusterImage and tells subscribers (image, delta), on the loop, in order. A broker that fell behind the
purge of /changes reads everything again. Brokers and the controller are ephemeral nodes, which vanish without a change node:
their parents are watched as well.

Invariant: `image.epoch` is the number of the last change applied, and never goes back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from ottla.cluster.image import ClusterImage, ConfigResource, ImageDelta, PartitionImage, TopicImage, delta_between
from ottla.cluster.loading import load_brokers, load_configs, load_features, load_image, load_states, load_topics
from ottla.cluster.nodes import BROKER_IDS, CHANGES, Change, ChangeNode, merge_changes
from ottla.cluster.tree import Tree, TreeUnavailableError

logger = logging.getLogger(__name__)

Subscriber = Callable[[ClusterImage, ImageDelta], Awaitable[None] | None]
"""Gets the next image before anybody else sees it. While an awaitable is waited for, the old image stays in force."""

#: Pause before the tree is read again after it could not be.
RETRY_SECONDS = 0.5


class MetadataFollower:
    """Keeps `image` up to date. `start()` loads everything; from then on changes are followed."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.image = ClusterImage()
        self._subscribers: list[Subscriber] = []
        self._news = asyncio.Event()
        self._brokers_news = False
        self._waiting: list[tuple[int, asyncio.Future[ClusterImage]]] = []
        self._stop_watching: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load the whole image and follow changes from there. Subscribers get the first image as one delta.

        Raises:
            BadNodeError: a node contains something else than it should.
            TreeUnavailableError: the tree cannot be read.
        """
        self._stop_watching = [
            self._tree.watch_children(CHANGES, self._news.set),
            self._tree.watch_children(BROKER_IDS, self._on_brokers),
            self._tree.watch_children("/", self._on_brokers),
        ]
        await self._publish(await load_image(self._tree))
        self._task = asyncio.get_running_loop().create_task(self._follow(), name="metadata-follower")

    async def stop(self) -> None:
        """Follow no more. Those who wait in `applied` are told that the tree is unavailable."""
        for stop in self._stop_watching:
            stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for _, future in self._waiting:
            if not future.done():
                future.set_exception(TreeUnavailableError("the broker stops"))
        self._waiting.clear()

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
            await self._news.wait()
            self._news.clear()
            try:
                await self._catch_up()
            except TreeUnavailableError as error:
                logger.warning("cannot follow the coordination tree, trying again: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
                self._news.set()
            except Exception:
                # A node that cannot be read must not stop the following for good: the next change may mend it.
                logger.exception("cannot apply a change of the coordination tree")
                await asyncio.sleep(RETRY_SECONDS)

    async def _catch_up(self) -> None:
        brokers_news, self._brokers_news = self._brokers_news, False
        numbers = sorted(ChangeNode.number(name) for name in await self._tree.children(CHANGES))
        new = [number for number in numbers if number > self.image.epoch]
        if new and new[0] > self.image.epoch + 1:
            await self._publish(await load_image(self._tree))
            return
        paths = [f"{CHANGES}/change_{number:010d}" for number in new]
        found = await self._tree.get_many(paths)
        changes = [ChangeNode.decode(p, node.data)[0] for p, node in zip(paths, found, strict=True) if node]
        if len(changes) < len(paths):  # purged while we were reading
            await self._publish(await load_image(self._tree))
            return
        change = merge_changes([*changes, Change(brokers=brokers_news)])
        epoch = new[-1] if new else self.image.epoch
        await self._publish(*await self._read_again(change, epoch))

    async def _read_again(self, change: Change, epoch: int) -> tuple[ClusterImage, ImageDelta]:
        """Read the nodes a change names; return the image with them, and what really differs."""
        before = self.image
        topics = dict(before.topics) if change.topics or change.partitions else before.topics
        names = dict(before.topic_names) if change.topics else before.topic_names
        created: list[str] = []
        deleted: list[TopicImage] = []
        changed: list[str] = []
        for name, new in (await load_topics(self._tree, change.topics)).items():
            old = before.topics.get(name)
            assert isinstance(topics, dict)
            assert isinstance(names, dict)
            if old is not None and (new is None or new.topic_id != old.topic_id):
                deleted.append(old)
                names.pop(old.topic_id, None)
                topics.pop(name)
            if new is not None:
                topics[name] = new
                names[new.topic_id] = name
                if old is None or old.topic_id != new.topic_id:
                    created.append(name)
                elif old.partitions != new.partitions:
                    changed.append(name)
        if change.partitions:
            assert isinstance(topics, dict)
            changed.extend(await self._read_states(change, topics))
        configs, changed_configs = await self._read_configs(change)
        image = replace(before, topics=topics, topic_names=names, configs=configs, epoch=max(epoch, before.epoch))
        if change.brokers:
            brokers, controller_id = await load_brokers(self._tree)
            image = replace(image, brokers=brokers, controller_id=controller_id)
        if change.features:
            levels, features_epoch = await load_features(self._tree)
            image = replace(image, features=levels, features_epoch=features_epoch)
        delta = ImageDelta(
            created=tuple(created),
            deleted=tuple(deleted),
            changed=tuple(dict.fromkeys(changed)),
            changed_configs=changed_configs,
            brokers_changed=image.brokers != before.brokers or image.controller_id != before.controller_id,
            features_changed=image.features != before.features,
        )
        return image, delta

    async def _read_states(self, change: Change, topics: dict[str, TopicImage]) -> list[str]:
        """Read the states a change names, and put the topics with other ones into `topics`; return their names.

        A topic is built anew once, however many of its partitions changed.
        """
        named = [
            (topics[name], index)
            for name, index in change.partitions
            if name in topics and 0 <= index < len(topics[name].partitions)
        ]
        changed: dict[str, list[PartitionImage]] = {}
        for (name, index), new in (await load_states(self._tree, named)).items():
            if new != topics[name].partitions[index]:
                changed.setdefault(name, list(topics[name].partitions))[index] = new
        for name, partitions in changed.items():
            topics[name] = topics[name]._replace(partitions=tuple(partitions))
        return list(changed)

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
        # Only now, so that nobody finds a topic whose logs are still being made.
        self.image = image
        still_waiting: list[tuple[int, asyncio.Future[ClusterImage]]] = []
        for epoch, future in self._waiting:
            if epoch > image.epoch:
                still_waiting.append((epoch, future))
            elif not future.done():
                future.set_result(image)
        self._waiting = still_waiting


async def _tell(subscriber: Subscriber, image: ClusterImage, delta: ImageDelta) -> None:
    """Tell one subscriber; what fails there is its own affair and keeps nobody else from the news."""
    try:
        result = subscriber(image, delta)
        if result is not None:
            await result
    except Exception:
        logger.exception("a change of the cluster could not be followed completely")
